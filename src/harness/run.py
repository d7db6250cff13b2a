"""The life of a run.

    check -> folder named by the config's hash -> seed -> data -> model -> task -> fit -> test -> export -> record

The same command given again: an unfinished run goes on exactly where its last checkpoint was, a finished one prints
its record.
"""

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import ConfigError
from . import base
from .check import check
from .compose import Composed
from .folder import RunFolder, read_json, write_text
from .identity import flatten, run_id


@dataclass(frozen=True)
class Outcome:
    """What a run ended with; `fresh` is False if it had been finished before."""

    record: dict[str, Any]
    folder: Path
    fresh: bool


def folder_of(config: Mapping[str, Any]) -> Path:
    """`<run_dir>/<experiment>-<id>`."""
    return Path(config["run_dir"]) / f"{config['experiment_name']}-{run_id(config)}"


def run(composed: Composed, console: Console | None = None) -> Outcome:
    """Carry out one run; see the module's docstring.

    Raises ConfigError, DataError, NonFiniteError, StorageError or Interrupted, each with a sentence for the user.
    """
    console = console or Console(highlight=False)
    config = composed.config
    path = folder_of(config)
    if not read_json(path / "record.json"):
        check(config)
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        # A further process of a distributed run: the first one holds the folder.
        return _carry_out(composed, RunFolder(path), Console(quiet=True))
    with RunFolder(path) as folder:
        if record := folder.record:
            console.print(f"finished before: {folder.path}")
            console.print(summary(record))
            _keep(config, record)
            return Outcome(record, folder.path, fresh=False)
        _write_config(folder, config)
        folder.write_json("state.json", {"status": "running", "pid": os.getpid()})
        try:
            outcome = _carry_out(composed, folder, console)
        except BaseException as error:
            state = "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
            _note_failure(folder, state, str(error))
            raise
        folder.write_json("state.json", {"status": "finished"})
    console.print(summary(outcome.record))
    console.print(f"run folder: {outcome.folder}", soft_wrap=True)
    return outcome


def _note_failure(folder: RunFolder, state: str, text: str) -> None:
    """Say in the folder how the run ended; the error itself matters more than a failing note."""
    try:
        folder.write_json("state.json", {"status": state, "error": text})
    except Exception:
        logging.getLogger("eigenzoo").warning("could not write %s", folder.path / "state.json")


def _write_config(folder: RunFolder, config: Mapping[str, Any]) -> None:
    import yaml

    write_text(folder.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))


def _carry_out(composed: Composed, folder: RunFolder, console: Console) -> Outcome:
    quiet_libraries()
    pretrained = base.ensure(composed.config, composed.folder, console)
    if composed.config["study"]:
        from .study import study

        record = study(composed.config, folder, pretrained)
    else:
        from .training import train

        record = train(composed, folder, console, pretrained)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        folder.write_json("record.json", record)
        _keep(composed.config, record)
    return Outcome(record, folder.path, fresh=True)


def _keep(config: Mapping[str, Any], record: dict[str, Any]) -> None:
    """Add the record to the store, once."""
    from . import store

    place = store.own_folder(config["results"], config["run_dir"])
    known = store.read([place]) if place.is_dir() else []
    if not any(r["id"] == record["id"] and r["finished"] == record["finished"] for r in known):
        store.append(record, place)


def quiet_libraries() -> None:
    """Silence what Lightning says about itself and warnings that no user can act on."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*LeafSpec.*",
        ".*`val_dataloader` to skip.*",
        ".*no val dataloader.*",
        ".*Checkpoint directory.*",
        ".*The total number of parameters detected may be inaccurate.*",
        ".*tensorboardX.*",
        ".*GPU available but not used.*",
        ".*Using the DDP strategy.*",
        ".*recommended to use `self.log.*",
        ".*using `Trainer\\(devices=.*",
    ):
        warnings.filterwarnings("ignore", message=text)


def summary(record: Mapping[str, Any]) -> str:
    """The result of a run in a few lines."""
    from .words import duration

    rows = [f"{k:<18} {_digits(v)}" for k, v in record["metrics"].items() if v is not None]
    tested = f", {record['weights']} weights" if record.get("weights") else ""
    rows.append(
        f"{record['experiment']} · scale {record['scale']} · seed {record['seed']} · {record['steps'] or 0:,} steps"
        f"{tested} · {duration(record['wall_s'])}"
    )
    return "\n".join(rows)


def changes(composed: Composed) -> dict[str, Any]:
    """What the user's own words change against the plain experiment at the same scale."""
    from .compose import compose

    config = composed.config
    chosen = [w for w in composed.words if w.split("=")[0].lstrip("+") in ("experiment", "scale")]
    try:
        plain = flatten(compose(chosen, composed.folder).config)
    except ConfigError:
        return {}
    mine = flatten({k: v for k, v in config.items() if k != "scales"})
    return {k: v for k, v in mine.items() if plain.get(k, "\0") != v}


def _digits(value: float) -> str:
    """Four places after the point, or three digits of what would vanish then."""
    return f"{value:.3g}" if 0 < abs(value) < 5e-4 else f"{value:.4f}"
