"""Makes tensor.safetensors with PyTorch: the result of each op that docs/tensor.md lists with a gradient, and the gradients.

    python tests/golden/tensor.py

For each case: NAME.y, and NAME.d0, NAME.d1 ...: the gradients of sum(y * weight) for the inputs x0, x1 ..., where
weight is cos(0), cos(1), ... in y's order. Inputs: float x (3, 4), p (3, 4) positive, y (3, 4), r (4), c (3, 1),
b (2, 3, 4), m (4, 5), i (2, 3, 6, 6), w (4, 3, 3, 3), all in double; tests/lua/test_tensor_ops.lua has the same list.
"""
import math

import torch
import torch.nn.functional as F

from make import save

torch.manual_seed(11)


def draw(*shape):
    return torch.randn(*shape).float().double()


INPUT = {"x": draw(3, 4), "p": draw(3, 4).abs() + 0.2, "y": draw(3, 4) + 0.1, "r": draw(4), "c": draw(3, 1) + 2,
         "b": draw(2, 3, 4), "m": draw(4, 5), "i": draw(2, 3, 6, 6), "w": draw(4, 3, 3, 3) * 0.3, "v": draw(4),
         "q": torch.rand(3, 4).float().double() * 0.8 + 0.1}
INDEX = torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]])
LONG = torch.tensor([2, 0, 0, 1])
MASK = INPUT["x"] > 0.1
TARGET = torch.tensor([1, 3, 0])

CASES = {}


def case(name, inputs, f):
    CASES[name] = (inputs.split(), f)


for f in "exp sin cos tanh sigmoid erf abs neg square expm1".split():
    case(f, "x", getattr(torch, f))
for f in "log sqrt rsqrt log1p reciprocal".split():
    case(f, "p", getattr(torch, f))
case("silu", "x", F.silu)
case("gelu", "x", F.gelu)
case("relu", "x", F.relu)
for f in "sign floor round ceil".split():
    case(f, "x", getattr(torch, f))
case("pow_number", "p", lambda x: x ** 1.7)
case("number_pow", "x", lambda x: 2.5 ** x)
case("pow", "p y", lambda x, y: x ** y)
case("clamp", "x", lambda x: x.clamp(-0.5, 0.7))
case("add_row", "x r", lambda x, r: x + r)
case("sub_column", "x c", lambda x, c: x - c)
case("mul_3d", "b c", lambda b, c: b * c)
case("div", "x c", lambda x, c: x / c)
case("number_minus", "x", lambda x: 3 - x)
case("number_over", "p", lambda x: 2 / x)
case("minimum", "x y", torch.minimum)
case("maximum", "x r", torch.maximum)
case("where", "x y", lambda x, y: torch.where(MASK, x, y))
case("masked_fill", "x", lambda x: x.masked_fill(MASK, 0.25))
case("masked_select", "x", lambda x: x[MASK])
for f in "sum mean prod".split():
    case(f, "x", getattr(torch, f))
    case(f + "_1", "b", lambda x, f=f: getattr(torch, f)(x, 0))
    case(f + "_2_keep", "b", lambda x, f=f: getattr(torch, f)(x, 1, keepdim=True))
case("sum_13", "b", lambda x: x.sum((0, 2)))
for f in "var std".split():
    case(f, "x", getattr(torch, f))
    case(f + "_2", "b", lambda x, f=f: getattr(torch, f)(x, 1))
case("var_biased", "b", lambda x: x.var(-1, unbiased=False, keepdim=True))
case("norm", "x", torch.linalg.vector_norm)
case("norm_1", "x", lambda x: torch.linalg.vector_norm(x, 1, 1))
case("norm_3", "x", lambda x: torch.linalg.vector_norm(x, 3, 0))
case("max", "x", torch.max)
case("min_2", "x", lambda x: x.min(1).values)
case("amax_keep", "b", lambda x: x.amax((0, 2), keepdim=True))
case("cumsum_1", "x", lambda x: x.cumsum(0))
case("cumsum_2", "b", lambda x: x.cumsum(1))
case("logsumexp", "x", lambda x: x.logsumexp(1))
case("logsumexp_keep", "b", lambda x: x.logsumexp(0, keepdim=True))
case("sort_1", "x", lambda x: x.sort(0).values)
case("sort_desc", "b", lambda x: x.sort(1, descending=True).values)
case("topk", "x", lambda x: x.topk(2).values)
case("topk_smallest", "b", lambda x: x.topk(2, 1, largest=False).values)
case("cat_1", "x r", lambda x, r: torch.cat([x, r[None], x], 0))
case("cat_2", "x c", lambda x, c: torch.cat([x, c], 1))
case("stack_2", "x y", lambda x, y: torch.stack([x, y], 1))
case("split", "b", lambda b: b.split(2, 1)[1])
case("chunk", "x", lambda x: x.chunk(2, 1)[1])
case("permute", "b", lambda b: b.permute(2, 0, 1) * 1)
case("t", "x", lambda x: x.t() * 1)
case("squeeze", "c", lambda c: c.squeeze(1))
case("unsqueeze", "x", lambda x: x.unsqueeze(1))
case("flatten", "b", lambda b: b.flatten(1))
case("expand", "c", lambda c: c.expand(2, 3, 4) * 1)
case("tile", "x", lambda x: x.repeat(2, 1, 2))
case("flip", "b", lambda b: b.flip(1, 2))
case("roll", "x", lambda x: x.roll(1, 1))
case("unfold", "x", lambda x: x.unfold(1, 2, 1))
case("narrow", "b", lambda b: b.narrow(1, 1, 2) * 1)
case("select", "b", lambda b: b[:, 1] * 1)
case("bracket", "b", lambda b: b[1, 0:2] * 1)
case("index_select", "x", lambda x: x.index_select(1, LONG[:3]))
case("gather", "x", lambda x: x.gather(0, INDEX))
case("scatter_add", "x y", lambda x, y: x.scatter_add(0, INDEX, y[:2] * 1))
case("matmul", "x m", torch.matmul)
case("matmul_batch", "b m", torch.matmul)
case("matmul_vector", "x v", torch.matmul)
case("dot", "r v", torch.dot)
case("outer", "r v", torch.outer)
case("einsum", "b x", lambda b, x: torch.einsum("aij,kj->ika", b, x))
case("einsum_batch", "b x", lambda b, x: torch.einsum("aij,ij->ai", b, x))
case("linear", "x m", lambda x, m: F.linear(x, m.t()))
case("conv2d", "i w", lambda i, w: F.conv2d(i, w, stride=2, padding=1))
case("avg_pool2d", "i", lambda i: F.avg_pool2d(i, 2))
case("interpolate", "i", lambda i: F.interpolate(i, (9, 4), mode="bilinear", align_corners=False))
case("interpolate_bicubic", "i", lambda i: F.interpolate(i, (4, 8), mode="bicubic", align_corners=False))
case("interpolate_nearest", "i", lambda i: F.interpolate(i, (3, 9), mode="nearest"))
case("softmax", "x", lambda x: x.softmax(1))
case("softmax_1", "b", lambda x: x.softmax(0))
case("log_softmax", "b", lambda x: x.log_softmax(1))
case("layer_norm", "x", lambda x: F.layer_norm(x, (4,)))
case("normalize", "x", lambda x: F.normalize(x, dim=1))
case("cosine_similarity", "x y", lambda x, y: F.cosine_similarity(x, y, 1))
case("mse_loss", "x y", F.mse_loss)
case("l1_loss", "x y", F.l1_loss)
case("smooth_l1", "x y", F.smooth_l1_loss)
case("cross_entropy", "x", lambda x: F.cross_entropy(x, TARGET))
case("bce", "q", lambda q: F.binary_cross_entropy(q, MASK.double()))
case("bce_logits", "x", lambda x: F.binary_cross_entropy_with_logits(x, MASK.double()))
case("kl_div", "x q", lambda x, q: F.kl_div(x.log_softmax(1), q / q.sum(1, keepdim=True), reduction="batchmean"))


def main():
    out = {"in." + k: v for k, v in INPUT.items()}
    for name, (inputs, f) in CASES.items():
        x = [INPUT[k].clone().requires_grad_() for k in inputs]
        y = f(*x)
        if y.ndim == 0:
            y = y.reshape(1)
        weight = torch.tensor([math.cos(k) for k in range(y.numel())], dtype=torch.float64).reshape(y.shape)
        grads = torch.autograd.grad((y * weight).sum(), x, allow_unused=True)
        out[name + ".y"] = y
        for k, g in enumerate(grads):
            out[f"{name}.d{k}"] = torch.zeros_like(x[k]) if g is None else g
    save("tensor.safetensors", out, {"torch": torch.__version__.split("+")[0]})


main()
