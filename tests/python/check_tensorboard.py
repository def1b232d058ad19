"""check_tensorboard.py PROGRAM: writes logs with our program, reads them with TensorBoard, compares. Exit 1 if they differ.

Needs the package tensorboard. A run of 20 steps, resumed after step 12 and trained to step 30."""
import json
import math
import os
import subprocess
import sys
import tempfile

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

WRITE = """
local run = require "ijepa.run"
for _, part in ipairs { { 1, 20 }, { 13, 30 } } do
  local r = assert(run.open(ijepa.args[1], { quiet = true, ipe = 4, resume = part[1] > 1 and part[1] - 1 or nil,
    logs = { json = true, tensorboard = true } }))
  for step = part[1], part[2] do
    assert(r:log(step, { loss = step / part[2], k = 69, t = 41.5, ms = 12, lr = 1e-3 / step, wd = .04, momentum = .996,
      images = 32, grads = { first = 1, last = 2, min = .5, max = 3 } }))
    if step % 5 == 0 then
      assert(r:diagnosis { step = step, cosine_distance = .5, rankme = step + .5, max_rank = 64, level = "ok", text = "effective rank 12 of 64" })
    end
  end
  r:close()
end
"""
TAGS = {"train/loss": "loss", "train/lr": "lr", "train/weight_decay": "wd", "train/momentum": "momentum",
        "mask/context_patches": "k", "mask/target_patches": "t", "speed/ms": "ms",
        "speed/images_per_second": "images_per_second", "speed/memory_bytes": "memory"}


def close(a, b):
    return math.isclose(a, b, rel_tol=1e-6)  # TensorBoard keeps float32


def scalars(acc, tag):
    return [(e.step, e.value) for e in acc.Scalars(tag)]


def main(program):
    with tempfile.TemporaryDirectory() as folder:
        script = os.path.join(folder, "write.lua")
        with open(script, "w") as f:
            f.write('local ijepa = require "ijepa"\n' + WRITE)
        out = os.path.join(folder, "run")
        subprocess.run([program, script, out], check=True)
        with open(os.path.join(out, "jepa.jsonl")) as f:
            rows = [json.loads(line) for line in f]
        steps = [r for r in rows if "loss" in r]
        looks = [r for r in rows if "diagnosis" in r]
        assert [r["step"] for r in steps] == list(range(1, 31)), steps
        assert [r["step"] for r in looks] == [5, 10, 15, 20, 25, 30], looks
        acc = EventAccumulator(out, size_guidance={"scalars": 0, "tensors": 0})
        acc.Reload()
        assert acc.file_version == 2, acc.file_version
        for tag, name in TAGS.items():
            got = scalars(acc, tag)
            assert [s for s, _ in got] == list(range(1, 31)), (tag, got)
            assert all(close(v, r[name]) for (_, v), r in zip(got, steps)), (tag, got)
        for tag, name in {"diagnosis/cosine_distance": "cosine_distance", "diagnosis/rankme": "rankme"}.items():
            got = scalars(acc, tag)
            assert [s for s, _ in got] == [r["step"] for r in looks], (tag, got)
            assert all(close(v, r["diagnosis"][name]) for (_, v), r in zip(got, looks)), (tag, got)
        verdicts = acc.Tensors("diagnosis/verdict")
        assert tensor_util.make_ndarray(verdicts[0].tensor_proto).item() == b"ok: effective rank 12 of 64", verdicts[0]
        assert acc.SummaryMetadata("diagnosis/verdict").plugin_data.plugin_name == "text"
        # a planted fault: one wrong byte, and the reader stops there
        name = sorted(n for n in os.listdir(out) if "tfevents" in n)[-1]
        with open(os.path.join(out, name), "r+b") as f:
            f.seek(-20, 2)
            byte = f.read(1)
            f.seek(-20, 2)
            f.write(bytes([byte[0] ^ 1]))
        acc = EventAccumulator(out, size_guidance={"scalars": 0})
        acc.Reload()
        assert len(acc.Scalars("diagnosis/cosine_distance")) == 5, "a broken record was taken"
    print("TensorBoard reads the event files: %d tags, 30 steps, 6 diagnoses" % (len(TAGS) + 3))


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
