"""log I_v and log K_v beside log(ive) + x and log(kve) - x of SciPy, 2e5 elements, float64.

Arguments are log-uniform in [1e-2, 1e4], orders log-uniform in three ranges. SciPy's values are not finite at high
orders, so its line says how many (`peer_non_finite`), and `max_rel_diff` is over the others, relative to max(1, |log|).
SciPy computes on the CPU whatever the device; `fwd+bwd` has no peer.
"""

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benching import medians, memory_mb, print_memory, repetitions, version_of
from scipy import special

from eigenzoo.ops.bessel import log_iv, log_kv

PEER = "scipy"
POINTS, QUICK_POINTS = 200_000, 20_000
RANGES = ((1e-2, 1e4), (1e2, 1e4), (1e-2, 1.0))
AGREEMENT = 1e-9
Case = tuple[str, tuple[float, float], str, int]
FUNCTIONS: dict[str, Callable] = {"I": log_iv, "K": log_kv}


def run(report: Any, options: argparse.Namespace) -> None:
    """All cases; see the module."""
    points = QUICK_POINTS if options.quick else POINTS
    for name in FUNCTIONS:
        for bounds in RANGES:
            for mode in ("fwd", "fwd+bwd"):
                compare(report, (name, bounds, mode, points), options)


def draw(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Orders and arguments."""
    _, bounds, _, points = case
    generator = np.random.default_rng(0)
    pairs = (bounds, (1e-2, 1e4))
    v, x = (np.exp(generator.uniform(math.log(a), math.log(b), points)) for a, b in pairs)
    return v, x


def make(form: str, case: Case, device: str) -> Callable[[], Any]:
    """One call."""
    name, _, mode, _ = case
    v, x = draw(case)
    if form == PEER:
        scaled, sign = (special.ive, 1) if name == "I" else (special.kve, -1)
        return lambda: np.log(scaled(v, x)) + sign * x
    order, argument = torch.from_numpy(v).to(device), torch.from_numpy(x).to(device)
    argument.requires_grad_(mode != "fwd")
    function = FUNCTIONS[name]
    if mode == "fwd":
        return lambda: function(order, argument)
    return lambda: torch.autograd.grad(function(order, argument).sum(), argument)[0]


def compare(report: Any, case: Case, options: argparse.Namespace) -> None:
    """Times both in turns and adds a line; stops where finite values disagree."""
    name, (low, high), mode, points = case
    forms = ("ours", PEER) if mode == "fwd" else ("ours",)
    steps = [make(form, case, options.device) for form in forms]
    with np.errstate(all="ignore"):
        values = [step() for step in steps]
        count = repetitions(steps[-1], options.device, quick=options.quick, most=15, budget_s=3)
        times = medians(steps, count, options.device)
    ours = values[0].cpu().numpy()
    line: dict[str, Any] = {
        "case": f"log {name}, v in [{low:g}, {high:g}], {points} points, {mode}",
        "ours_ms": times[0],
        "ours_mb": memory_mb(__file__, *map(str, (name, low, high, mode, points)), options.device),
        "non_finite": 1 - float(np.isfinite(ours).mean()),
    }
    difference = 0.0
    if mode == "fwd":
        there = np.isfinite(values[1])
        off = np.abs(ours - values[1])[there] / np.maximum(1, np.abs(ours[there]))
        difference = float(off.max())
        line |= {
            "peer": PEER,
            "peer_version": version_of(PEER),
            "peer_ms": times[1],
            "ratio": times[1] / times[0],
        }
        line |= {"peer_non_finite": 1 - float(there.mean()), "max_rel_diff": difference}
    report.add(**line)
    if not difference < AGREEMENT:
        raise SystemExit(f"ours and {PEER} differ by {difference:.3g}, allowed {AGREEMENT:g}")


def child() -> None:
    """Prints the additional peak memory in MB of the case that the command line names."""
    name, low, high, mode, points, device = sys.argv[1:]
    case: Case = (name, (float(low), float(high)), mode, int(points))
    print_memory(lambda c: make("ours", c, device), ("I", (1.0, 2.0), mode, 10), case, device)


if __name__ == "__main__":
    child()
