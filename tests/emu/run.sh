#!/usr/bin/env bash
# tests/emu/run.sh MODE [NAME]: the CUDA kernels on the emulator: the cases of the ops (of those with NAME in their names), the
# emulator's own tests and the planted bugs, in build-emu-MODE. MODE: plain, asan (address, undefined), tsan (threads, small
# cases in several orders), msan (uninitialised memory, small cases; needs clang). Exit 77: CUDA's headers are not here.
set -u
mode=${1:-plain} name=${2-} root=$(cd "$(dirname "$0")/../.." && pwd) with=() failed=0
build=$root/build-emu-$mode
case $mode in
  plain | asan) quick=() orders="0 1" ;;
  tsan) quick=(--quick) orders="0 -1 1" ;;
  msan) quick=(--quick) orders="0 1" with=(-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++) ;;
  *) echo "run.sh plain|asan|tsan|msan [NAME]"; exit 2 ;;
esac
mkdir -p "$build"
cmake -S "$root/tests/emu" -B "$build" -DEMU_MODE="$mode" "${with[@]}" >"$build/build.log" 2>&1 &&
  cmake --build "$build" --parallel "$(nproc)" >>"$build/build.log" 2>&1 || { tail -n 40 "$build/build.log"; exit 1; }
[ -x "$build/emu_check" ] || { echo "CUDA's headers are not here"; exit 77; }

export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
plugin=$build/libijepa_cuda_emu.so
for order in $orders; do
  export IJ_EMU_SEED=$order
  if [ -z "$name" ]; then "$build/emu_check" || { echo "FAILED: the emulator's own test, order $order"; failed=1; }; fi
  [ -e "$plugin" ] || continue
  if [ -z "$name" ]; then IJEPA_CUDA=$plugin "$build/step" || { echo "FAILED: training steps, order $order"; failed=1; }; fi
  IJEPA_CUDA=$plugin "$build/ops" --device cuda "${quick[@]}" ${name:+"$name"} || { echo "FAILED: ops, order $order"; failed=1; }
done
if [ -z "$name" ] && [ -e "$plugin" ]; then # products that the library refuses: our own kernel's
  for products in linear_ matmul; do
    for with in IJ_EMU_LT=none IJ_EMU_LT=late IJEPA_CUDA_TUNE=1; do
      env $with IJEPA_CUDA="$plugin" "$build/ops" --device cuda "${quick[@]}" $products ||
        { echo "FAILED: $products with $with"; failed=1; }
    done
  done
  IJ_EMU_POOLS=0 IJEPA_CUDA=$plugin "$build/ops" --device cuda --quick ||
    { echo "FAILED: ops on a GPU without memory pools"; failed=1; }
fi
[ -e "$plugin" ] || { echo "FAILED: there is no $plugin"; failed=1; }
unset IJ_EMU_SEED
if [ -z "$name" ]; then
  "$build/emu_ranks" || { echo "FAILED: NCCL's ranks"; failed=1; }
  bash "$root/tests/emu/bugs/expect.sh" "$mode" "$build/emu_bugs" || failed=1
fi
exit $failed
