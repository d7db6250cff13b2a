"""What the benchmarks share: a clock, turns, the memory of one call, slopes.

Memory is what one call adds to the peak, in a child process. On the CPU: peak resident set (VmHWM, reset beforehand)
minus the resident set just before the call; a small call has started torch's libraries by then. On CUDA: the
allocator's peak minus what was allocated before.
"""

import importlib.metadata
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


def milliseconds(function: Callable[[], Any], device: str) -> float:
    """Of one call, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def medians(functions: Sequence[Callable[[], Any]], repetitions: int, device: str) -> list[float]:
    """Milliseconds of each function: they are called in turns, so that a busy moment hits all."""
    times = [[milliseconds(function, device) for function in functions] for _ in range(repetitions)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def repetitions(
    slow: Callable[[], Any], device: str, *, quick: bool, most: int = 9, least: int = 3, budget_s: float = 15
) -> int:
    """How often to measure: as often as the budget allows for the slower function, within limits; 3 if `quick`."""
    return 3 if quick else max(least, min(most, int(1e3 * budget_s / milliseconds(slow, device))))


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost against log size."""
    return statistics.linear_regression([math.log(x) for x in sizes], [math.log(y) for y in costs]).slope


def memory_mb(script: str, *words: Any) -> float:
    """What `script`, called with `words`, prints by `print_memory`."""
    line = [sys.executable, script, *map(str, words)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def print_memory(make: Callable[[Any], Callable[[], Any]], small: Any, case: Any, device: str) -> None:
    """Prints the MB that `make(case)()` adds to the peak; `make(small)()` starts the libraries."""
    torch.set_num_threads(1)
    make(small)()
    function = make(case)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        print((torch.cuda.max_memory_allocated() - before) / 1e6)
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = resident_mb()
    function()
    print(resident_mb("VmHWM") - before)


def resident_mb(field: str = "VmRSS") -> float:
    """The resident set of this process, or (VmHWM) its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1e3


def version_of(peer: str) -> str | None:
    """Of an installed package; None for a form that a benchmark writes out itself."""
    try:
        return importlib.metadata.version(peer)
    except importlib.metadata.PackageNotFoundError:
        return None


def against_peer(
    report: Any,
    text: str,
    *,
    form: str,
    peer: str,
    steps: Sequence[Callable[[], Any]],
    difference: float,
    agreement: float,
    count: int,
    memory: Sequence[Any],
    device: str,
) -> list[float]:
    """Times `steps`, ours and the peer's, in turns and adds a line of the report; gives the milliseconds.

    Args:
        text: names the case; a compiled form is said after it.
        form: of ours; `compiled` has no memory of its own.
        peer: a package, or the name of a form.
        difference, agreement: of the results, and how much is allowed.
        count: repetitions.
        memory: (script, number) of the case, for `memory_mb`.

    Raises:
        SystemExit: the results differ by more; the line is there all the same.
    """
    times = medians(steps, count, device)
    script, number = memory
    peaks = [None if name == "compiled" else memory_mb(script, name, number, device) for name in (form, peer)]
    report.add(
        case=text + (" compiled" if form == "compiled" else ""),
        peer=peer,
        peer_version=version_of(peer),
        ours_ms=times[0],
        peer_ms=times[1],
        ratio=times[1] / times[0],
        ours_mb=peaks[0],
        peer_mb=peaks[1],
        max_rel_diff=difference,
    )
    if not difference < agreement:
        raise SystemExit(f"ours and {peer} differ by {difference:.3g}, allowed {agreement:g}")
    return times
