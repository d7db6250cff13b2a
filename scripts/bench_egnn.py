"""Our EGNN (four layers of 64, velocities) beside the same network over a list of edges, as PyG writes it, float32.

The other form concatenates [h_i, h_j, r_ij, a_ij] for every edge and sums with `torch_geometric.utils.scatter`, as
the released code does; it has the same weights, and of the last layer no phi_h either. `max_rel_diff` is the largest
difference of outputs and of gradients by the parameters, relative to the largest value. The exponents of time
against the number of particles are of batches of 100. Memory is what one call adds to the peak, see `benching`.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from benching import against_peer, exponent, print_memory, repetitions
from torch import Tensor

from eigenzoo.models.equivariant.egnn import EGNN, EGNNLayer

PEER = "torch_geometric"
SIZES = ((5, 100), (10, 100), (20, 100), (50, 100), (50, 10))
CASES = [(n, batch, mode) for n, batch in SIZES for mode in ("fwd", "fwd+bwd")]
AGREEMENT = 1e-5
Case = tuple[int, int, str]


def run(report: Any, options: argparse.Namespace) -> None:
    """All cases, then the growth of both with the number of particles; see the module."""
    times: dict[str, list[tuple[int, float, float]]] = {}
    for number, case in enumerate(CASES):
        n, batch, mode = case
        if options.quick and n > 20:
            continue
        for form in ("ours", "compiled") if options.compile else ("ours",):
            ours, theirs = compare(report, number, case, form, options)
            if form == "ours" and batch == 100:
                times.setdefault(mode, []).append((n, ours, theirs))
    for mode, rows in times.items():
        sizes, ours, theirs = zip(*rows, strict=True)
        report.add(
            case=f"{mode}: exponent of time in n, B=100",
            ours_exponent=exponent(sizes, ours),
            peer_exponent=exponent(sizes, theirs),
        )


def compare(
    report: Any, number: int, case: Case, form: str, options: argparse.Namespace
) -> tuple[float, float]:
    """Times ours and the other in turns and adds a line; stops where they disagree."""
    device = options.device
    steps = [make(name, case, device) for name in (form, PEER)]
    results = [step() for step in steps]
    difference = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*results, strict=True))
    count = repetitions(steps[1], device, quick=options.quick, least=5, most=51, budget_s=10)
    n, batch, mode = case
    ours, theirs = against_peer(
        report, f"n={n} B={batch} {mode}", form=form, peer=PEER, steps=steps, difference=difference,
        agreement=AGREEMENT, count=count, memory=(__file__, number), device=device,
    )  # fmt: skip
    return ours, theirs


def make(form: str, case: Case, device: str) -> Callable[[], list[Tensor]]:
    """Forward (no gradients) or forward and backward; gives the output and, with gradients, those of the weights."""
    n, batch, mode = case
    torch.manual_seed(0)
    model = EGNN().to(device)
    with torch.no_grad():
        for layer in layers_of(model):
            layer.messages.last.mul_(30)  # type: ignore[union-attr]  # the messages must show in the output
    pos, vel = (torch.randn(batch, n, 3).to(device) for _ in range(2))
    charge, target = torch.randn(batch, n, 1).sign().to(device), torch.randn(batch, n, 3).to(device)
    call = over_edges(model, charge) if form == PEER else model
    if form == "compiled":
        call = torch.compile(model)

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [call(pos, vel, charge)]

    def step() -> list[Tensor]:
        y = call(pos, vel, charge)
        loss = (y - target).square().mean()
        return [y.detach(), *torch.autograd.grad(loss, list(model.parameters()))]

    return forward if mode == "fwd" else step


def layers_of(model: EGNN) -> list[EGNNLayer]:
    """Its layers, as what they are."""
    return [layer for layer in model.layers if isinstance(layer, EGNNLayer)]


def over_edges(model: EGNN, charge: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The network over the edges of all systems; the list of edges is made once."""
    batch, n, _ = charge.shape
    i, j = torch.where(~torch.eye(n, dtype=torch.bool, device=charge.device))
    first = n * torch.arange(batch, device=charge.device)[:, None]
    receiver, sender = (first + i).flatten(), (first + j).flatten()

    def call(pos: Tensor, vel: Tensor, charge: Tensor) -> Tensor:
        x, v, q = (t.flatten(0, 1) for t in (pos, vel, charge))
        h = model.embedding(v.norm(dim=1, keepdim=True))
        a = torch.cat([q[receiver] * q[sender], (x[receiver] - x[sender]).square().sum(1, keepdim=True)], 1)
        for layer in layers_of(model):
            h, x = layer_over_edges(layer, h, x, v, a, receiver, sender)
        return x.view_as(pos)

    return call


def layer_over_edges(
    layer: EGNNLayer, h: Tensor, x: Tensor, v: Tensor, a: Tensor, receiver: Tensor, sender: Tensor
) -> tuple[Tensor, Tensor]:
    """One layer, literally."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_geometric.utils import scatter
    net = layer.messages
    difference = x[receiver] - x[sender]
    e = torch.cat([h[receiver], h[sender], difference.square().sum(1, keepdim=True), a], 1)
    m = F.silu(F.linear(F.silu(F.linear(e, net.first, net.first_bias)), net.second, net.second_bias))
    head, bias, last = net._head()
    c = F.linear(F.silu(F.linear(m, head, bias)), last[None])
    x = x + scatter(difference * c, receiver, dim_size=len(x), reduce="mean") + layer.speed(h) * v  # type: ignore[misc]
    return h if layer.update is None else layer.update(h, scatter(m, receiver, dim_size=len(h))), x


def child() -> None:
    """Prints the additional peak memory in MB of the case that the command line names."""
    form, number, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    case = CASES[number]
    print_memory(lambda case: make(form, case, device), (3, 2, case[2]), case, device)


if __name__ == "__main__":
    child()
