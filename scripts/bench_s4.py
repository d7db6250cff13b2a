"""The S4 kernel in three forms, H = 128, N = 64, float32 parameters, and streaming.

generating: the generating function in its reduced form (`dplr_kernel`); dense: dense powers in two levels
(`dense_kernel`), both float64 inside; peer: the Cauchy sums as usually written, complex64 arrays of (channels,
modes, nodes) at the roots of unity, and C (I - Abar^L) in the place of C. Memory as in `benching`.
"""

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from benching import exponent, medians, memory_mb, milliseconds, print_memory, repetitions, resident_mb
from torch import Tensor

from eigenzoo.models.ssm import S4D
from eigenzoo.models.ssm.s4 import S4
from eigenzoo.ops import Pair
from eigenzoo.ops.dense import dense_kernel, dense_matrices, dense_power, from_real, output_row
from eigenzoo.ops.dplr import DPLR, dplr_discretise, dplr_kernel

DIM, STATE_DIM = 128, 64
LENGTHS = (1024, 4096, 16384)
GROWTH = (1024, 4096, 16384, 65536)
FORMS = ("generating", "dense")
STEPS = 10_000


def kernel_case(form: str, length: int, device: str) -> Callable[[], Tensor]:
    """Forward and backward of one form from leaves of A, P, B, C and dt; returns the kernel."""
    torch.manual_seed(0)
    layer = S4(DIM, STATE_DIM).to(device)
    c, dt = Pair(*layer.C.detach().double().unbind(-1)), layer.log_dt.detach().double().exp()
    system = DPLR(*(Pair(x.re.detach(), x.im.detach()) for x in layer.continuous()))
    if form == "peer":
        c = _truncated(system, c, dt, length)
        c, dt = c.to(torch.float32), dt.float()
        system = DPLR(*(x.to(torch.float32) for x in system))
    leaves = [x.clone().requires_grad_() for pair in (*system, c) for x in pair] + [dt.requires_grad_()]
    gradient = torch.randn(1, DIM, length).to(device)

    def run() -> Tensor:
        pairs = [Pair(*leaves[i : i + 2]) for i in range(0, 8, 2)]
        kernel = _evaluate(form, DPLR(*pairs[:3]), pairs[3], leaves[8], length)
        kernel.backward(gradient)
        for leaf in leaves:
            leaf.grad = None
        return kernel.detach()

    return run


def _evaluate(form: str, system: DPLR, c: Pair, dt: Tensor, length: int) -> Tensor:
    if form == "peer":
        return plain_kernel(system, c, dt, length)
    if form == "generating":
        return dplr_kernel(system, c, dt, length, dtype=torch.float32)
    abar, bbar = dense_matrices(dplr_discretise(system, dt))
    return dense_kernel(output_row(c), abar, bbar, length).float()


def _truncated(system: DPLR, c: Pair, dt: Tensor, length: int) -> Pair:
    """C (I - Abar^L)."""
    abar, _ = dense_matrices(dplr_discretise(system, dt))
    row = output_row(c)
    truncated = from_real(row - dense_power(abar.mT, row, length))
    return Pair(truncated.real, -truncated.imag)


def plain_kernel(system: DPLR, c: Pair, dt: Tensor, length: int) -> Tensor:
    """S4's kernel with every array of (channels, modes, nodes) written out; rank 1."""
    angle = torch.arange(length // 2 + 1, dtype=torch.float64, device=dt.device) * (-2 * math.pi / length)
    z = torch.polar(torch.ones_like(angle), angle)
    g = (2 * (1 - z) / (1 + z)).to(torch.complex64) / dt.unsqueeze(-1)
    a, p, b = system.a.complex(), system.p.complex()[:, 0], system.b.complex()
    outputs, inputs = torch.stack([c.complex()[0], p.conj()]), torch.stack([b, p])
    w = outputs.unsqueeze(1) * inputs.unsqueeze(0)
    upper, lower = 1 / (g.unsqueeze(1) - a.unsqueeze(-1)), 1 / (g.unsqueeze(1) - a.conj().unsqueeze(-1))
    k = torch.einsum("xyhn,hnl->xyhl", w, upper) + torch.einsum("xyhn,hnl->xyhl", w.conj(), lower)
    spectrum = (2 / (1 + z)).to(torch.complex64) * (k[0, 0] - k[0, 1] * k[1, 0] / (1 + k[1, 1]))
    return torch.fft.irfft(spectrum, length).unsqueeze(0)


def stream_case(name: str, report: Any, device: str, steps: int) -> None:
    """Samples per second of the recurrence, and the growth of the resident set while it runs."""
    torch.manual_seed(0)
    layer = (S4 if name == "S4" else S4D)(DIM, STATE_DIM, init="legs").to(device).eval()
    u = torch.randn(64, 1, DIM).to(device)
    with torch.no_grad():
        state = layer.initial_state(1)
        for i in range(500):
            _, state = layer.step(u[i % 64], state)

        def run() -> None:
            nonlocal state
            for i in range(steps):
                _, state = layer.step(u[i % 64], state)

        before = resident_mb()
        elapsed = milliseconds(run, device)
    report.add(
        case=f"step {name}, batch 1, {steps} steps",
        samples_per_s=1e3 * steps / elapsed,
        growth_mb=resident_mb() - before,
    )


def run(report: Any, options: argparse.Namespace) -> None:
    """All cases; see the module."""
    device = options.device
    for length in LENGTHS[:1] if options.quick else LENGTHS:
        exact = _exact(length, device)
        for form in FORMS:
            _case(report, form, length, exact, options)
    for form in FORMS:
        report.add(
            case=f"growth {form} fwd+bwd", **_growth(form, GROWTH[:2] if options.quick else GROWTH, device)
        )
    for name in ("S4", "S4D"):
        stream_case(name, report, device, STEPS)


def _exact(length: int, device: str) -> Tensor:
    torch.manual_seed(0)
    layer = S4(DIM, STATE_DIM)
    abar, bbar = dense_matrices(layer.recurrence())
    rows = output_row(Pair(*layer.C.double().unbind(-1)))
    return dense_kernel(rows, abar, bbar, length).detach().to(device)


def _case(report: Any, form: str, length: int, exact: Tensor, options: argparse.Namespace) -> None:
    device = options.device
    cases = kernel_case(form, length, device), kernel_case("peer", length, device)
    errors = [((case().double() - exact).abs().max() / exact.abs().max()).item() for case in cases]
    times = medians(cases, repetitions(cases[1], device, quick=options.quick), device)
    memory = [memory_mb(__file__, f, length, device) for f in (form, "peer")]
    report.add(
        case=f"kernel {form} L={length} fwd+bwd",
        peer="broadcast complex64 Cauchy sums",
        peer_version=None,
        ours_ms=times[0],
        peer_ms=times[1],
        ratio=times[1] / times[0],
        ours_mb=memory[0],
        peer_mb=memory[1],
        max_rel_diff=errors[0],
        peer_max_rel_diff=errors[1],
    )


def _growth(form: str, lengths: tuple[int, ...], device: str) -> dict[str, float]:
    """Slopes of log time and of log memory against log length."""
    times = []
    for length in lengths:
        function = kernel_case(form, length, device)
        function()
        times.append(medians([function], 3, device)[0])
    memory = [memory_mb(__file__, form, length, device) for length in lengths]
    return {"exponent": exponent(lengths, times), "memory_exponent": exponent(lengths, memory)}


if __name__ == "__main__":
    form, length, device = sys.argv[1:]
    print_memory(lambda size: kernel_case(form, size, device), 64, int(length), device)
