"""Times I-JEPA's training step in PyTorch on a GPU: the sizes and masks of bench/step.lua, bf16 autocast. Prints JSON.

    python3 peer.py ARCH PATCH BATCH PRED_DEPTH PRED_WIDTH VARIANT STEPS

VARIANT   published  attention written out, AdamW over lists of tensors with a gradient scaler, the EMA tensor by tensor,
                     the loss and each gradient's norm read in every step: the work that the published program does
          tuned      fused attention, fused AdamW, the EMA over lists of tensors: what a careful user writes
          compiled   tuned, with the forward through torch.compile
"""
import copy
import json
import pathlib
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
for folder in (HERE / "bench" / "peer", HERE.parent.parent / "bench" / "peer"):
    if folder.is_dir():
        sys.path.insert(0, str(folder))
        break
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import model as peer  # noqa: E402

SIZE, WARM = 224, 3
peer.ARCH.setdefault("vit_large", (1024, 24, 16))
peer.ARCH.setdefault("vit_huge", (1280, 32, 16))


class WrittenOut(peer.Attention):
    """softmax(q k^T / sqrt(d)) v with its (B, A, N, N) matrix in memory."""

    def forward(self, x):
        batch, n, width = x.shape
        d = width // self.heads
        q, k, v = self.qkv(x).reshape(batch, n, 3, self.heads, d).permute(2, 0, 3, 1, 4).unbind(0)
        p = (q @ k.transpose(-2, -1) * d ** -0.5).softmax(dim=-1)
        return self.proj((p @ v).transpose(1, 2).reshape(batch, n, width))


def arguments():
    if len(sys.argv) != 8 or sys.argv[6] not in ("published", "tuned", "compiled"):
        sys.exit(__doc__)
    arch, variant = sys.argv[1], sys.argv[6]
    patch, batch, depth, width, steps = (int(sys.argv[i]) for i in (2, 3, 4, 5, 7))
    return arch, patch, batch, depth, width, variant, steps


def main():
    arch, patch, batch, depth, width, variant, steps = arguments()
    if not torch.cuda.is_available():
        sys.exit("peer.py: PyTorch sees no GPU here")
    began, grid, published = time.perf_counter(), SIZE // patch, variant == "published"
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    if published:
        peer.Attention = WrittenOut
    dim, layers, heads = peer.ARCH[arch]
    context = peer.Encoder(dim, layers, heads, patch, SIZE).cuda()
    predictor = peer.Predictor(dim, width, depth, heads, grid).cuda()
    target = copy.deepcopy(context).requires_grad_(False)
    groups = peer.groups(context, predictor)
    for i, group in enumerate(groups):
        group.update(lr=1e-4, weight_decay=0.04 if i < 2 else 0.0)
    optimizer = torch.optim.AdamW(groups, fused=not published, foreach=published)
    scaler = torch.amp.GradScaler("cuda", enabled=published)
    sampler, masks = peer.MultiBlock(grid), []
    for _ in range(WARM + steps):
        c, blocks = sampler.draw(max(128, batch))
        masks.append((c[:batch].cuda(), [t[:batch].cuda() for t in blocks]))
    images = [torch.randn(batch, 3, SIZE, SIZE, device="cuda") for _ in range(4)]

    def loss_of(x, c, blocks):
        with torch.autocast("cuda", torch.bfloat16):
            with torch.no_grad():
                features = target(x)
            predicted = predictor(context(x, c), [c], blocks)
        return F.smooth_l1_loss(predicted.float(), peer.targets(features, blocks))

    if variant == "compiled":
        loss_of = torch.compile(loss_of, dynamic=True)

    seconds = []
    for i, (c, blocks) in enumerate(masks):
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = loss_of(images[i % len(images)], c, blocks)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        if published:
            scaler.unscale_(optimizer)
            for p in context.parameters():
                if p.grad is not None and p.dim() > 1:
                    float(p.grad.norm())
        scaler.step(optimizer)
        scaler.update()
        if published:
            with torch.no_grad():
                for p, q in zip(context.parameters(), target.parameters()):
                    q.mul_(0.996).add_(p, alpha=0.004)
        else:
            peer.average(target, context, 0.996)
        value = loss.item()
        torch.cuda.synchronize()
        if i >= WARM:
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(json.dumps({
        "peer": "pytorch", "version": torch.__version__, "variant": variant, "arch": arch, "patch": patch, "batch": batch,
        "pred": [depth, width], "images_per_s": round(batch / median, 1), "ms_per_step": round(1e3 * median, 1),
        "ms_fastest": round(1e3 * min(seconds), 1), "steps": len(seconds), "loss": round(value, 5),
        "mean_context": round(statistics.mean(c.shape[1] for c, _ in masks), 1),
        "memory_mib": round(torch.cuda.max_memory_reserved() / 2 ** 20), "seconds": round(time.perf_counter() - began, 1)}))


if __name__ == "__main__":
    main()
