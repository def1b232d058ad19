"""Times the I-JEPA training step in PyTorch on the CPU, on synthetic images. Prints one line of JSON.

    python step.py --arch vit_small --patch 16 --crop 224 --batch 16 --pred-depth 6 --pred-dim 192 --dtype bf16
"""
import argparse
import copy
import json
import resource
import time

import torch
import torch.nn.functional as F

import model as M

GROUP = 128            # images masked together: this sets the lengths of context and targets, as in the published runs


def arguments():
    a = argparse.ArgumentParser()
    a.add_argument("--arch", choices=M.ARCH, default="vit_tiny")
    a.add_argument("--patch", type=int, default=8)
    a.add_argument("--crop", type=int, default=64)
    a.add_argument("--batch", type=int, default=64)
    a.add_argument("--pred-depth", type=int, default=4)
    a.add_argument("--pred-dim", type=int, default=96)
    a.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    a.add_argument("--compile", action="store_true")
    a.add_argument("--steps", type=int, default=20)
    a.add_argument("--warmup", type=int, default=3, help="steps before the clock is read")
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--min-keep", type=int, default=None, help="default: 10, or 4 on grids of 8 and below, where 10 can't be met")
    return a.parse_args()


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    dim, depth, heads = M.ARCH[a.arch]
    grid = a.crop // a.patch
    enc = M.Encoder(dim, depth, heads, a.patch, a.crop)
    pred = M.Predictor(dim, a.pred_dim, a.pred_depth, heads, grid)
    tgt = copy.deepcopy(enc).requires_grad_(False)
    opt, kind = M.adamw(M.groups(enc, pred))
    for i, group in enumerate(opt.param_groups):
        group["lr"], group["weight_decay"] = 1e-3, 0.04 if i < 2 else 0.0

    total = a.steps + a.warmup
    sampler = M.MultiBlock(grid, min_keep=a.min_keep or (4 if grid <= 8 else 10))
    masks = [sampler.draw(max(GROUP, a.batch)) for _ in range(total)]
    masks = [(c[:a.batch], [t[:a.batch] for t in ts]) for c, ts in masks]
    images = [torch.randn(a.batch, 3, a.crop, a.crop) for _ in range(4)]

    def forward(x, ctx, blocks):
        with torch.autocast("cpu", torch.bfloat16, enabled=a.dtype == "bf16"):
            with torch.no_grad():
                out = tgt(x)
            y = pred(enc(x, ctx), [ctx], blocks)
        return F.smooth_l1_loss(y.float(), M.targets(out, blocks))

    if a.compile:
        forward = torch.compile(forward, dynamic=True)
    seconds, losses = [], []
    for step, (ctx, blocks) in enumerate(masks):
        begin = time.perf_counter()
        loss = forward(images[step % 4], ctx, blocks)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        M.average(tgt, enc, 0.996)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
    timed = sorted(seconds[a.warmup:])
    median = timed[len(timed) // 2]
    print(json.dumps({
        "peer": "pytorch", "version": torch.__version__, "arch": a.arch, "patch": a.patch, "crop": a.crop, "batch": a.batch,
        "pred": [a.pred_depth, a.pred_dim], "dtype": a.dtype, "compile": a.compile, "threads": a.threads, "adamw": kind,
        "images_per_s": round(a.batch / median, 2), "ms_per_step": round(1e3 * median, 1), "ms_fastest": round(1e3 * timed[0], 1),
        "first_step_s": round(seconds[0], 2), "steps": a.steps,
        "mean_context": round(sum(c.shape[1] for c, _ in masks) / total, 1), "mean_target": round(sum(t[0].shape[1] for _, t in masks) / total, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), "loss_first": round(losses[0], 5), "loss_last": round(losses[-1], 5),
    }))


if __name__ == "__main__":
    main()
