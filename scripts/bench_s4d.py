"""The two-level S4D kernel and layer beside the plain Vandermonde einsum, H = 128, N = 64, float32.

Memory is what one forward and backward adds to the peak, see `benching`.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from benching import exponent, medians, memory_mb, print_memory, repetitions

from eigenzoo.models.ssm import S4D
from eigenzoo.ops import fft_conv, to_pair, vandermonde, vandermonde_plain

DIM, STATE_DIM = 128, 64
LENGTHS = (1024, 4096, 16384)
GROWTH = (1024, 2048, 4096, 8192, 16384)


def kernel_case(form: str, length: int, device: str) -> Callable[[], torch.Tensor]:
    """Forward and backward of the bare kernel; returns the kernel."""
    torch.manual_seed(0)
    log_z, bbar = (x.complex().detach() for x in S4D(DIM, STATE_DIM, init="lin").discretise())
    weights = (torch.randn(1, *bbar.shape, dtype=bbar.dtype) * bbar).to(torch.complex64).to(device)
    gradient = torch.randn(1, DIM, length).to(device)
    log_z = log_z.to(device) if form != "plain" else log_z.to(torch.complex64).to(device)
    function = _compiled(vandermonde) if form == "compiled" else vandermonde

    def run() -> torch.Tensor:
        w, z = weights.clone().requires_grad_(), log_z.clone().requires_grad_()
        kernel = (
            vandermonde_plain(w, z, length) if form == "plain" else function(to_pair(w), to_pair(z), length)
        )
        kernel.backward(gradient)
        return kernel.detach()

    return run


class PlainS4D(S4D):
    """The layer as it is usually written: plain kernel, FFT convolution left to automatic differentiation."""

    def _kernel(self, length: int, rate: float) -> torch.Tensor:
        log_abar, bbar = self.discretise(rate)
        weights = (self._c(log_abar).complex() * bbar.complex()).to(torch.complex64)
        return vandermonde_plain(weights, log_abar.complex().to(torch.complex64), length)

    def forward(self, u: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        u, size = u.transpose(1, 2), 2 * u.shape[1]
        spectrum = torch.fft.rfft(u, size) * torch.fft.rfft(self.kernel(u.shape[2])[0], size)
        y = torch.fft.irfft(spectrum, size)[..., : u.shape[2]] + self.D.unsqueeze(-1) * u
        return y.transpose(1, 2).contiguous()


def layer_case(form: str, length: int, device: str) -> Callable[[], torch.Tensor]:
    """Forward and backward of the whole layer on 16384 samples in all; returns the output."""
    torch.manual_seed(0)
    layer = (PlainS4D if form == "plain" else S4D)(DIM, STATE_DIM).to(device)
    if form == "compiled":
        layer.compile(dynamic=True)
    u = torch.randn(max(1, 16384 // length), length, DIM).to(device).requires_grad_()
    gradient = torch.randn(u.shape).to(device)

    def run() -> torch.Tensor:
        y = layer(u)
        y.backward(gradient)
        return y.detach()

    return run


CASES = {"kernel": kernel_case, "layer": layer_case}


def run(report: Any, options: argparse.Namespace) -> None:
    """All cases; see the module."""
    lengths = LENGTHS[:1] if options.quick else LENGTHS
    forms = ("ours", "compiled") if options.compile else ("ours",)
    for what in CASES:
        for length in lengths:
            exact = _exact(what, length, options.device)
            for form in forms:
                _case(report, what, length, form, exact, options)
    for what in CASES:
        sizes = GROWTH[:2] if options.quick else GROWTH
        report.add(case=f"growth {what} fwd+bwd", exponent=_growth(what, sizes, options.device))


def _case(
    report: Any, what: str, length: int, form: str, exact: torch.Tensor, options: argparse.Namespace
) -> None:
    device = options.device
    ours, plain = CASES[what](form, length, device), CASES[what]("plain", length, device)
    error = ((ours().double() - exact).abs().max() / exact.abs().max()).item()
    times = medians((ours, plain), repetitions(plain, device, quick=options.quick), device)
    memory = [
        None if form == "compiled" else memory_mb(__file__, what, f, length, device) for f in (form, "plain")
    ]
    suffix = " compiled" if form == "compiled" else ""
    report.add(
        case=f"{what} L={length} fwd+bwd{suffix}",
        peer="plain Vandermonde einsum",
        peer_version=None,
        ours_ms=times[0],
        peer_ms=times[1],
        ratio=times[1] / times[0],
        ours_mb=memory[0],
        peer_mb=memory[1],
        max_rel_diff=error,
    )


def _exact(what: str, length: int, device: str) -> torch.Tensor:
    """The case's value in float64, from the same float32 parameters."""
    torch.manual_seed(0)
    layer = S4D(DIM, STATE_DIM)
    with torch.no_grad():
        if what == "layer":
            u = torch.randn(max(1, 16384 // length), length, DIM).double()
            layer = layer.double()
            y = fft_conv(u.transpose(1, 2), layer.kernel(length)[0]).transpose(1, 2)
            return (y + layer.D * u).to(device)
        log_z, bbar = layer.discretise()
        weights = torch.randn(1, *bbar.re.shape, dtype=torch.complex128) * bbar.complex()
        weights = weights.to(torch.complex64).to(torch.complex128)
        return vandermonde(to_pair(weights), log_z, length).to(device)


def _growth(what: str, lengths: tuple[int, ...], device: str) -> float:
    """Slope of log time against log length; the layer at a fixed batch of 1."""
    costs = []
    for length in lengths:
        function = CASES[what]("ours", length, device)
        function()
        samples = max(1, 16384 // length) if what == "layer" else 1
        costs.append(medians([function], 9, device)[0] / samples)
    return exponent(lengths, costs)


def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=True)


if __name__ == "__main__":
    what, form, length, device = sys.argv[1:]
    print_memory(lambda size: CASES[what](form, size, device), 64, int(length), device)
