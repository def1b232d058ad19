"""Makes the files of this folder with PyTorch, so that the tests need none.

    python tests/golden/make.py          writes ops.safetensors, step.safetensors and rng.json beside this file

Everything is computed in double and stored in float32: what a test then measures is its own rounding. Letters as in
bench/peer/model.py, which holds the model (checked there against the published code's steps).
"""
import copy
import json
import math
import os
import struct
import sys

import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "bench", "peer"))
import model as M

DTYPE = {torch.float32: "F32", torch.int64: "I64"}


def save(name, tensors, meta):
    """A safetensors file: 8 bytes of header length, the header in JSON padded to 8, the data in the header's order."""
    header, data, at = {"__metadata__": {k: str(v) for k, v in meta.items()}}, [], 0
    for n, t in tensors.items():
        t = t.detach()
        t = (t.float() if t.is_floating_point() else t).contiguous()
        raw = t.numpy().tobytes()
        header[n] = {"dtype": DTYPE[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(os.path.join(HERE, name), "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + b"".join(data))
    print(name, len(tensors), "tensors", 8 + len(head) + at, "bytes")


def randn(*shape, scale=1.0):
    """Normal numbers that float32 holds exactly, as double."""
    return (scale * torch.randn(shape)).float().double()


# ---- ops.safetensors: <op>.<input>, <op>.y, <op>.dy (what comes down), <op>.d<input> (what goes up)

def op(out, name, function, **inputs):
    inputs = {n: t.requires_grad_() if t.is_floating_point() else t for n, t in inputs.items()}
    y = function(**inputs)
    dy = randn(*y.shape)
    y.backward(dy)
    for n, t in inputs.items():
        out[f"{name}.{n}"] = t
        if t.requires_grad:
            out[f"{name}.d{n}"] = t.grad
    out[f"{name}.y"], out[f"{name}.dy"] = y, dy


def attention(qkv, heads=3):
    """qkv (B, N, 3*A*S), packed [3, A, S] -> (B, N, A*S); written out, not fused: this is the definition."""
    B, N, W = qkv.shape
    q, k, v = qkv.view(B, N, 3, heads, W // 3 // heads).permute(2, 0, 3, 1, 4)      # (B, A, N, S)
    weight = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, -1)       # (B, A, N, N)
    return (weight @ v).transpose(1, 2).reshape(B, N, W // 3)


def adamw(out):
    """Three steps; lr and wd change each step, as schedules do. p0, g1..g3 -> p1..p3, m3, v3."""
    plan = [(1e-3, 0.04), (2e-3, 0.1), (5e-4, 0.4)]
    p = torch.nn.Parameter(randn(4, 9))
    opt = torch.optim.AdamW([p], betas=(0.9, 0.999), eps=1e-8)
    out["adamw.p0"] = p.detach().clone()
    for i, (lr, wd) in enumerate(plan, 1):
        p.grad = randn(4, 9, scale=10.0 ** -i)
        out[f"adamw.g{i}"] = p.grad
        opt.param_groups[0].update(lr=lr, weight_decay=wd)
        opt.step()
        out[f"adamw.p{i}"] = p.detach().clone()
    out["adamw.m3"], out["adamw.v3"] = opt.state[p]["exp_avg"], opt.state[p]["exp_avg_sq"]
    return plan


def ops():
    torch.manual_seed(1)
    out = {}
    op(out, "layernorm", lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6),
       x=randn(5, 12, scale=3.0) + 2, weight=1 + randn(12, scale=0.3), bias=randn(12, scale=0.3))
    op(out, "layernorm_plain", lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-5), x=randn(5, 12))
    op(out, "gelu", lambda x: F.gelu(x), x=torch.linspace(-6, 6, 49).double())
    op(out, "attention", attention, qkv=randn(2, 7, 72, scale=1.5))
    op(out, "smooth_l1", lambda x, target: F.smooth_l1_loss(x, target), x=randn(6, 11, scale=2.0), target=randn(6, 11))
    op(out, "linear", lambda x, weight, bias: F.linear(x, weight, bias), x=randn(7, 10), weight=randn(13, 10), bias=randn(13))
    plan = adamw(out)
    save("ops.safetensors", out, {
        "attention": "qkv packed [3, 3 heads, 8]", "layernorm_eps": "1e-06", "layernorm_plain_eps": "1e-05", "smooth_l1": "beta 1, mean over everything",
        "gelu": "erf", "adamw": json.dumps({"betas": [0.9, 0.999], "eps": 1e-8, "plan": [{"lr": lr, "wd": wd} for lr, wd in plan]}),
        "computed_in": "float64", "torch": torch.__version__})


# ---- step.safetensors: three training steps, the form of a recorded published step

STEP = dict(seed=3, embed_dim=16, depth=2, num_heads=2, mlp_ratio=3.0, predictor_mlp_ratio=4.0, predictor_embed_dim=8, predictor_depth=1, patch_size=4,
            crop_size=24, batch_size=2, num_enc_masks=1, num_pred_masks=4, steps=3, enc_mask_scale=(0.85, 1.0), pred_mask_scale=(0.15, 0.2),
            aspect_ratio=(0.75, 1.5), min_keep=3, allow_overlap=False, epochs=3, iterations_per_epoch=2, warmup=1, lr=0.001, start_lr=0.0002,
            final_lr=1e-06, weight_decay=0.04, final_weight_decay=0.4, ema=(0.99, 1.0), ipe_scale=1.0, ln_eps=1e-06, target_ln_eps=1e-05, dtype="float32")


def schedule(c, step):
    """step from 0 -> lr, weight decay, momentum"""
    total = int(c["ipe_scale"] * c["epochs"] * c["iterations_per_epoch"])
    warm, s = c["warmup"] * c["iterations_per_epoch"], step + 1
    cosine = lambda a, b, x: b + (a - b) * (1 + math.cos(math.pi * x)) / 2          # from a to b
    lr = c["start_lr"] + s / warm * (c["lr"] - c["start_lr"]) if s < warm else cosine(c["lr"], c["final_lr"], (s - warm) / (total - warm))
    first, last = c["ema"]
    return {"lr": lr, "wd": cosine(c["weight_decay"], c["final_weight_decay"], s / total), "momentum": first + step * (last - first) / total}


def unsettle(module):
    """Norms off 1, biases off 0: then a step that drops or swaps one of them differs at once."""
    for n, p in module.named_parameters():
        if p.requires_grad:
            p.data = p.data + 0.1 * torch.randn_like(p) if p.dim() == 1 else p.data


def step():
    c, out = STEP, {}
    torch.manual_seed(c["seed"])
    side = c["crop_size"] // c["patch_size"]
    enc = M.Encoder(c["embed_dim"], c["depth"], c["num_heads"], c["patch_size"], c["crop_size"], c["mlp_ratio"])
    pred = M.Predictor(c["embed_dim"], c["predictor_embed_dim"], c["predictor_depth"], c["num_heads"], side, c["predictor_mlp_ratio"])
    unsettle(enc), unsettle(pred)
    enc, pred = enc.double(), pred.double()
    tgt = copy.deepcopy(enc).requires_grad_(False)
    for name, module in (("encoder", enc), ("predictor", pred)):
        out.update({f"init.{name}.{n}": p.detach().clone() for n, p in module.named_parameters()})
    opt = torch.optim.AdamW(M.groups(enc, pred), betas=(0.9, 0.999), eps=1e-8)
    sampler = M.MultiBlock(side, c["seed"], c["enc_mask_scale"], c["pred_mask_scale"], c["aspect_ratio"], c["num_pred_masks"], c["min_keep"])
    plans = []
    for s in range(c["steps"]):
        plan = schedule(c, s)
        for i, group in enumerate(opt.param_groups):
            group.update(lr=plan["lr"], weight_decay=plan["wd"] if i < 2 else 0.0)
        x = randn(c["batch_size"], 3, c["crop_size"], c["crop_size"])
        ctx, blocks = sampler.draw(c["batch_size"])
        out[f"step{s}.images"], out[f"step{s}.masks_enc.0"] = x, ctx
        out.update({f"step{s}.masks_pred.{i}": b for i, b in enumerate(blocks)})
        with torch.no_grad():
            full = tgt(x)                                                                       # (B, N, D)
            h = torch.cat([M.take(F.layer_norm(full, full.shape[-1:], eps=1e-5), b) for b in blocks])   # (M*B, T, D), in double
        z = enc(x, ctx)                                                                         # (B, K, D)
        y = pred(z, [ctx], blocks)                                                              # (M*B, T, D)
        loss = F.smooth_l1_loss(y, h)
        opt.zero_grad()
        loss.backward()
        if s == 0:
            out.update({"step0.target_encoder_out": full, "step0.context_out": z, "step0.targets": h, "step0.predictions": y})
            for name, module in (("encoder", enc), ("predictor", pred)):
                out.update({f"step0.grad.{name}.{n}": p.grad.clone() for n, p in module.named_parameters() if p.requires_grad})
        out[f"step{s}.loss"] = loss.detach().view(1)
        plans.append({**plan, "loss": loss.item()})
        opt.step()
        M.average(tgt, enc, plan["momentum"])
    for name, module in (("encoder", enc), ("predictor", pred), ("target_encoder", tgt)):
        out.update({f"final.{name}.{n}": p for n, p in module.named_parameters()})
    save("step.safetensors", out, {**c, "schedule": json.dumps(plans), "computed_in": "float64", "torch": torch.__version__})


# ---- rng.json: what PyTorch's CPU generator draws

def rng():
    seeded = lambda seed: torch.Generator().manual_seed(seed)
    out = []
    for seed in (0, 1, 42):
        out.append({
            "seed": seed,
            "floats": torch.rand(16, generator=seeded(seed)).double().tolist(),                 # exact: multiples of 2^-24
            "randint": [{"low": lo, "high": hi, "values": torch.randint(lo, hi, (12,), generator=seeded(seed)).tolist()}
                        for lo, hi in ((0, 10), (0, 7), (3, 1000), (-5, 6))],
            "randperm10": torch.randperm(10, generator=seeded(seed)).tolist(),
            "randperm33": torch.randperm(33, generator=seeded(seed)).tolist(),
        })
    with open(os.path.join(HERE, "rng.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(o) for o in out) + "\n]\n")
    print("rng.json", len(out), "seeds")


if __name__ == "__main__":
    ops()
    step()
    rng()
