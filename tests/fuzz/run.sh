#!/usr/bin/env bash
# bash tests/fuzz/run.sh SECONDS [TARGET]: runs every tests/fuzz/fuzz_TARGET.c so long, from tests/fuzz/corpus/TARGET, and
# every fuzz_TARGET.lua, which changes whole files by itself, with the address and undefined-behaviour sanitizers. What is
# found new stays in build-fuzz/corpus/TARGET, a file that crashes it, hangs or takes over 1 GB in build-fuzz/.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
seconds=$1 only=${2-}
cmake -S . -B build-fuzz -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Sanitized -DIJEPA_FUZZ=ON -DIJEPA_TESTS=OFF \
  -DCMAKE_C_FLAGS="-O1 -g -fno-sanitize-recover=undefined" -DIJEPA_SANITIZE=address,undefined
build() { cmake --build build-fuzz --parallel "$(nproc)" --target "$1"; }
found=
for source in tests/fuzz/fuzz_${only:-*}.c; do
  [ -e "$source" ] || continue
  found=yes
  target=$(basename "$source" .c) name=${source##*/fuzz_}
  name=${name%.c}
  build "$target"
  mkdir -p "build-fuzz/corpus/$name"
  options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -artifact_prefix="build-fuzz/$name-" -print_final_stats=1)
  [ -e "tests/fuzz/$name.dict" ] && options+=(-dict="tests/fuzz/$name.dict")
  LSAN_OPTIONS=suppressions=$PWD/.ci/leaks.supp:print_suppressions=0 \
    "build-fuzz/$target" "${options[@]}" "build-fuzz/corpus/$name" "tests/fuzz/corpus/$name"
done
for source in tests/fuzz/fuzz_${only:-*}.lua; do
  [ -e "$source" ] || continue
  found=yes
  build ijepa
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 OMP_NUM_THREADS=1 \
    timeout -k 10 "$((seconds + 120))" build-fuzz/ijepa "$source" "$seconds"
done
[ "$found" ] || { echo "there is no tests/fuzz/fuzz_$only" >&2; exit 1; }
