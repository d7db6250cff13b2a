"""Sweeps: `python train.py -m experiment=s4d_digits model.init=lin,inv seed=0,1,2`.

Hydra multiplies the choices out and hands the jobs to its launcher (one after the other, joblib, submitit); each job is
a child process of its own with the words of a single run. So a failing job ends alone, and a sweep that is given
again runs only what is missing: what is finished answers without a process. At the end all are gathered into one table.
"""

import datetime
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import ConfigError, Interrupted
from . import schema
from .compose import Composed, compose
from .folder import read_json, write_text
from .identity import flatten
from .jobs import STOPPED, Children, Job, command, compose_all, on_stop, record_of
from .words import normalise

_FOLDER = "EIGENZOO_SWEEP_CONFIG_DIR"  # the launcher's processes inherit both
_SIZE = "EIGENZOO_SWEEP_SIZE"
# Launchers, sweepers, and the handlers of the logging configs (which may name classes to call, too).
_HYDRAS_OWN = ("hydra._internal.core_plugins.", "hydra_plugins.", "logging.")
_QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.sweep.subdir=.")


def sweep(words: Sequence[str], folder: str | None = None) -> int:
    """Run every combination that `words` describe through Hydra's launcher, and print the table of all.

    Returns 0, or 1 if at least one job failed. Raises ConfigError before anything is launched, and Interrupted.
    """
    jobs = [Job(tuple(job), _plain(job)) for job in expand(words)]
    composed = compose_all(jobs, folder)
    # Only a choice of files can reach Hydra's own node, so each set of choices is looked at once.
    for choices in dict.fromkeys(tuple(w for w in job.words if not w.startswith("++")) for job in jobs):
        _check_hydra(choices, folder)
    place = _Place(_folder_of_sweep(words))
    os.environ[_SIZE] = str(len(jobs))
    os.environ.pop(_FOLDER, None)
    if folder:
        os.environ[_FOLDER] = str(Path(folder).resolve())
    place.clear()
    print(f"sweep of {len(jobs)} jobs · {place.path}", flush=True)
    given = {w.partition("=")[0] for w in words}
    quiet = [w for w in _QUIET if w.partition("=")[0] not in given]
    own = ["--config-dir", os.environ[_FOLDER]] if folder else []
    with place.stops_on_signal():  # options come first: Hydra takes no option after a word
        hydra_main(["--multirun", *own, *map(normalise, words), *quiet, f"hydra.sweep.dir='{place.path}'"])
    failed = _gather(place, words, jobs, composed)
    if place.stopped:
        raise Interrupted(STOPPED)
    return 1 if failed else 0


def _check_hydra(words: Sequence[str], folder: str | None) -> None:
    """A sweep lets Hydra build launcher, sweeper, callbacks and loggers: a config file must not name programs there."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    extra = [f"hydra.searchpath=['file://{Path(folder).resolve()}']"] if folder else []
    with initialize_config_dir(str(schema.config_dir()), version_base="1.3"):
        cfg = hydra_compose("train", overrides=[*map(normalise, words), *extra], return_hydra_config=True)
    found = flatten(OmegaConf.to_container(cfg.hydra, resolve=False))
    faults = [
        f"hydra.{key}: '{value}' is nothing that a config may run in a sweep"
        for key, value in found.items()
        if key.rpartition(".")[2] in ("_target_", "class", "()") and not str(value).startswith(_HYDRAS_OWN)
    ]
    if faults:
        raise ConfigError(*faults)


def hydra_main(argv: Sequence[str]) -> int:
    """Hand a command line to Hydra's own entry point, for what it alone can do."""
    import hydra

    schema.register()
    former, sys.argv = sys.argv, [sys.argv[0], *argv]
    try:
        hydra.main(version_base="1.3", config_path=str(schema.config_dir()), config_name="train")(one_job)()
    finally:
        sys.argv = former
    return 0


def expand(words: Sequence[str]) -> list[list[str]]:
    """The word lists of all jobs of a sweep, in the order in which Hydra numbers them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    mine = [w for w in words if not w.startswith(("hydra.", "hydra/"))]
    try:
        parsed = OverridesParser.create().parse_overrides([normalise(w) for w in mine])
        return [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    except HydraException as error:
        raise ConfigError(" ".join(str(error).split())) from None


def swept(words: Sequence[str]) -> list[str]:
    """The keys that have more than one value."""
    values: dict[str, set[str]] = {}
    for job in expand(words):
        for word in job:
            key, _, value = word.lstrip("+").partition("=")
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1]


def one_job(cfg: Any) -> int:
    """One job of a sweep, called by Hydra's launcher: a child process; its outcome is written for the gathering."""
    from hydra.core.hydra_config import HydraConfig

    hydra_config = HydraConfig.get()
    number, words = int(hydra_config.job.num), list(hydra_config.overrides.task)
    place = _Place(Path(hydra_config.sweep.dir))
    if place.stopped:
        return 143
    print(f"\njob {number + 1} of {os.environ.get(_SIZE, '?')} · {_plain(words)}", flush=True)
    # Side by side their lines would mix; of other launchers each job has a log of its own anyway.
    log = place.path / f"job{number}.log" if "joblib" in hydra_config.launcher._target_ else None
    code = _carry_out(words, place, number, log)
    place.path.mkdir(parents=True, exist_ok=True)
    end = {"code": code, "words": words, "log": str(log) if log else None}
    write_text(place.path / f"job{number}.json", json.dumps(end))
    return code


def _carry_out(words: list[str], place: "_Place", number: int, log: Path | None) -> int:
    children, folder = Children(), os.environ.get(_FOLDER)
    composed = compose(words, folder)
    if record_of(composed):
        return children.inline(composed)
    try:
        with children.watched(), place.announced(number):
            return children.call(command(words, folder), log)
    except Interrupted:
        place.stop()
        return 143


class _Place:
    """The folder of a sweep: outcomes of the jobs, which processes run them, and whether the sweep is to stop.

    Launchers differ in where a job's process hangs, so stopping goes through files.
    """

    def __init__(self, path: Path):
        self.path = path

    @property
    def stopped(self) -> bool:
        return (self.path / "stop").exists()

    def stop(self) -> None:
        """No further job starts."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "stop").touch()

    @contextmanager
    def announced(self, number: int) -> Iterator[None]:
        """While open, this process can be found by whoever stops the sweep."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / f"job{number}.pid"
        write_text(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        try:
            yield
        finally:
            file.unlink(missing_ok=True)

    @contextmanager
    def stops_on_signal(self) -> Iterator[None]:
        """While open, SIGTERM and the keyboard's interrupt stop the jobs of this machine resumably."""
        with on_stop(self._stop_all):
            try:
                yield
            except SystemExit:  # Hydra's way to report a launcher that broke off
                if not self.stopped:
                    raise

    def _stop_all(self, number: int, frame: Any) -> None:
        self.stop()
        for file in self.path.glob("job*.pid"):
            worker = read_json(file) or {}
            if worker.get("host") == socket.gethostname() and worker["pid"] != os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(worker["pid"], signal.SIGTERM)

    def clear(self) -> None:
        """Forget an earlier sweep in the same folder."""
        for file in (self.path / "stop", *self.path.glob("job*.json"), *self.path.glob("job*.pid")):
            file.unlink(missing_ok=True)

    def outcome(self, number: int) -> dict[str, Any] | None:
        """How a job ended; None if it has not run."""
        return read_json(self.path / f"job{number}.json")


def _plain(words: Sequence[str]) -> str:
    return " ".join(w.lstrip("+") for w in words)


def _folder_of_sweep(words: Sequence[str]) -> Path:
    given = {w.lstrip("+").partition("=")[0]: w.partition("=")[2].strip("'\"") for w in words}
    if "hydra.sweep.dir" in given:
        return Path(given["hydra.sweep.dir"]).resolve()
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    return Path(given.get("run_dir", "runs")).resolve() / "sweeps" / stamp


def _gather(place: _Place, words: Sequence[str], jobs: Sequence[Job], composed: Sequence[Composed]) -> int:
    """Print the table of a sweep; returns the number of jobs without a record."""
    from .table import render_sweep

    outcomes = [
        _outcome(place.outcome(n), job, c) for n, (job, c) in enumerate(zip(jobs, composed, strict=True))
    ]
    print("\n" + render_sweep(outcomes, swept(words)))
    return sum(outcome["status"] != "main" for outcome in outcomes)


def _outcome(end: dict[str, Any] | None, job: Job, composed: Composed) -> dict[str, Any]:
    overrides = [w.lstrip("+") for w in job.words]
    if end is not None and not end["code"] and (record := record_of(composed)):
        return {**record, "overrides": overrides}
    if end is None or end["code"] == 143:
        return {
            "status": "cancelled",
            "overrides": overrides,
            "error": "stopped before its end" if end else "not run",
        }
    where = f", see {end['log']}" if end["log"] else ""
    return {"status": "failed", "overrides": overrides, "error": f"exit code {end['code']}{where}"}
