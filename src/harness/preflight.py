"""`eigenzoo check`: compose experiments, check every node, and build model and task on the meta device."""

import sys
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from .build import build, build_model
from .check import check
from .compose import compose, options
from .entry import use_folder


def preflight(names: Sequence[str], folder: str | None = None, allowed: Sequence[str] = ()) -> int:
    """Check the named experiments (all, if none is named) at each of their scales; returns 0, or 2 with all faults."""
    from pathlib import Path

    known = options("experiment", Path(folder) if folder else None)
    words = [f"allow_targets=[{','.join(allowed)}]"] if allowed else []
    faults = 0
    for name in names or known:
        found = faults_of(name, folder, words)
        for fault in found:
            print(f"{name}: {fault}", file=sys.stderr)
        print(f"{name}: {'ok' if not found else f'{len(found)} faults'}")
        faults += len(found)
    return 2 if faults else 0


def faults_of(name: str, folder: str | None = None, words: Sequence[str] = ()) -> list[str]:
    """Every fault of one experiment, over all its scales."""
    try:
        scales = compose([f"experiment={name}", *words], folder).config["scales"]
    except ConfigError as error:
        return list(error.faults)
    found: dict[str, None] = {}
    for scale in scales or ["paper"]:
        try:
            composed = compose([f"experiment={name}", f"scale={scale}", *words], folder)
            use_folder(composed)
            check(composed.config)
            build_on_meta(composed.config)
        except ConfigError as error:
            found |= {f"scale={scale}: {fault}": None for fault in error.faults}
    return list(found)


def build_on_meta(config: dict[str, Any]) -> Any:
    """Model and task without memory for their weights; data are constructed, not read."""
    import torch

    allowed = config["allow_targets"]
    if config["study"]:
        return build(config["study"], "study", allowed=allowed)
    data = build(config["data"], "data", allowed=allowed, **({} if "seed" in config["data"] else {"seed": 0}))
    with torch.device("meta"):
        model = build_model(config["model"], data.sizes, allowed=allowed)
        parts = {k: build(config[k], k, allowed=allowed) for k in ("optim", "scheduler") if config[k]}
        return build(config["task"], "task", allowed=allowed, model=model, **parts)
