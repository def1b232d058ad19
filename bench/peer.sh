#!/bin/sh
# Our training step and PyTorch's in turns, three configurations: images/s (medians) and peak memory, and their ratios.
# usage: bench/peer.sh PYTHON [ROUNDS] [f32|bf16] [STEPS]     PYTHON: one that has torch; from the project's root
set -eu
python=$1 rounds=${2:-3} dtype=${3:-f32} steps=${4:-6}
compare() { # ours, theirs: the options of each
  i=0
  while [ $i -lt "$rounds" ]; do
    i=$((i + 1))
    # shellcheck disable=SC2086
    build/ijepa bench/step.lua $1 steps="$steps" warmup=1 dtype="$dtype" | sed 's/^/ours /'
    # shellcheck disable=SC2086
    (cd bench/peer && "$python" step.py $2 --steps "$steps" --warmup 1 --dtype "$dtype") | sed 's/^/peer /'
  done | awk -v name="$3" -v dtype="$dtype" '
    function field(k) { match($0, "\"" k "\": [0-9.]+"); return substr($0, RSTART + length(k) + 4, RLENGTH - length(k) - 4) + 0 }
    function median(list,   v, n, a, b, t) {
      n = split(list, v, " ")
      for (a = 1; a < n; a++) for (b = a + 1; b <= n; b++) if (v[b] + 0 < v[a] + 0) { t = v[a]; v[a] = v[b]; v[b] = t }
      return v[int((n + 1) / 2)] + 0
    }
    { speed[$1] = speed[$1] " " field("images_per_s"); memory[$1] = memory[$1] " " field("peak_rss_mib") }
    END {
      o = median(speed["ours"]); p = median(speed["peer"]); a = median(memory["ours"]); b = median(memory["peer"])
      printf "| %s | %s | %.2f | %.2f | %.2fx | %d | %d | %.2fx |\n", name, dtype, o, p, o / p, a, b, a / b
    }'
}
echo "| step | PyTorch in | ours, images/s | PyTorch | ratio | ours, MiB | PyTorch | ratio |"
echo "|---|---|---|---|---|---|---|---|"
compare "" "" "vit_tiny/8, 64 px, batch 64"
compare "arch=vit_small patch=16 crop=224 batch=16 pred_depth=6 pred_dim=192" \
  "--arch vit_small --patch 16 --crop 224 --batch 16 --pred-depth 6 --pred-dim 192" "vit_small/16, 224 px, batch 16"
compare "arch=vit_base patch=16 crop=224 batch=8 pred_depth=6 pred_dim=384" \
  "--arch vit_base --patch 16 --crop 224 --batch 8 --pred-depth 6 --pred-dim 384" "vit_base/16, 224 px, batch 8"
