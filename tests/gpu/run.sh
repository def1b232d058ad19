#!/usr/bin/env bash
# bash ijepa-gpu/run.sh RESULTS [PART...]: what the packed program (pack.sh) does on this machine's GPU, in at most nine
# minutes. Each part writes RESULTS/PART.txt and has a time limit of its own. A part that fails makes the exit code 1;
# one that can't be tried is called skipped; nothing that was skipped counts as passed. RESULTS/gpu.md sums it up.
#   about       GPU, driver, versions, `ijepa check`
#   conform     recorded steps of the published implementation
#   ops         every op against the reference
#   production  matmuls and attention at the sizes of ViT-H/14, each in two ways
#   program     runs, resuming, probes, several processes
#   memory      bytes counted in advance against the driver's own count
#   step        images/s of training, ViT-S/16 to ViT-H/14
#   peer        the same in PyTorch: as published, tuned, compiled
#   bench       each op beside the GPU's own rates
#   real        training from image files, loader included
#   sanitize    some ops under compute-sanitizer
# Without a GPU it says so and exits with 1. IJEPA_CUDA=PLUG-IN: another plug-in than the packed one.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
all=(about conform ops production program memory step peer bench real sanitize)
declare -A limit=([about]=30 [conform]=30 [ops]=100 [production]=80 [program]=60 [memory]=40 [step]=90 [peer]=130 [bench]=60
  [real]=40 [sanitize]=60)
TOTAL=530 # seconds

python=$(command -v python3 || true)
export IJEPA_CUDA=${IJEPA_CUDA:-$here/build/libijepa_cuda.so} IJEPA_PROGRAM=$here/build/ijepa
export IJEPA_REQUIRE_CUDA=${IJEPA_REQUIRE_CUDA:-1}
export LUA_PATH="$here/share/?.lua;;" LUA_CPATH="$here/share/?.so;;"
ours() { LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$@"; }
on_gpu() { IJEPA_DEVICE=cuda ours "$@"; }

# arch patch batch pred_depth pred_dim
sizes() { # what counts most comes first: time may run out
  echo vit_huge 14 128 12 384
  echo vit_large 16 128 12 384
  echo vit_base 16 128 12 384
  echo vit_small 16 128 12 384
}

part_about() {
  date -u +'date: %F %R UTC'
  cat version.txt
  echo "machine: $(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r)"
  if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader |
      sed 's/^/gpu: /'
  fi
  if [ -n "$python" ]; then
    "$python" -c 'import torch; print("pytorch:", torch.__version__, "cuda", torch.version.cuda, "cudnn", torch.backends.cudnn.version())' 2>/dev/null ||
      echo "pytorch: none"
  fi
  ours build/ijepa check || true # the images' formats are not this part's affair
  on_gpu build/ijepa -e 'local i = require("ijepa.tensor.device").info() print(("device: %s, %s, %.1f GiB"):format(i.name, i.arch, i.memory / 2^30))'
}
part_conform() { on_gpu build/ijepa conform recorded/*.safetensors; }
part_ops() { ours build/tests/ops --device cuda; }
part_production() { ours build/tests/ops --device cuda --production; }
part_program() { ours build/ijepa tests/lua/run.lua tests/lua/test_cuda.lua; }
part_memory() { ours build/ijepa tests/cuda/memory.lua; }
part_step() {
  local arch patch batch depth width status=0
  while read -r arch patch batch depth width; do
    on_gpu timeout 40 build/ijepa bench/step.lua "arch=$arch" "patch=$patch" crop=224 "batch=$batch" "pred_depth=$depth" \
      "pred_dim=$width" dtype=bf16 steps=15 warmup=5 || status=1
  done < <(sizes)
  return "$status"
}
part_peer() {
  if ! "${python:-false}" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "no PyTorch here that sees a GPU"
    return 77
  fi
  local arch patch batch depth width variant status=0
  while read -r arch patch batch depth width; do
    for variant in tuned published; do
      timeout 50 "$python" peer.py "$arch" "$patch" "$batch" "$depth" "$width" "$variant" 12 || status=1
    done
  done < <(sizes)
  timeout 70 "$python" peer.py vit_huge 14 128 12 384 compiled 12 || status=1
  return "$status"
}
part_bench() { ours build/tests/bench_ops --table --device cuda; }
part_real() {
  cat images.txt
  on_gpu build/ijepa recipes/in1k_vith14.lua device=cuda data.root=images "data.workers=$(nproc)" model.arch=vit_base \
    model.patch=16 data.batch=64 optim.steps=100 log.every=10 diagnose.every=0 "out=$RESULTS/real"
  local status=$?
  rm -rf "$RESULTS/real"
  return "$status"
}
part_sanitize() {
  command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer here"; return 77; }
  ours compute-sanitizer --tool memcheck --error-exitcode 9 build/tests/ops --device cuda --quick attention &&
    ours compute-sanitizer --tool racecheck --error-exitcode 9 build/tests/ops --device cuda --quick norm &&
    ours compute-sanitizer --tool memcheck --error-exitcode 9 build/tests/ops --device cuda --quick linear_
}

run_part() {
  case $1 in
    about) part_about ;;
    conform) part_conform ;;
    ops) part_ops ;;
    production) part_production ;;
    program) part_program ;;
    memory) part_memory ;;
    step) part_step ;;
    peer) part_peer ;;
    bench) part_bench ;;
    real) part_real ;;
    sanitize) part_sanitize ;;
  esac
}

if [ $# -lt 1 ]; then
  sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
if [ "$1" = --part ]; then # by ourselves, under timeout
  RESULTS=$3
  cd "$here" || exit 1
  run_part "$2"
  exit
fi
mkdir -p "$1" || exit 1
RESULTS=$(cd "$1" && pwd)
shift
cd "$here" || exit 1
parts=("${all[@]}")
if [ $# -gt 0 ]; then parts=("$@"); fi
for name in "${parts[@]}"; do
  [ -n "${limit[$name]-}" ] || { echo "run.sh: there is no part '$name': ${all[*]}" >&2; exit 2; }
done
: >"$RESULTS/summary.txt"
tell() { printf '%s\n' "$*" | tee -a "$RESULTS/summary.txt"; }

# Is there a GPU? The program's own words say why not.
if ! gpu=$(on_gpu build/ijepa -e 'print(require("ijepa.tensor.device").info().name)' 2>&1); then
  gpu=${gpu##*$'\n'}
  tell "NO GPU: nothing was tried and nothing was measured: ${gpu#*line):1: }"
  exit 1
fi
tell "on $gpu"

status=0
for name in "${parts[@]}"; do
  seconds=${limit[$name]} left=$((TOTAL - SECONDS)) begin=$SECONDS
  if [ "$left" -lt 5 ]; then
    tell "$(printf '%-11s NOT RUN: no time is left' "$name")"
    status=1
    continue
  fi
  [ "$left" -ge "$seconds" ] || seconds=$left
  timeout -k 5 "$seconds" bash "$here/run.sh" --part "$name" "$RESULTS" >"$RESULTS/$name.txt" 2>&1
  case $? in
    0) result=ok ;;
    77) result=skipped ;;
    124 | 137) result="FAILED: longer than $seconds s" status=1 ;;
    *) result=FAILED status=1 ;;
  esac
  tell "$(printf '%-11s %s, %d s: %s' "$name" "$result" $((SECONDS - begin)) "$(tail -n 1 "$RESULTS/$name.txt" | cut -c1-150)")"
done
if [ -n "$python" ]; then "$python" table.py "$RESULTS" && cat "$RESULTS/gpu.md"; fi
exit $status
