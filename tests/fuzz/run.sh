#!/usr/bin/env bash
# bash tests/fuzz/run.sh SECONDS [TARGET]: runs every tests/fuzz/fuzz_TARGET.c so long, from tests/fuzz/corpus/TARGET, and
# every fuzz_TARGET.lua, which changes whole files by itself, with the address and undefined-behaviour sanitizers. What is
# found new stays in build-fuzz/corpus/TARGET, a file that crashes it, hangs or takes over 1 GB in build-fuzz/.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
seconds=$1 only=${2-}
cmake -S . -B build-fuzz -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Sanitized -DIJEPA_FUZZ=ON -DIJEPA_TESTS=OFF \
  -DCMAKE_C_FLAGS="-O1 -g -fno-sanitize-recover=undefined" -DIJEPA_SANITIZE=address,undefined
sources=()
for source in tests/fuzz/fuzz_${only:-*}.c tests/fuzz/fuzz_${only:-*}.lua; do
  [ -e "$source" ] && sources+=("$source")
done
[ ${#sources[@]} != 0 ] || { echo "there is no tests/fuzz/fuzz_$only" >&2; exit 1; }

target_of() { case $1 in *.lua) echo ijepa ;; *) basename "$1" .c ;; esac; }
targets=()
for source in "${sources[@]}"; do targets+=("$(target_of "$source")"); done
cmake --build build-fuzz --parallel "$(nproc)" --target "${targets[@]}"

fuzz() { # SOURCE
  local name=${1##*/fuzz_} options
  name=${name%.*}
  if [[ $1 == *.lua ]]; then
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 OMP_NUM_THREADS=1 \
      timeout -k 10 "$((seconds + 120))" build-fuzz/ijepa "$1" "$seconds"
    return
  fi
  mkdir -p "build-fuzz/corpus/$name"
  options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -artifact_prefix="build-fuzz/$name-" -print_final_stats=1)
  [ -e "tests/fuzz/$name.dict" ] && options+=(-dict="tests/fuzz/$name.dict")
  LSAN_OPTIONS=suppressions=$PWD/.ci/leaks.supp:print_suppressions=0 \
    "build-fuzz/fuzz_$name" "${options[@]}" "build-fuzz/corpus/$name" "tests/fuzz/corpus/$name"
}

# As many at a time as there are cores; each prints when it is done.
failed=0 running=0
one() {
  local log=build-fuzz/${1##*/}.log status=0
  fuzz "$1" >"$log" 2>&1 || status=$?
  cat "$log"
  [ $status = 0 ] || echo "FAILED: $1, exit code $status"
  return $status
}
for source in "${sources[@]}"; do
  if [ $running -ge "$(nproc)" ]; then
    wait -n || failed=1
    running=$((running - 1))
  fi
  one "$source" &
  running=$((running + 1))
done
while [ $running -gt 0 ]; do
  wait -n || failed=1
  running=$((running - 1))
done
exit $failed
