"""I-JEPA in PyTorch: encoder, predictor, masks, loss, optimizer. What the benchmark compares ijepa with.

Letters: B images, N patches, K context patches, M target blocks, T patches of a block, C contexts, D encoder width,
E predictor width, A heads, P patch side, S image side.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ARCH = {"vit_tiny": (192, 12, 3), "vit_small": (384, 12, 6), "vit_base": (768, 12, 12)}   # D, depth, A


def sincos(dim, side):
    """Fixed positions, (1, side*side, dim): the first half of a row encodes the column, the second the line."""
    omega = 10000.0 ** (-np.arange(dim // 4, dtype=np.float64) / (dim / 4))
    line, col = np.divmod(np.arange(side * side, dtype=np.float64), side)
    half = [np.concatenate([np.sin(np.outer(x, omega)), np.cos(np.outer(x, omega))], 1) for x in (col, line)]
    return torch.from_numpy(np.concatenate(half, 1).astype(np.float32))[None]


def take(x, idx):
    """Rows of x (B, N, D) named by idx (B, K) -> (B, K, D)."""
    return torch.gather(x, 1, idx[..., None].expand(-1, -1, x.shape[-1]))


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):                                                       # (B, N, D)
        B, N, D = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)   # 3 x (B, A, N, D/A)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, D))


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, heads, ratio):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * ratio))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, patch, dim):
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, dim, patch, patch)     # holds the weights; the product below is the same sum

    def forward(self, x, idx=None):                     # (B, 3, S, S) -> (B, N or K, D)
        B, _, S, _ = x.shape
        P, g = self.patch, S // self.patch
        x = x.view(B, 3, g, P, g, P).permute(0, 2, 4, 1, 3, 5).reshape(B, g * g, 3 * P * P)
        if idx is not None:                             # embed only the patches that are kept
            x = take(x, idx)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


def init_weights(module):
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class Encoder(nn.Module):
    def __init__(self, dim, depth, heads, patch, crop, ratio=4.0):
        super().__init__()
        self.pos_embed = nn.Parameter(sincos(dim, crop // patch), requires_grad=False)
        self.patch_embed = PatchEmbed(patch, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.apply(init_weights)

    def forward(self, x, idx=None):                     # (B, 3, S, S), (B, K) -> (B, K, D)
        pos = self.pos_embed if idx is None else take(self.pos_embed.expand(x.shape[0], -1, -1), idx)
        x = self.patch_embed(x, idx) + pos
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Predictor(nn.Module):
    def __init__(self, dim, width, depth, heads, side, ratio=4.0):
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.predictor_pos_embed = nn.Parameter(sincos(width, side), requires_grad=False)
        self.predictor_embed = nn.Linear(dim, width)
        self.predictor_blocks = nn.ModuleList(Block(width, heads, ratio) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        self.predictor_proj = nn.Linear(width, dim)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.apply(init_weights)

    def forward(self, z, ctx, tgt):
        """z (C*B, K, D); ctx: C tensors (B, K); tgt: M tensors (B, T) -> (M*C*B, T, D), order [target][context][image]."""
        C, M, (B, T) = len(ctx), len(tgt), tgt[0].shape
        pos = self.predictor_pos_embed.expand(B, -1, -1)                             # (B, N, E)
        known = self.predictor_embed(z) + torch.cat([take(pos, c) for c in ctx])     # (C*B, K, E)
        asked = torch.cat([(self.mask_token + take(pos, t)).repeat(C, 1, 1) for t in tgt])   # (M*C*B, T, E)
        x = torch.cat([known.repeat(M, 1, 1), asked], 1)                             # (M*C*B, K+T, E)
        for block in self.predictor_blocks:
            x = block(x)
        return self.predictor_proj(self.predictor_norm(x[:, -T:]))


def targets(out, tgt, contexts=1):
    """What is predicted: out (B, N, D) -> (M*C*B, T, D)."""
    out = F.layer_norm(out.float(), out.shape[-1:], eps=1e-5)
    return torch.cat([take(out, t).repeat(contexts, 1, 1) for t in tgt])


def groups(encoder, predictor):
    """The four AdamW groups; biases and other vectors are not decayed."""
    named = [[(n, p) for n, p in m.named_parameters() if p.requires_grad] for m in (encoder, predictor)]
    vector = lambda n, p: p.dim() == 1 or n.endswith("bias")
    decayed = [{"params": [p for n, p in ps if not vector(n, p)]} for ps in named]
    plain = [{"params": [p for n, p in ps if vector(n, p)], "weight_decay": 0.0} for ps in named]
    return decayed + plain


def adamw(params):
    """AdamW with the fastest implementation this build has for the CPU."""
    for kind in ("fused", "foreach"):
        try:
            probe = nn.Parameter(torch.zeros(2))
            probe.grad = torch.zeros(2)
            torch.optim.AdamW([probe], **{kind: True}).step()
            return torch.optim.AdamW(params, betas=(0.9, 0.999), eps=1e-8, **{kind: True}), kind
        except (RuntimeError, TypeError):
            pass
    return torch.optim.AdamW(params), "loop"


def average(target, encoder, momentum):
    """target = momentum * target + (1 - momentum) * encoder"""
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(encoder.parameters()), 1.0 - momentum)


class MultiBlock:
    """Multi-block masks as published: one block size a batch, positions by image, all cut to the shortest."""

    def __init__(self, grid, seed=0, ctx_scale=(0.85, 1.0), tgt_scale=(0.15, 0.2), aspect=(0.75, 1.5), n_tgt=4, min_keep=10):
        self.grid, self.n_tgt, self.min_keep = grid, n_tgt, min_keep
        self.ctx_scale, self.tgt_scale, self.aspect = ctx_scale, tgt_scale, aspect
        self.batch, self.rng = 0, np.random.default_rng(seed)

    def size(self, u, scale, aspect):
        area = int(self.grid ** 2 * (scale[0] + u * (scale[1] - scale[0])))
        a = aspect[0] + u * (aspect[1] - aspect[0])
        return [min(round(math.sqrt(area * r)), self.grid - 1) for r in (a, 1 / a)]

    def block(self, h, w):
        top, left = self.rng.integers(self.grid - h), self.rng.integers(self.grid - w)
        m = np.zeros((self.grid, self.grid), bool)
        m[top:top + h, left:left + w] = True
        return m

    def draw(self, images):
        """-> context (images, K), targets M x (images, T), int64"""
        seeded = torch.Generator().manual_seed(self.batch)
        self.batch += 1
        u = [torch.rand(1, generator=seeded).item() for _ in range(2)]
        th, tw = self.size(u[0], self.tgt_scale, self.aspect)
        ch, cw = self.size(u[1], self.ctx_scale, (1.0, 1.0))
        ctx, tgt = [], []
        for _ in range(images):
            blocks = [self.block(th, tw) for _ in range(self.n_tgt)]
            tries = 0
            while True:                                  # after each 20 tries one target less is taken out
                free = self.block(ch, cw)
                for b in blocks[:max(0, self.n_tgt - tries // 20)]:
                    free &= ~b
                if free.sum() > self.min_keep:
                    break
                tries += 1
            ctx.append(np.flatnonzero(free))
            tgt.append([np.flatnonzero(b) for b in blocks])
        K = min(map(len, ctx))
        as_tensor = lambda rows: torch.from_numpy(np.stack(rows))
        return as_tensor([c[:K] for c in ctx]), [as_tensor([t[m] for t in tgt]) for m in range(self.n_tgt)]
