"""Our Gaunt product beside e3nn's `TensorProduct` of the same function, batch 2048, one channel, float32.

The peer has "uuu" paths with weights g^2 and no normalisation, degrees 0 .. L in both inputs; its 3j symbols end at
degree 11. `max_rel_diff` is the largest difference of outputs (of gradients by the first input, where there is a
backward pass), relative to the largest value. Memory is what one call adds to the peak, see `benching`. At the
end the slopes of log time over log L from L = 4 on, outputs up to L.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from benching import against_peer, exponent, print_memory, repetitions
from torch import Tensor

from eigenzoo.ops.gaunt import gaunt_plan, gaunt_product
from eigenzoo.tasks.gaunt_studies import LARGEST_PEER, peer_product

PEER = "e3nn"
BATCH = 2048
DEGREES = range(1, 9)
MODES = ("fwd", "fwd+bwd")
AGREEMENT = 1e-5
Case = tuple[int, int, str]
CASES: list[Case] = [
    (degree, top, mode)
    for degree in DEGREES
    for top in (degree, 2 * degree)
    for mode in MODES
    if top <= LARGEST_PEER
]


def run(report: Any, options: argparse.Namespace) -> None:
    """All cases; see the module."""
    for form in ("ours", "compiled") if options.compile else ("ours",):
        found = [
            (case, compare(report, number, case, form, options))
            for number, case in enumerate(CASES)
            if not options.quick or case[0] in (1, 2, 4)
        ]
        for mode in () if options.quick else MODES:
            growth = [(c[0], times) for c, times in found if c[2] == mode and c[1] == c[0] >= 4]
            for index, name in enumerate((form, PEER)):
                slope = exponent([n for n, _ in growth], [times[index] for _, times in growth])
                report.add(case=f"{name}, L = 4 .. {DEGREES[-1]} to L, {mode}", exponent=slope)


def make(form: str, case: Case, device: str) -> Callable[[], Tensor]:
    """One call; gives the output, or with a backward pass the gradient by the first input."""
    degree, top, mode = case
    generator = torch.Generator().manual_seed(1)
    shapes = [(BATCH, (n + 1) ** 2) for n in (degree, degree, top)]
    x, y, direction = (torch.randn(shape, generator=generator).to(device) for shape in shapes)
    function = (
        peer_product(degree, top).to(device) if form == PEER else our_product(form, degree, top, device)
    )

    def forward() -> Tensor:
        with torch.no_grad():
            return function(x, y)

    def both() -> Tensor:
        z = function(x, y)
        return torch.autograd.grad(z, (x, y), direction)[0]

    for tensor in (x, y):
        tensor.requires_grad_(mode != "fwd")
    return forward if mode == "fwd" else both


def our_product(form: str, degree: int, top: int, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The product with its tables at hand, compiled or not."""
    plan = gaunt_plan(degree, degree, top, dtype=torch.float32, device=device)

    def product(x: Tensor, y: Tensor) -> Tensor:
        return gaunt_product(x, y, plan=plan)

    return torch.compile(product) if form == "compiled" else product


def compare(report: Any, number: int, case: Case, form: str, options: argparse.Namespace) -> list[float]:
    """Times ours and the library's in turns and adds a line; stops where they disagree. Gives the milliseconds."""
    device = options.device
    steps = [make(name, case, device) for name in (form, PEER)]
    for step in steps:
        for _ in range(3):
            step()
    ours, theirs = (step() for step in steps)
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    count = repetitions(steps[1], device, quick=options.quick, least=7, most=51, budget_s=5)
    degree, top, mode = case
    return against_peer(
        report, f"L={degree} to {top} B={BATCH} {mode}", form=form, peer=PEER, steps=steps, difference=difference,
        agreement=AGREEMENT, count=count, memory=(__file__, number), device=device,
    )  # fmt: skip


def child() -> None:
    """Prints the additional peak memory in MB of the case that the command line names."""
    form, number, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    print_memory(lambda case: make(form, case, device), (1, 1, "fwd+bwd"), CASES[number], device)


if __name__ == "__main__":
    child()
