"""Runs side by side or one after the other.

A training is a child process of its own, so that nothing of one leaks into the next and one may fail. What is finished
answers in this process without torch, and so do studies, which would spend most of their time on starting Python.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, Interrupted
from .compose import Composed, compose
from .folder import read_json
from .run import folder_of, run
from .words import duration

STOPPED = "stopped by a signal; the same command goes on where it was"


@contextmanager
def on_stop(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """While open, SIGTERM and the keyboard's interrupt go to `handler`."""
    former = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)


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
    output: Path | None = None


class Children:
    """The child processes of this one. While open as a context, a signal that should stop us stops them, resumably."""

    def __init__(self) -> None:
        self.stopped = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._inline = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Handle SIGTERM and the keyboard's interrupt here; Interrupted on leaving if one came."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with on_stop(self._stop):
            yield
        if self.stopped:
            raise Interrupted(STOPPED)

    def _stop(self, number: int, frame: Any) -> None:
        self.stop()
        if self._inline:
            raise Interrupted(STOPPED)

    def stop(self) -> None:
        """Ask every child to save its state and end; no further one starts."""
        self.stopped = True
        for child in list(self._running):
            child.terminate()

    def call(self, line: Sequence[str], output: Path | None = None, env: dict[str, str] | None = None) -> int:
        """Run a command to its end and return its exit code; its output is appended to the file, if one is given.

        It has a session of its own: the keyboard's interrupt comes to it through us, once and as SIGTERM.
        """
        stream = None
        if output:
            output.parent.mkdir(parents=True, exist_ok=True)
            stream = open(output, "ab")  # noqa: SIM115
        try:
            child = subprocess.Popen(
                line, stdout=stream, stderr=subprocess.STDOUT if stream else None, env=env, start_new_session=True
            )  # fmt: skip
            self._running.add(child)
            if self.stopped:
                child.terminate()
            code = child.wait()
            self._running.discard(child)
        finally:
            if stream:
                stream.close()
        return 143 if code == -signal.SIGTERM else code

    def inline(self, composed: Composed) -> int:
        """Carry out a run in this process; returns the exit code that a child would have."""
        from .entry import guarded, use_folder

        self._inline = True
        try:
            return guarded(lambda: use_folder(composed) or (run(composed) and None))
        except Exception:
            traceback.print_exc()
            return 1
        finally:
            self._inline = False


def command(words: Sequence[str], folder: str | Path | None = None) -> list[str]:
    """The command line that runs `words` in a fresh interpreter, from a checkout or from an installation."""
    script = Path(__file__).resolve().parents[2] / "train.py"
    start = [str(script)] if script.exists() else ["-m", "eigenzoo.train"]
    return [sys.executable, *start, *(["--config-dir", str(folder)] if folder else []), *words]


def record_of(composed: Composed) -> dict[str, Any] | None:
    """The record of the finished run that a config describes, or None."""
    return read_json(folder_of(composed.config) / "record.json")


def compose_all(jobs: Sequence[Job], folder: str | Path | None = None) -> list[Composed]:
    """The configs of all jobs; one ConfigError with the faults of all, with the first job where it is not in all."""
    found: list[Composed] = []
    faults: dict[str, list[str]] = {}
    for job in jobs:
        try:
            found.append(compose(job.words, folder))
        except ConfigError as error:
            for fault in error.faults:
                faults.setdefault(fault, []).append(job.label)
    if faults:
        raise ConfigError(*(f if len(at) == len(jobs) else f"{at[0]}: {f}" for f, at in faults.items()))
    return found


def run_jobs(
    jobs: Sequence[Job], *, folder: str | Path | None = None, at_once: int = 1, logs: Path | None = None,
    say: Callable[[str], None] = print,
) -> list[Done]:  # fmt: skip
    """Run all jobs, `at_once` trainings side by side; a failing one is reported and the others go on.

    All are composed first: ConfigError before anything runs. With one at a time their output is shown; otherwise it
    goes to `<logs>/<number>.log`. Says `run k of n` and the time left, from the trainings that are done. SIGTERM and
    the keyboard's interrupt stop the running ones resumably and raise Interrupted.
    """
    work = _Work(Children(), len(jobs), say)
    results: dict[int, Done] = {}
    waiting: list[tuple[int, Job, Composed]] = []
    with work.children.watched():
        for number, (job, composed) in enumerate(zip(jobs, compose_all(jobs, folder), strict=True)):
            if composed.config["study"] or record_of(composed):
                results[number] = work.inline(job, composed)
            else:
                waiting.append((number, job, composed))
        work.start_clock(len(waiting))
        futures: dict[int, Future[Done]] = {}
        with ThreadPoolExecutor(at_once) as pool:
            for number, job, composed in waiting:
                output = logs / f"{number + 1}.log" if logs and at_once > 1 else None
                futures[number] = pool.submit(work.child, job, composed, folder, output, at_once)
        results |= {number: future.result() for number, future in futures.items()}
    return [results[number] for number in range(len(jobs))]


class _Work:
    """Counts and words of a list of jobs."""

    def __init__(self, children: Children, total: int, say: Callable[[str], None]):
        self.children, self.total, self.say = children, total, say
        self.begun = 0
        self._lock = threading.Lock()
        self.start_clock(0)

    def start_clock(self, trainings: int) -> None:
        self.trainings, self.ended, self.since = trainings, 0, time.monotonic()

    def inline(self, job: Job, composed: Composed) -> Done:
        self._announce(job)
        return self._end(job, composed, self.children.inline(composed), None)

    def child(
        self, job: Job, composed: Composed, folder: str | Path | None, output: Path | None, at_once: int
    ) -> Done:
        if self.children.stopped:
            return Done(job, 143, None)
        self._announce(job)
        code = self.children.call(command(job.words, folder), output, _threads(at_once))
        self.ended += 1
        return self._end(job, composed, code, output)

    def _announce(self, job: Job) -> None:
        with self._lock:
            self.begun += 1
            text = f"run {self.begun} of {self.total} · {job.label}"
            if self.ended:
                each = (time.monotonic() - self.since) / self.ended
                text += f" · {duration(each * (self.trainings - self.ended))} left"
        self.say(text)

    def _end(self, job: Job, composed: Composed, code: int, output: Path | None) -> Done:
        if code and not self.children.stopped:
            self.say(f"failed with exit code {code} · {job.label}" + (f" · see {output}" if output else ""))
        return Done(job, code, None if code else record_of(composed), output)


def _threads(at_once: int) -> dict[str, str]:
    """The children's environment: side by side they share the cores, unless the user has said how."""
    share = max(1, (os.cpu_count() or 1) // at_once)
    return {**({"OMP_NUM_THREADS": str(share)} if at_once > 1 else {}), **os.environ}
