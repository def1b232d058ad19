"""Tensor ops beside PyTorch's, on 1e7 float32 values on the CPU: a table in markdown.

    PYTHON bench/tensors.py [ROUNDS] [THREADS]        from the project's root, after ./ijepa -v

In each round both run all ops, one program after the other; the table shows the medians over the rounds. Neither
allocates large results anew: ijepa's come from the memory of the step, as in training, and PyTorch gets an `out`.
"""
import os
import statistics
import subprocess
import sys
import time

import torch

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
THREADS = int(sys.argv[2]) if len(sys.argv) > 2 else os.cpu_count()
torch.set_num_threads(THREADS)
torch.manual_seed(1)
N = 10_000_000
x = torch.randn(N // 1000, 1000)
y = torch.rand(N // 1000, 1000) + 0.5
row = torch.randn(1000)
three = x.reshape(10, N // 10000, 1000)

to = torch.empty_like(x)           # results of elementwise ops go here, as ijepa's go to memory that is used again
flags = torch.empty(x.shape, dtype=torch.bool)
OPS = {
    "exp": lambda: torch.exp(x, out=to), "log": lambda: torch.log(y, out=to), "sqrt": lambda: torch.sqrt(y, out=to),
    "sin": lambda: torch.sin(x, out=to), "tanh": lambda: torch.tanh(x, out=to),
    "sigmoid": lambda: torch.sigmoid(x, out=to), "silu": lambda: torch.ops.aten.silu.out(x, out=to),
    "erf": lambda: torch.erf(x, out=to), "abs": lambda: torch.abs(x, out=to),
    "clamp": lambda: torch.clamp(x, -1, 1, out=to), "pow": lambda: torch.pow(y, 1.7, out=to),
    "add": lambda: torch.add(x, y, out=to), "mul": lambda: torch.mul(x, y, out=to),
    "div": lambda: torch.div(x, y, out=to), "add row": lambda: torch.add(x, row, out=to),
    "add number": lambda: torch.add(x, 1, out=to), "maximum": lambda: torch.maximum(x, y, out=to),
    "lt": lambda: torch.lt(x, y, out=flags),
    "where": lambda: torch.where(torch.lt(x, y, out=flags), x, y, out=to),
    "sum all": lambda: x.sum(), "sum last": lambda: x.sum(1),
    "sum first": lambda: x.sum(0), "sum middle": lambda: three.sum(1), "mean last": lambda: x.mean(1),
    "var last": lambda: x.var(1), "max all": lambda: x.max(), "amax last": lambda: x.amax(1),
    "amax first": lambda: x.amax(0), "argmax last": lambda: x.argmax(1), "prod last": lambda: y.prod(1),
    "cumsum last": lambda: torch.cumsum(x, 1, out=to), "softmax last": lambda: torch.softmax(x, 1, out=to),
}


def of_torch():
    found = {}
    for name, f in OPS.items():
        times = []
        for i in range(8):
            started = time.perf_counter()
            f()
            if i:
                times.append(time.perf_counter() - started)
        found[name] = statistics.median(times)
    return found


def of_ijepa():
    env = dict(os.environ, OMP_NUM_THREADS=str(THREADS))
    out = subprocess.run(["build/ijepa", "bench/tensors.lua"], env=env, check=True, capture_output=True, text=True)
    return {k: float(v) for k, v in (line.rsplit("\t", 1) for line in out.stdout.splitlines())}


ours, theirs = [], []
for _ in range(ROUNDS):
    ours.append(of_ijepa())
    theirs.append(of_torch())
print(f"PyTorch {torch.__version__.split('+')[0]}, {THREADS} threads, {ROUNDS} rounds\n")
print("| op | ijepa, ms | PyTorch, ms | ratio |\n|---|---|---|---|")
for name in OPS:
    a = 1000 * statistics.median(r[name] for r in ours)
    b = 1000 * statistics.median(r[name] for r in theirs)
    print(f"| {name} | {a:.1f} | {b:.1f} | {a / b:.2f} |")
