#!/usr/bin/env bash
# expect.sh MODE PROGRAM: each mistake of bugs.cu is found by this build (plain, asan, tsan, msan) where it has to be, with
# these words, in one of the orders of threads; without the mistake the same program passes in all of them.
set -u
mode=$1 program=$2 missed=0 others='-1 1 2'
[ "$mode" != tsan ] || others=1 # slow to start
export TSAN_OPTIONS=halt_on_error=1 ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

without() { # NAME: what is right passes
  local order
  for order in 0 $others; do
    IJ_EMU_SEED=$order timeout 60 "$program" "$1" good >"$log" 2>&1 && continue
    echo "FAIL $1 without its mistake, order $order:"; head -n 12 "$log"; missed=1
  done
}
found() { # NAME WORDS MODES...
  local name=$1 words=$2 order wanted=0
  shift 2
  for order in "$@"; do [ "$order" != "$mode" ] && [ "$order" != all ] || wanted=1; done
  without "$name"
  [ $wanted = 1 ] || return 0
  for order in 0 -1 1 2 3 4 5; do
    IJ_EMU_SEED=$order timeout 60 "$program" "$name" >"$log" 2>&1 && continue
    grep -Eq "$words" "$log" && { printf 'found  %-28s order %2d: %s\n' "$name" "$order" "$(grep -Em1 "$words" "$log" | cut -c1-140)"; return; }
  done
  echo "MISSED $name ($words)"; tail -n 5 "$log"; missed=1
}

race='data race' garbage='use-of-uninitialized-value' wrong='wrong numbers'
found no_barrier_before_reading "$race" tsan
found no_barrier_before_reading "$wrong" plain asan
found no_barrier_before_reading "$garbage" msan
found no_barrier_before_writing "$race" tsan
found no_syncwarp "$race" tsan
found add_between_blocks "$race" tsan
found no_event "$race" tsan
found host_reads_early "$race" tsan
found host_writes_early "$race" tsan
found no_copy_wait "$garbage" msan
found no_copy_wait "$wrong" plain asan
found shared_not_set "$garbage" msan
found global_not_set "$garbage" msan
found past_global 'wrote [0-9]+ bytes behind a block' plain
found past_global 'AddressSanitizer' asan
found past_shared 'index 256 out of bounds' asan
found misaligned 'misaligned address' asan
found divergent_shuffle 'in a shuffle .* barrier|barrier .* in a shuffle' all
found divergent_barrier 'divergent barrier' all
found wrong_mask 'leaves out the calling lane' all
found barrier_not_reached 'lane [0-9]+ .*barrier' all
found too_much_shared 'too much shared memory' all
found host_pointer 'is not device or pinned memory' all
found host_pointer_in_struct "is the host's stack" plain
found use_after_free 'is in no block: freed' all
found use_after_free_async 'is used after cudaFreeAsync' all
found free_before_other_stream 'no event between the streams' all
found block_too_large 'invalid configuration argument' all
found dynamic_not_asked_for '81920 bytes of dynamic shared memory, 49152 allowed' all
found copy_too_long 'only 1024 are left' all
found host_touches_device 'the host touches device memory' plain
[ $missed = 0 ] && echo "all found that $mode has to find"
exit $missed
