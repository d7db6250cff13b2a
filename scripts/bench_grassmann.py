"""Riemannian SGD on the Grassmannian beside the SVD form of the paper's code, and whole training steps of ResNet-20.

(a) One optimiser step with momentum, from the same weight, gradient and momentum. The paper's form is written out
here: momentum, projection, thin SVD, geodesic and QR of (classes, n, k), permuted from and to the stored matrix of
(classes k, n). Both re-orthonormalise at every fifth step, the default of both, and their times are means over such
a period. `limit_ms` is a streaming copy of as many bytes as a step must move: weight, gradient and momentum in, weight
and momentum out. `max_rel_diff` is the largest entry of S^T S - S'^T S' relative to that of S^T S, over fifty classes
after some steps of both.

(b) Forward, backward and update on a batch of 128 images, a Grassmann head (k = 8) beside a linear one, both under
GrassmannSGD (which is SGD for the latter). The step has to be at most `ALLOWED` times the linear head's.
"""

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from benching import medians, repetitions
from torch import Tensor, nn

from eigenzoo.models.backbones.resnet_cifar import CIFARResNet
from eigenzoo.models.heads.classifier import Classifier
from eigenzoo.models.heads.grassmann import GrassmannHead
from eigenzoo.models.heads.linear import LinearHead
from eigenzoo.ops.grassmann import random_subspaces
from eigenzoo.optim.grassmann import GrassmannSGD, RiemannianSGD

SIZES = ((1000, 8, 2048), (1000, 1, 2048), (1000, 4, 2048), (1000, 16, 2048), (1000, 32, 2048), (10, 8, 64))
LR, MOMENTUM, PERIOD = 0.1, 0.9, 5
STEPS = 3  # before the spans are compared
COMPARED = 50  # classes
AGREEMENT, WANTED, ALLOWED = 2e-5, 2.0, 1.15
BATCH, CLASSES = 128, (10, 100)


class SVDForm:
    """The paper's step on a matrix of (classes k, n)."""

    def __init__(self, S: Tensor):
        self.shape = S.shape
        self.W, self.M = S.reshape(-1, S.shape[-1]).clone(), torch.zeros_like(S.flatten(0, 1))

    def step(self, D: Tensor, orthonormal: bool) -> None:
        self.M.mul_(MOMENTUM).add_(D)
        S, M = self._columns(self.W), self._columns(self.M)
        H = M - S @ (S.mT @ M)
        U, sigma, Vh = torch.linalg.svd(H, full_matrices=False)
        angles = (-LR * sigma).unsqueeze(-2)
        S = (S @ Vh.mT * angles.cos() + U * angles.sin()) @ Vh
        if orthonormal:
            S = torch.linalg.qr(S).Q
        self.W.copy_(S.permute(0, 2, 1).reshape(self.W.shape))

    def _columns(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(self.shape).permute(0, 2, 1).contiguous()


def run(report: Any, options: argparse.Namespace) -> None:
    """All cases; see the module."""
    torch.manual_seed(0)
    for classes, k, n in SIZES[:1] if options.quick else SIZES:
        _step(report, classes, k, n, options)
    for classes in CLASSES[:1] if options.quick else CLASSES:
        _training(report, classes, options)


def _step(report: Any, classes: int, k: int, n: int, options: argparse.Namespace) -> None:
    """Case (a)."""
    device = options.device
    S = random_subspaces(classes, k, n, device=device)
    D = torch.randn(classes, k, n, device=device) * 0.3 / n**0.5
    difference = _difference(S, D)
    functions = [*_ours(S, D), *_paper(S, D), _traffic(S)]
    names = ["ours", "ours with reorthonormalisation", "svd", "svd with qr", "limit"]
    if importlib.util.find_spec("geoopt"):
        functions.append(_geoopt(S, D))
    count = repetitions(functions[3], device, quick=options.quick, most=101, budget_s=6)
    times = medians(functions, count, device)
    plain, fifth, svd, qr, limit = times[:5]
    ours, theirs = (a + (b - a) / PERIOD for a, b in ((plain, fifth), (svd, qr)))
    report.add(
        case=f"step C={classes} k={k} n={n}",
        peer="SVD form",
        peer_version=None,
        ours_ms=ours,
        peer_ms=theirs,
        ratio=theirs / ours,
        limit_ms=limit,
        times_limit=ours / limit,
        parts_ms={name: round(time, 3) for name, time in zip(names, times, strict=False)},
        geoopt_ms=times[5] if len(times) > 5 else None,
        repetitions=count,
        max_rel_diff=difference,
    )
    if not difference < AGREEMENT:
        raise SystemExit(f"the spans differ by {difference:.3g}, allowed {AGREEMENT:g}")
    if (classes, k, n) == SIZES[0] and theirs < WANTED * ours:
        raise SystemExit(f"the step is {theirs / ours:.2f} times as fast as the SVD form, wanted {WANTED}")


def _ours(S: Tensor, D: Tensor) -> list[Callable[[], Any]]:
    """Steps that never and that always re-orthonormalise."""
    steps = []
    for every in (0, 1):
        parameter = nn.Parameter(S.clone())
        parameter.grad = D
        optimiser = RiemannianSGD([parameter], lr=LR, momentum=MOMENTUM, reorthonormalise_every=every)
        optimiser.step()
        steps.append(optimiser.step)
    return steps


def _paper(S: Tensor, D: Tensor) -> list[Callable[[], Any]]:
    """Steps without and with QR."""
    without, with_qr, flat = SVDForm(S), SVDForm(S), D.flatten(0, 1)
    return [lambda: without.step(flat, False), lambda: with_qr.step(flat, True)]


def _geoopt(S: Tensor, D: Tensor) -> Callable[[], Any]:
    """Its Riemannian SGD on the Stiefel manifold, a retraction in place of the geodesic."""
    import geoopt  # type: ignore[import-not-found]

    parameter = geoopt.ManifoldParameter(S.mT.clone(), manifold=geoopt.Stiefel())
    parameter.grad = D.mT.contiguous()
    return geoopt.optim.RiemannianSGD([parameter], lr=LR, momentum=MOMENTUM).step


def _traffic(S: Tensor) -> Callable[[], Any]:
    """A copy that reads and writes five times the bytes of the weight, together."""
    source = torch.randn(S.numel() * 5 // 2, device=S.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _difference(S: Tensor, D: Tensor) -> float:
    """Of the spans after some steps along one gradient, both with the ambient momentum of the paper's code."""
    parameter = nn.Parameter(S.clone())
    parameter.grad = D
    optimiser = RiemannianSGD([parameter], lr=LR, momentum=MOMENTUM, transport="ambient")
    paper = SVDForm(S)
    for _ in range(STEPS):
        optimiser.step()
        paper.step(D.flatten(0, 1), False)
    ours, theirs = parameter.detach(), paper.W.reshape(S.shape)
    worst = 0.0
    for a, b in zip(ours[:COMPARED], theirs[:COMPARED], strict=True):
        span = a.mT @ a
        worst = max(worst, float((span - b.mT @ b).abs().max() / span.abs().max()))
    return worst


def _training(report: Any, classes: int, options: argparse.Namespace) -> None:
    """Case (b)."""
    device = options.device
    x = torch.randn(BATCH, 3, 32, 32, device=device)
    y = torch.randint(classes, (BATCH,), device=device)
    steps = [_trainer(head, classes, x, y) for head in (GrassmannHead, LinearHead)]
    for step in steps:
        step()
    count = repetitions(steps[0], device, quick=options.quick, most=31, least=9)
    ours, linear = medians(steps, count, device)
    report.add(
        case=f"ResNet-20 step batch={BATCH} C={classes} k=8",
        peer="linear head",
        peer_version=None,
        ours_ms=ours,
        peer_ms=linear,
        ratio=linear / ours,
        times_linear=ours / linear,
        repetitions=count,
    )
    if ours > ALLOWED * linear:
        raise SystemExit(f"the step is {ours / linear:.2f} times that with a linear head, allowed {ALLOWED}")


def _trainer(head: Any, classes: int, x: Tensor, y: Tensor) -> Callable[[], Any]:
    """Forward, backward and update."""
    model = Classifier(CIFARResNet(), head, dim_out=classes).to(x.device)
    optimiser = GrassmannSGD(model, lr=LR, weight_decay=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        model.loss(x, y).backward()
        optimiser.step()

    return step
