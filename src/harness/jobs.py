"""Runs as child processes: each job its own, so that nothing of one leaks into the next and one may fail."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Interrupted
from .compose import compose
from .folder import read_json
from .run import folder_of
from .table import duration


@dataclass(frozen=True)
class Job:
    """The words of one `train` command line; `label` is what a person reads."""

    words: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Done:
    """How a job ended: exit code, its record (None if it failed) and where its output went (None: the terminal)."""

    job: Job
    code: int
    record: dict[str, Any] | None
    output: Path | None


def command(words: Sequence[str], folder: str | None = None) -> list[str]:
    """The command line that runs `words` in a fresh interpreter, from a checkout or from an installation."""
    script = Path(__file__).resolve().parents[2] / "train.py"
    start = [str(script)] if script.exists() else ["-m", "eigenzoo.train"]
    return [sys.executable, *start, *(["--config-dir", folder] if folder else []), *words]


def record_of(words: Sequence[str], folder: str | None = None) -> dict[str, Any] | None:
    """The record of the finished run that `words` describe, or None."""
    return read_json(folder_of(compose(words, folder).config) / "record.json")


def run_jobs(
    jobs: Sequence[Job], *, folder: str | None = None, at_once: int = 1, logs: Path | None = None,
    say: Callable[[str], None] = print,
) -> list[Done]:  # fmt: skip
    """Run all jobs, `at_once` side by side; a failing one is reported and the others go on.

    With one at a time their output is shown; otherwise it goes to `<logs>/<number>.log`. Says `run k of n` and the
    time left, from the times of the runs that are done. SIGTERM ends the running ones resumably.
    """
    started, ended = time.monotonic(), 0
    results: list[Done] = []

    def one(number: int, job: Job) -> Done:
        nonlocal ended
        left = f" · {duration((time.monotonic() - started) / ended * (len(jobs) - ended))} left" if ended else ""
        say(f"run {number} of {len(jobs)} · {job.label}{left}")
        output = logs / f"{number}.log" if logs and at_once > 1 else None
        code = _call(command(job.words, folder), output)
        ended += 1
        if code:
            say(f"run {number} of {len(jobs)} failed with exit code {code} · {job.label}" + _where(output))
        return Done(job, code, None if code else record_of(job.words, folder), output)

    with _children() as stopped, ThreadPoolExecutor(at_once) as pool:
        for done in pool.map(one, range(1, len(jobs) + 1), jobs):
            results.append(done)
            if stopped():
                raise Interrupted("stopped by a signal; the same command goes on where it was")
    return results


def _where(output: Path | None) -> str:
    return f" · see {output}" if output else ""


_RUNNING: set[subprocess.Popen[bytes]] = set()
_STOP = False


def _call(line: list[str], output: Path | None) -> int:
    if _STOP:
        return 143
    stream = None
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        stream = open(output, "ab")  # noqa: SIM115
    child = subprocess.Popen(line, stdout=stream, stderr=subprocess.STDOUT if stream else None, env=os.environ)
    _RUNNING.add(child)
    try:
        return child.wait()
    finally:
        _RUNNING.discard(child)
        if stream:
            stream.close()


@contextmanager
def _children() -> Iterator[Callable[[], bool]]:
    """While open, SIGTERM and the keyboard's interrupt are handed to the children, which save their state."""

    def stop(number: int, frame: Any) -> None:
        global _STOP
        _STOP = True
        for child in list(_RUNNING):
            child.terminate()

    former = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: _STOP
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
