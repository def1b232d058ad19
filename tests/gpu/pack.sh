#!/usr/bin/env bash
# bash tests/gpu/pack.sh [ARCHITECTURES]: builds the program for a machine with an NVIDIA GPU on which nothing can be
# installed, and packs it into one file, build-gpu/ijepa-gpu.tar.xz. The machine needs x86-64 Linux with this one's C
# library or a newer one, NVIDIA's driver and cuBLASLt (from the toolkit or from Python's packages); NCCL, PyTorch and
# compute-sanitizer are used where they are. There, in any folder:
#   tar xJf ijepa-gpu.tar.xz && bash ijepa-gpu/run.sh RESULTS
# ARCHITECTURES as in CMake, "90-real" (H100, H200) by default. IMAGES=FOLDER: JPEG files for the part "real"; without
# it the program draws some. IJEPA_SHARED=FOLDER: recorded steps of the published code, besides the project's own.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
build="build-gpu"
pack=$build/ijepa-gpu
architectures=${1:-90-real}
shared=${IJEPA_SHARED:-$root/../shared}
jobs=$(nproc)
log=$build/build.log
say() { printf 'pack.sh: %s\n' "$*" >&2; }

if [ ! -x /usr/local/cuda/bin/nvcc ] && ! command -v nvcc >/dev/null; then
  say "there is no nvcc here: the plug-in for a GPU can't be built"
  exit 1
fi
mkdir -p "$build"
say "building for $architectures in $build/ (the first time some minutes; $log)"
{
  cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DIJEPA_EMU=OFF -DIJEPA_CUDA_ARCHITECTURES="$architectures" &&
    cmake --build "$build" --parallel "$jobs" --target ijepa ijepa_cuda ops bench_ops
} >"$log" 2>&1 || {
  tail -n 20 "$log" >&2
  exit 1
}

rm -rf "$pack" && mkdir -p "$pack/build/tests" "$pack/lib" "$pack/share" "$pack/recorded" "$pack/images"
programs=(ijepa tests/ops tests/bench_ops)
for file in "${programs[@]}" libijepa_cuda.so libijepa.so.0; do strip -o "$pack/build/$file" "$build/$file"; done
if [ -e "$build/libijepa_mpi.so" ]; then strip -o "$pack/build/libijepa_mpi.so" "$build/libijepa_mpi.so"; fi

# The libraries that they are linked with, but for the C and C++ libraries' own parts.
system='/(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|ld-linux[^/]*)\.so|/libijepa'
for file in "${programs[@]}" libijepa.so.0; do ldd "$build/$file"; done |
  awk '/=> \// { print $3 }' | sort -u | grep -vE "$system" | while read -r file; do cp -L "$file" "$pack/lib/"; done
luaunit=$(find /usr/share/lua /usr/local/share/lua -name luaunit.lua 2>/dev/null | head -n 1)
if [ -n "$luaunit" ]; then cp "$luaunit" "$pack/share/"; else say "there is no luaunit here: the part 'program' will fail"; fi
cjson=$(find /usr/lib /usr/local/lib -name cjson.so -path '*lua/5.1*' 2>/dev/null | head -n 1)
if [ -n "$cjson" ]; then cp -L "$cjson" "$pack/share/"; fi

# What is read at run time.
git ls-files -z lua recipes tests bench | xargs -0 cp --parents -t "$pack"
cp tests/golden/step.safetensors "$pack/recorded/"
for file in "$shared"/conformance/step_*.safetensors; do
  if [ -e "$file" ]; then cp "$file" "$pack/recorded/"; fi
done
images=${IMAGES:-$shared/data/imagenet-sample}
if [ -d "$images" ]; then
  find "$images" -iname '*.jp*g' | sort | head -n 64 | while read -r file; do cp "$file" "$pack/images/"; done
  printf '%s images of %s\n' "$(find "$pack/images" -type f | wc -l)" "$(basename "$images")" >"$pack/images.txt"
else
  "$build/ijepa" -e "require('ijepa.data.scenes').generate { out = '$pack/images', n = 64, test = 8, size = 320 }" \
    >/dev/null
  echo "64 images that the program drew, 320 pixels wide" >"$pack/images.txt"
fi
cp tests/gpu/run.sh tests/gpu/peer.py tests/gpu/table.py "$pack/"
{
  echo "program: $("$build/ijepa" --version 2>/dev/null | head -n 1), commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' and changes')"
  echo "built: $(gcc --version | head -n 1); nvcc $(sed -n 's/^CMAKE_CUDA_COMPILER_VERSION.*=//p;s/.*release \([0-9.]*\).*/\1/p' <("${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}" --version) | tail -n 1), for $architectures"
} >"$pack/version.txt"
tar cJf "$pack.tar.xz" -C "$build" ijepa-gpu
say "$(du -h "$pack.tar.xz" | cut -f1) in $pack.tar.xz; there: tar xJf ijepa-gpu.tar.xz && bash ijepa-gpu/run.sh RESULTS"
