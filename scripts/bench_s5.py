"""The S5 scan beside a Python loop and the convolution form, H = 128, P = 64, batch 8, float32.

The convolution form makes the kernels `exp(l log Lbar)` of all modes and convolves B u with them by FFT: what
one writes without a scan; it keeps the states (batch, length, P). Memory is what one forward and backward adds
to the peak, see `benching`. Streaming is `S5.step`, one sample of the whole layer at a time; its memory must not
grow with the number of samples.
"""

import argparse
import gc
import sys
from collections.abc import Callable
from typing import Any

import torch
from benching import exponent, medians, memory_mb, milliseconds, print_memory, repetitions, resident_mb

from eigenzoo.models.ssm.s5 import S5
from eigenzoo.ops import Pair
from eigenzoo.ops.scan import diagonal_scan, diagonal_scan_plain

DIM, STATE_DIM, BATCH = 128, 64, 8
LENGTHS = (1024, 4096, 16384)
GROWTH = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
GROWTH_BATCH = 2
LOOP_UP_TO = 4096  # a loop over 16384 positions takes minutes
PEERS = {"loop": "Python loop over the positions", "conv": "FFT convolution of every mode"}
STREAM_STEPS = 10_000
STREAM_SLACK_MB = 1.0  # pages that the allocator touches for the first time


def convolution(u: torch.Tensor, log_a: Pair, b: Pair, c: Pair) -> tuple[torch.Tensor, None]:
    """The same outputs by one long convolution per mode."""
    length, dtype = u.shape[1], torch.complex64 if u.dtype == torch.float32 else torch.complex128
    index = torch.arange(length, device=u.device)
    kernel = torch.exp(log_a.complex().unsqueeze(-1) * index).to(dtype)
    v = torch.einsum("mi,bli->bml", b.complex(), u.to(dtype))
    x = torch.fft.ifft(torch.fft.fft(v, 2 * length) * torch.fft.fft(kernel, 2 * length))[..., :length]
    return torch.einsum("om,bml->blo", c.complex(), x).real, None


FORMS: dict[str, Callable] = {"ours": diagonal_scan, "loop": diagonal_scan_plain, "conv": convolution}


def case(
    form: str, length: int, device: str, batch: int = BATCH, dtype: torch.dtype = torch.float32
) -> Callable[[], torch.Tensor]:
    """Forward and backward of the scan with all gradients; returns the output."""
    torch.manual_seed(0)
    layer = S5(DIM, STATE_DIM)
    u = torch.randn(batch, length, DIM)
    gradient = torch.randn(u.shape).to(device, dtype)
    z, b = (Pair(*(x.detach() for x in pair)) for pair in layer.discretise())
    c = Pair(*(x.detach() for x in layer._output_maps()[0]))
    leaves = [u.to(dtype), *z, *(x.to(dtype) for x in (*b.to(torch.float32), *c))]
    leaves = [x.to(device).requires_grad_() for x in leaves]
    function = torch.compile(FORMS["ours"], dynamic=True) if form == "compiled" else FORMS[form]

    def run() -> torch.Tensor:
        u, *parts = leaves
        y, _ = function(u, Pair(*parts[:2]), Pair(*parts[2:4]), Pair(*parts[4:]))
        torch.autograd.grad(y, leaves, gradient)
        return y.detach()

    return run


def run(report: Any, options: argparse.Namespace) -> None:
    """All cases; see the module."""
    for length in LENGTHS[:1] if options.quick else LENGTHS:
        for form in ("ours", "compiled") if options.compile else ("ours",):
            for peer in ("conv", "loop") if length <= LOOP_UP_TO else ("conv",):
                _case(report, form, peer, length, options)
    sizes = GROWTH[:3] if options.quick else GROWTH
    report.add(case="growth scan fwd+bwd", exponent=_growth(sizes, options.device), lengths=list(sizes))
    for batch in (1, 64):
        report.add(case=f"step batch={batch}", **_stream(batch, options.device))


def _case(report: Any, form: str, peer: str, length: int, options: argparse.Namespace) -> None:
    device = options.device
    functions = [case(name, length, device) for name in (form, peer)]
    exact = case("ours", length, device, dtype=torch.float64)()
    error = ((functions[0]().double() - exact).abs().max() / exact.abs().max()).item()
    ours, theirs = medians(functions, repetitions(functions[1], device, quick=options.quick), device)
    memory = [
        None if name == "compiled" else memory_mb(__file__, name, length, device) for name in (form, peer)
    ]
    report.add(
        case=f"scan L={length} fwd+bwd" + (" compiled" if form == "compiled" else ""),
        peer=PEERS[peer],
        peer_version=None,
        ours_ms=ours,
        peer_ms=theirs,
        ratio=theirs / ours,
        ours_mb=memory[0],
        peer_mb=memory[1],
        max_rel_diff=error,
    )


def _growth(lengths: tuple[int, ...], device: str) -> float:
    """Slope of log time against log length."""
    times = []
    for length in lengths:
        function = case("ours", length, device, batch=GROWTH_BATCH)
        function()
        times.append(medians([function], 5, device)[0])
    return exponent(lengths, times)


@torch.no_grad()
def _stream(batch: int, device: str) -> dict[str, float]:
    """Samples per second of `step`, and what 10 000 steps add to the memory in use."""
    layer = S5(DIM, STATE_DIM).to(device).eval()
    state, u_t = layer.initial_state(batch), torch.randn(batch, DIM, device=device)

    def go(state: torch.Tensor, count: int) -> torch.Tensor:
        for _ in range(count):
            _, state = layer.step(u_t, state)
        return state

    state = go(state, STREAM_STEPS // 5)
    gc.collect()
    before = _used(device)
    elapsed = milliseconds(lambda: go(state, STREAM_STEPS), device)
    growth = _used(device) - before
    if growth > STREAM_SLACK_MB:
        raise SystemExit(f"{STREAM_STEPS} steps at batch {batch} have added {growth:.1f} MB")
    return {"samples_per_s": 1e3 * STREAM_STEPS * batch / elapsed, "growth_mb": growth}


def _used(device: str) -> float:
    return torch.cuda.memory_allocated() / 1e6 if device == "cuda" else resident_mb()


if __name__ == "__main__":
    form, length, device = sys.argv[1:]
    print_memory(lambda size: case(form, size, device), 64, int(length), device)
