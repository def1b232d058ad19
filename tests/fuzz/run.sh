#!/usr/bin/env bash
# bash tests/fuzz/run.sh SECONDS [TARGET]: runs every tests/fuzz/fuzz_TARGET.c so long, from tests/fuzz/corpus/TARGET, with
# the address and undefined-behaviour sanitizers. What is found new stays in build-fuzz/corpus/TARGET, a file that crashes
# it, hangs or takes over 1 GB in build-fuzz/.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
seconds=$1 only=${2-}
cmake -S . -B build-fuzz -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Sanitized -DIJEPA_FUZZ=ON -DIJEPA_TESTS=OFF \
  -DCMAKE_C_FLAGS="-O1 -g -fno-sanitize-recover=undefined" -DIJEPA_SANITIZE=address,undefined
for source in tests/fuzz/fuzz_${only:-*}.c; do
  target=$(basename "$source" .c) name=${source##*/fuzz_}
  name=${name%.c}
  cmake --build build-fuzz --parallel "$(nproc)" --target "$target"
  mkdir -p "build-fuzz/corpus/$name"
  options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -artifact_prefix="build-fuzz/$name-" -print_final_stats=1)
  [ -e "tests/fuzz/$name.dict" ] && options+=(-dict="tests/fuzz/$name.dict")
  LSAN_OPTIONS=suppressions=$PWD/.ci/leaks.supp:print_suppressions=0 \
    "build-fuzz/$target" "${options[@]}" "build-fuzz/corpus/$name" "tests/fuzz/corpus/$name"
done
