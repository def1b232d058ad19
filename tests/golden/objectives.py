"""Makes objectives.safetensors with PyTorch: losses of recipes/objectives and their gradients, in double.

    python tests/golden/objectives.py

SIGReg: arXiv 2511.08544. VICReg: arXiv 2105.04906. VISReg: arXiv 2606.02572.
"""
import math

import torch

from make import save


def sigreg(z, a):
    """z (N, K), a (K, S) with unit columns: N times the Epps-Pulley statistic, mean over the directions."""
    n, dt = z.shape[0], 3 / 16
    x = z @ a
    total = torch.zeros(a.shape[1], dtype=z.dtype)
    for j in range(17):
        t = j * dt
        phi = math.exp(-t * t / 2)
        w = dt if j in (0, 16) else 2 * dt
        total = total + w * phi * ((torch.cos(t * x).mean(0) - phi) ** 2 + torch.sin(t * x).mean(0) ** 2)
    return n * total.mean()


def variance(z):
    return torch.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean()


def covariance(z):
    z = z - z.mean(0)
    c = z.T @ z / (z.shape[0] - 1)
    return (c - torch.diag(torch.diag(c))).pow(2).sum() / z.shape[1]


def visreg(z, a):
    """z (N, K), a (K, S): spread of each dimension, and the sliced Wasserstein distance to a normal distribution."""
    n = z.shape[0]
    centred = z - z.mean(0)
    sigma = torch.sqrt(centred.pow(2).mean(0) + 1e-6)
    spread = (1 - sigma).pow(2).mean()
    x = (centred / sigma) @ a
    q = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(n, dtype=z.dtype) + 0.5) / n)
    return spread, (x.sort(0).values - q[:, None]).pow(2).mean()


def main():
    torch.manual_seed(7)
    z = torch.randn(24, 6, dtype=torch.float64) * torch.linspace(0.2, 1.6, 6, dtype=torch.float64) + 0.3
    z = z.float().double().requires_grad_()  # values that float32 has
    a = torch.randn(6, 16, dtype=torch.float64)
    a = (a / a.norm(dim=0)).float().double()
    out = {"z": z, "a": a}
    spread, distance = visreg(z, a)
    losses = {"sigreg": sigreg(z, a), "variance": variance(z), "covariance": covariance(z), "spread": spread,
              "distance": distance}
    for name, loss in losses.items():
        (grad,) = torch.autograd.grad(loss, z, retain_graph=True)
        out[name], out[name + ".grad"] = loss.reshape(1), grad
    save("objectives.safetensors", out, {"torch": torch.__version__.split("+")[0]})


main()
