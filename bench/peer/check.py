"""Does the PyTorch step of this folder compute what I-JEPA computes? Compares it with recorded steps, in float32.

    python check.py step_a.safetensors [step_b.safetensors ...]
"""
import ast
import copy
import json
import struct
import sys

import torch
import torch.nn.functional as F

import model as M

DTYPE = {"F32": torch.float32, "I64": torch.int64}


def load(path):
    """A safetensors file: 8 bytes of header length, the header in JSON, the data."""
    raw = bytearray(open(path, "rb").read())
    size, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + size])
    meta, tensors = header.pop("__metadata__", {}), {}
    for name, t in header.items():
        begin, end = t["data_offsets"]
        data = bytearray(raw[8 + size + begin:8 + size + end])      # a copy, so that every tensor is aligned
        tensors[name] = torch.frombuffer(data, dtype=DTYPE[t["dtype"]]).view(t["shape"])
    return meta, tensors


def part(tensors, prefix):
    return {n[len(prefix):]: t for n, t in tensors.items() if n.startswith(prefix)}


def relative(a, b):
    """Largest difference, relative to the norm of the whole tensor for gradients and to its largest entry elsewhere."""
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-12)).item()


def by_norm(a, b):
    return ((a - b).norm() / b.norm().clamp_min(1e-12)).item()


def check(path):
    meta, t = load(path)
    number = lambda name: ast.literal_eval(meta[name])
    side = number("crop_size") // number("patch_size")
    enc = M.Encoder(number("embed_dim"), number("depth"), number("num_heads"), number("patch_size"), number("crop_size"), number("mlp_ratio"))
    pred = M.Predictor(number("embed_dim"), number("predictor_embed_dim"), number("predictor_depth"), number("num_heads"), side,
                       number("predictor_mlp_ratio"))
    worst = {"positions": max(relative(enc.pos_embed, t["init.encoder.pos_embed"]),
                              relative(pred.predictor_pos_embed, t["init.predictor.predictor_pos_embed"]))}
    enc.load_state_dict(part(t, "init.encoder."))
    pred.load_state_dict(part(t, "init.predictor."))
    tgt = copy.deepcopy(enc).requires_grad_(False)
    opt, kind = M.adamw(M.groups(enc, pred))

    worst["activations"] = worst["loss"] = worst["gradients"] = 0.0
    for step, plan in enumerate(json.loads(meta["schedule"])):
        for i, group in enumerate(opt.param_groups):
            group["lr"] = plan["lr"]
            group["weight_decay"] = plan["wd"] if i < 2 else 0.0
        x = t[f"step{step}.images"]
        ctx = [t[f"step{step}.masks_enc.{i}"] for i in range(number("num_enc_masks"))]
        blocks = [t[f"step{step}.masks_pred.{i}"] for i in range(number("num_pred_masks"))]
        with torch.no_grad():
            full = tgt(x)                                                       # (B, N, D)
            h = M.targets(full, blocks, len(ctx))                               # (M*C*B, T, D)
        z = torch.cat([enc(x, c) for c in ctx])                                 # (C*B, K, D)
        y = pred(z, ctx, blocks)                                                # (M*C*B, T, D)
        loss = F.smooth_l1_loss(y, h)
        opt.zero_grad()
        loss.backward()
        worst["loss"] = max(worst["loss"], relative(loss, t[f"step{step}.loss"][0]))
        if step == 0:
            for name, got in (("target_encoder_out", full), ("targets", h), ("context_out", z), ("predictions", y)):
                worst["activations"] = max(worst["activations"], relative(got, t[f"step0.{name}"]))
            for side_name, module in (("encoder", enc), ("predictor", pred)):
                for n, p in module.named_parameters():
                    if p.requires_grad:
                        worst["gradients"] = max(worst["gradients"], by_norm(p.grad, t[f"step0.grad.{side_name}.{n}"]))
        opt.step()
        M.average(tgt, enc, plan["momentum"])

    worst["final"] = max((p - t[f"final.{name}.{n}"]).abs().max().item()
                         for name, module in (("encoder", enc), ("predictor", pred), ("target_encoder", tgt))
                         for n, p in module.named_parameters())
    limit = {"positions": 1e-6, "activations": 1e-5, "loss": 1e-5, "gradients": 1e-4, "final": 1e-5}
    ok = all(worst[k] <= limit[k] for k in limit)
    print("ok  " if ok else "FAIL", path.rsplit("/", 1)[-1], f"AdamW {kind}", *(f"{k} {v:.1e}" for k, v in worst.items()))
    return ok


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(0 if all([check(path) for path in sys.argv[1:]]) else 1)
