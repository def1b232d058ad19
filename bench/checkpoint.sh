#!/bin/sh
# Reading a 2.5 GB checkpoint in the page cache: ijepa.load against copying the file into fresh memory (one read of its whole
# length by dd), in turns.
# usage: bench/checkpoint.sh [ROUNDS] [FOLDER]     FOLDER: a temporary one with 2.6 GB of room; from the project's root
set -eu
rounds=${1:-5} folder=$(mktemp -d "${2:-${TMPDIR:-/tmp}}/ijepa-XXXXXX")
trap 'rm -rf "$folder"' EXIT
file=$folder/vith14-ep300.pth.tar
build/ijepa bench/checkpoint.lua make "$file"
size=$(stat -c %s "$file")
cat "$file" >/dev/null
i=0
while [ $i -lt "$rounds" ]; do
  i=$((i + 1))
  build/ijepa bench/checkpoint.lua read "$file"
  LC_ALL=C dd if="$file" of=/dev/null bs="$size" count=1 iflag=fullblock 2>&1 |
    awk -v size="$size" '/copied/ { s = $(NF - 3); printf "copy %.3f GB/s, %.2f s\n", size / s / 1e9, s }'
done | tee "$folder/log" | sed 's/^/  /'
awk '
  function median(list,   v, n, a, b, t) {
    n = split(list, v, " ")
    for (a = 1; a < n; a++) for (b = a + 1; b <= n; b++) if (v[b] + 0 < v[a] + 0) { t = v[a]; v[a] = v[b]; v[b] = t }
    return v[int((n + 1) / 2)] + 0
  }
  { speed[$1] = speed[$1] " " $2 }
  $1 == "ours" && $6 > most { most = $6 }
  END {
    o = median(speed["ours"]); c = median(speed["copy"])
    printf "| %.2f GB/s | %.2f GB/s | %.0f %% | %d MB |\n", o, c, 100 * o / c, most
  }' "$folder/log"
