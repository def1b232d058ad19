"""Makes optim.safetensors: steps of optimizers, computed in double, for tests/lua/test_optim.lua.

    python tests/golden/make_optim.py

SGD and AdamW are PyTorch's. LARS and Lion, which PyTorch has not, are written out from their papers: You, Gitman and
Ginsburg, arXiv:1708.03888, in the form of VICReg's experiments (the ratio of the norms of parameters and of gradient
plus decay; biases and norms are neither decayed nor adapted); Chen et al., arXiv:2302.06675, algorithm 2.

For each case and each of its two tensors, w (4, 9) decayed and b (9) not: CASE.w.p0, .g1 .. .g4, .p1 .. .p4, and the
moments after the last step: .m, of AdamW .v too. The plan of learning rates, decays and momenta is metadata.
"""
import json

import torch

from make import randn, save

PLAN = [(1e-2, 0.04), (2e-2, 0.1), (5e-3, 0.4), (3e-3, 0.2)]
MOMENTA = [0.9, 0.8, 0.95, 0.5]  # of the case whose momentum is scheduled


def by_pytorch(make, names):
    def run(w, b, grads, out):
        opt = make([{"params": [w]}, {"params": [b], "weight_decay": 0}])
        for i, (lr, wd) in enumerate(PLAN, 1):
            w.grad, b.grad = grads[i - 1]
            opt.param_groups[0].update(lr=lr, weight_decay=wd)
            opt.param_groups[1].update(lr=lr)
            if names == ["scheduled"]:
                for group in opt.param_groups:
                    group["momentum"] = MOMENTA[i - 1]
            opt.step()
            out(i, w, b)
        state = names if names != ["scheduled"] else ["momentum_buffer"]
        return [[opt.state[p][n] for n in state] for p in (w, b)]
    return run


def by_formula(update):
    def run(w, b, grads, out):
        m = [torch.zeros_like(w), torch.zeros_like(b)]
        with torch.no_grad():
            for i, (lr, wd) in enumerate(PLAN, 1):
                for k, p in enumerate((w, b)):
                    update(p, grads[i - 1][k], m[k], lr, wd if k == 0 else 0, k == 0)
                out(i, w, b)
        return [[m[0]], [m[1]]]
    return run


def lars(p, g, m, lr, wd, adapted, momentum=0.9, trust=0.02):
    d = g + wd * p
    if adapted:
        d = d * (trust * p.norm() / d.norm())
    m.mul_(momentum).add_(d)
    p.sub_(lr * m)


def lion(p, g, m, lr, wd, adapted, b1=0.9, b2=0.99):
    p.sub_(lr * (torch.sign(b1 * m + (1 - b1) * g) + wd * p))
    m.mul_(b2).add_((1 - b2) * g)


SGD = torch.optim.SGD
CASES = {
    "adamw": by_pytorch(lambda g: torch.optim.AdamW(g, betas=(0.9, 0.95), eps=1e-6), ["exp_avg", "exp_avg_sq"]),
    "sgd": by_pytorch(lambda g: SGD(g, lr=1, momentum=0.9), ["momentum_buffer"]),
    "sgd_plain": by_pytorch(lambda g: SGD(g, lr=1), []),
    "sgd_nesterov": by_pytorch(lambda g: SGD(g, lr=1, momentum=0.8, nesterov=True), ["momentum_buffer"]),
    "sgd_scheduled": by_pytorch(lambda g: SGD(g, lr=1, momentum=0.9), ["scheduled"]),
    "lars": by_formula(lars),
    "lion": by_formula(lion),
}

if __name__ == "__main__":
    torch.manual_seed(4)
    out = {}
    for name, run in CASES.items():
        w, b = torch.nn.Parameter(randn(4, 9)), torch.nn.Parameter(randn(9))
        grads = [(randn(4, 9, scale=10.0 ** -i), randn(9, scale=10.0 ** -i)) for i in range(1, len(PLAN) + 1)]
        for n, p in (("w", w), ("b", b)):
            out[f"{name}.{n}.p0"] = p.detach().clone()
        for i, (gw, gb) in enumerate(grads, 1):
            out[f"{name}.w.g{i}"], out[f"{name}.b.g{i}"] = gw, gb

        def keep(i, w, b):
            out[f"{name}.w.p{i}"], out[f"{name}.b.p{i}"] = w.detach().clone(), b.detach().clone()

        moments = run(w, b, grads, keep)
        for n, of in zip("wb", moments):
            for k, t in zip("mv", of):
                out[f"{name}.{n}.{k}"] = t
    save("optim.safetensors", out, {"plan": json.dumps([{"lr": lr, "wd": wd} for lr, wd in PLAN]),
                                    "momenta": json.dumps(MOMENTA), "computed_in": "float64", "torch": torch.__version__})
