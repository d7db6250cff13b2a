"""Sweeps: `python train.py -m experiment=s4d_digits model.init=lin,inv seed=0,1,2`.

Hydra multiplies the choices out and hands the jobs to its launcher (one after the other, joblib, submitit); each job is
a child process of its own with the words of a single run. So a failing job ends alone, and a sweep that is given
again runs only what is missing: the finished runs answer at once. At the end all are gathered into one table.
"""

import datetime
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import schema
from .compose import compose, normalise
from .folder import write_text

_FOLDER = "EIGENZOO_SWEEP_CONFIG_DIR"  # the launcher's processes inherit it


def hydra_main(argv: Sequence[str], *, multirun: bool, words: Sequence[str], folder: str | None) -> int:
    """Hand a command line to Hydra's own entry point; for a sweep, gather the jobs and print their table.

    Returns 0, or 1 if at least one job failed.
    """
    import hydra

    schema.register()
    jobs = expand(words) if multirun else []
    place = _place(words) if multirun else None
    extra = [f"hydra.sweep.dir={place}"] if place else []
    if folder:
        os.environ[_FOLDER] = str(Path(folder).resolve())
    if jobs:
        compose([*jobs[0]], folder)  # a fault of composition is one sentence, before anything is launched
        os.environ["EIGENZOO_SWEEP_SIZE"] = str(len(jobs))
        print(f"sweep of {len(jobs)} jobs · {place}", flush=True)
    sys.argv = [sys.argv[0], *argv, *extra]
    hydra.main(version_base="1.3", config_path=str(schema.config_dir()), config_name="train")(one_job)()
    return _gather(place, words, jobs) if place else 0


def expand(words: Sequence[str]) -> list[list[str]]:
    """The word lists of all jobs of a sweep, in the order in which Hydra numbers them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    mine = [w for w in words if not w.startswith("hydra.")]
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
    import subprocess

    from hydra.core.hydra_config import HydraConfig

    from .jobs import command

    hydra_config = HydraConfig.get()
    number, words = int(hydra_config.job.num), list(hydra_config.overrides.task)
    label = " ".join(w.lstrip("+") for w in words)
    print(f"\njob {number + 1} of {os.environ.get('EIGENZOO_SWEEP_SIZE', '?')} · {label}", flush=True)
    code = subprocess.call(command(words, os.environ.get(_FOLDER)))
    place = Path(hydra_config.sweep.dir)
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / f"job{number}.json", json.dumps({"code": code, "words": words}))
    return code


def _place(words: Sequence[str]) -> str:
    given = {w.lstrip("+").partition("=")[0]: w.partition("=")[2] for w in words}
    if "hydra.sweep.dir" in given:
        return given["hydra.sweep.dir"]
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    return str(Path(given.get("run_dir", "runs")).resolve() / "sweeps" / stamp)


def _gather(place: str, words: Sequence[str], jobs: Sequence[Sequence[str]]) -> int:
    from .folder import read_json
    from .jobs import record_of
    from .table import render_sweep

    folder = os.environ.get(_FOLDER)
    outcomes, failed = [], 0
    for number, job in enumerate(jobs):
        end = read_json(Path(place) / f"job{number}.json")
        plain = [w.lstrip("+") for w in job]
        record = None if end is None or end["code"] else record_of(job, folder)
        if record is None:
            failed += 1
            why = "did not start" if end is None else f"exit code {end['code']}"
            outcomes.append({"status": "failed", "overrides": plain, "error": why})
        else:
            outcomes.append({**record, "overrides": plain})
    print("\n" + render_sweep(outcomes, swept(words)))
    return 1 if failed else 0
