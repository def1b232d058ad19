#!/bin/sh
# Images per core and second, ours and torchvision with Pillow, in turns; prints both medians and their ratio.
# usage: bench/loader.sh FOLDER BENCH_LOADER PYTHON [ROUNDS]      PYTHON: one that has torch, torchvision and pillow
set -eu
folder=$1 ours=$2 python=$3 rounds=${4:-5}
peer=$(dirname "$0")/peer/loader.py
i=0
while [ $i -lt "$rounds" ]; do
  i=$((i + 1))
  "$ours" "$folder" 224 3 | sed -n 's/^decode and crop: \([0-9.]*\).*/ours \1/p'
  "$python" "$peer" "$folder" 224 1 | sed -n 's/^decode and crop: /crop /p; s/^decode, crop, to tensor, normalise: /tensor /p'
done | awk '
  function median(list,   v, n, a, b, t) {
    n = split(list, v, " ")
    for (a = 1; a < n; a++) for (b = a + 1; b <= n; b++) if (v[b] + 0 < v[a] + 0) { t = v[a]; v[a] = v[b]; v[b] = t }
    return v[int((n + 1) / 2)]
  }
  { all[$1] = all[$1] " " $2 }
  END {
    o = median(all["ours"]); c = median(all["crop"]); t = median(all["tensor"])
    printf "ours: %.0f a CPU second\n", o
    printf "torchvision + Pillow, decode and crop: %.0f (ratio %.2f)\n", c, o / c
    printf "torchvision + Pillow, with to-tensor and normalise: %.0f (ratio %.2f)\n", t, o / t
  }'
