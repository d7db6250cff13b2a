"""Our spectral convolution beside neuraloperator's, batch 8, 32 channels, float32, the same weights.

The library counts modes in total and keeps `m // 2 + 1` of the last axis, so `2 m` rows and `2 m - 2` columns there are
one-sided m here: both hold the same complex weights and keep the same coefficients. Its bias is off. `max_rel_diff`
is the largest difference of outputs and of gradients by the input, relative to the largest value. Memory is what one
forward and backward adds to the peak, see `benching`.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from benching import against_peer, print_memory, repetitions
from torch import Tensor, nn

from eigenzoo.models.operators.spectral import SpectralConv

PEER = "neuraloperator"
CASES = [
    *((8, 32, (n, n), (m, m)) for n in (64, 128) for m in (12, 16)),
    (20, 64, (1024,), (16,)),
    (2, 20, (64, 64, 40), (8, 8, 8)),
]
AGREEMENT = 1e-5
Case = tuple[int, int, Sequence[int], Sequence[int]]


def run(report: Any, options: argparse.Namespace) -> None:
    """All cases; see the module."""
    run_cases(report, make, __file__, options)


def run_cases(report: Any, make: Callable, file: str, options: argparse.Namespace) -> None:
    """Every case of what the `make` of a file makes, compiled too where that is asked for."""
    for number, case in enumerate(CASES):
        for form in ("ours", "compiled") if options.compile else ("ours",):
            compare(report, make, file, number, case, form, options)


def make(form: str, case: Case, device: str) -> Callable[[], list[Tensor]]:
    """Forward and backward with all gradients; gives the output and the gradient by the input."""
    batch, dim, grid, modes = case
    theirs = peer_convolution(dim, modes)
    module: nn.Module = theirs
    if form != PEER:
        module = SpectralConv(dim, dim, modes=modes)
        module.set_dense_weight(next(theirs.parameters()).detach())
    return stepper(module, (batch, dim, *grid), form, device)


def peer_convolution(dim: int, modes: Sequence[int]) -> nn.Module:
    """The library's layer with the weights of seed 0."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuralop.layers.spectral_convolution import SpectralConv as Peer
    return Peer(dim, dim, total_modes(modes), bias=False)


def total_modes(modes: Sequence[int]) -> tuple[int, ...]:
    """What the library calls the modes that are m, one-sided, here."""
    return (*(2 * m for m in modes[:-1]), 2 * modes[-1] - 2)


def stepper(module: nn.Module, shape: Sequence[int], form: str, device: str) -> Callable[[], list[Tensor]]:
    """One step of training without the optimiser, on fixed random fields."""
    module.to(device)
    if form == "compiled":
        module.compile()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator).to(device).requires_grad_()
    leaves = [x, *module.parameters()]
    direction: list[Tensor] = []

    def step() -> list[Tensor]:
        y = module(x)
        if not direction:
            direction.append(torch.randn(y.shape, generator=generator).to(device))
        return [y.detach(), torch.autograd.grad(y, leaves, direction[0])[0]]

    return step


def compare(
    report: Any,
    make: Callable[[str, Case, str], Callable[[], list[Tensor]]],
    script: str,
    number: int,
    case: Case,
    form: str,
    options: argparse.Namespace,
) -> None:
    """Times ours and the library's in turns and adds a line; stops where they disagree."""
    device = options.device
    torch.backends.cudnn.allow_tf32 = False
    steps = [make(name, case, device) for name in (form, PEER)]
    results = [step() for step in steps]
    difference = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*results, strict=True))
    count = repetitions(steps[1], device, quick=options.quick, least=5, most=31, budget_s=10)
    batch, dim, grid, modes = case
    against_peer(
        report, f"n={'x'.join(map(str, grid))} m={modes[0]} B={batch} C={dim} fwd+bwd", form=form, peer=PEER,
        steps=steps, difference=difference, agreement=AGREEMENT, count=count, memory=(script, number), device=device,
    )  # fmt: skip


def child(make: Callable[[str, Case, str], Callable[[], list[Tensor]]], cases: Sequence[Case]) -> None:
    """Prints the additional peak memory in MB of the case that the command line names."""
    form, number, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    _, dim, _, modes = cases[number]
    small = (1, dim, [2 * m for m in modes], modes)
    print_memory(lambda case: make(form, case, device), small, cases[number], device)


if __name__ == "__main__":
    child(make, CASES)
