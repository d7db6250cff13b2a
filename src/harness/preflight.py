"""`eigenzoo check`: compose experiments, check every node, and build model and task on the meta device."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import base
from .build import build, build_model, build_task
from .check import check
from .compose import compose, options
from .entry import use_folder
from .study import takes_base


def preflight(names: Sequence[str], folder: Path | None = None, words: Sequence[str] = ()) -> int:
    """Check the named experiments (all, if none is named) at each of their scales; returns 0, or 2 with all faults.

    `words` (`allow_targets=[mine]`, `model.dim=64`) are added to every one.
    """
    faults = 0
    for name in names or options("experiment", folder):
        found = faults_of(name, folder, words)
        for fault in found:
            print(f"{name}: {fault}", file=sys.stderr)
        print(f"{name}: {_verdict(len(found))}", flush=True)
        faults += len(found)
    return 2 if faults else 0


def _verdict(faults: int) -> str:
    return f"{faults} fault{'s' * (faults > 1)}" if faults else "ok"


def faults_of(name: str, folder: Path | None = None, words: Sequence[str] = ()) -> list[str]:
    """Every fault of one experiment; one that is not there at every scale names its scale."""
    try:
        scales = list(compose([f"experiment={name}", *words], folder).config["scales"]) or ["paper"]
    except ConfigError as error:
        return list(error.faults)
    found: dict[str, list[str]] = {}
    for scale in scales:
        for fault in _faults_at([f"experiment={name}", f"scale={scale}", *words], folder):
            found.setdefault(fault, []).append(scale)
    return [
        fault if where == scales else f"scale={','.join(where)}: {fault}" for fault, where in found.items()
    ]


def _faults_at(words: Sequence[str], folder: Path | None) -> list[str]:
    try:
        composed = compose(words, folder)
        use_folder(composed)
        check(composed.config)
        build_on_meta(composed.config)
    except ConfigError as error:
        return list(error.faults)
    return []


def build_on_meta(config: dict[str, Any]) -> Any:
    """Model and task without memory for their weights; data are constructed, not read."""
    import torch

    allowed = config["allow_targets"]
    if config["study"]:
        with torch.device("meta"):
            supplied = {"base": _base_of(config)} if config["base"] and takes_base(config) else {}
        return build(config["study"], "study", allowed=allowed, **supplied)
    data = build(config["data"], "data", allowed=allowed, **({} if "seed" in config["data"] else {"seed": 0}))
    with torch.device("meta"):
        model = build_model(config["model"], data.sizes, allowed=allowed)
        return build_task(config, model, data.sizes, allowed=allowed)


def _base_of(config: dict[str, Any]) -> Any:
    """The model of the run's base, with random weights."""
    whole, allowed = base.config_of(config), config["allow_targets"]
    sizes = build(whole["data"], "data", allowed=allowed).sizes if "data" in whole else {}
    return build_model(whole["model"], sizes, allowed=allowed)
