"""Times of calls that studies compare: on one CPU thread, in turns."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

WARM_UP = 3


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def medians(calls: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Median milliseconds of every call, after three that do not count; in turns, so that a busy moment hits all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(WARM_UP + repetitions):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(column[WARM_UP:]) for name, column in times.items()}
