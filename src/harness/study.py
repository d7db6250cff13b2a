"""A run without training: a deterministic computation whose result is a few numbers."""

import inspect
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import base
from .build import build
from .folder import RunFolder
from .identity import run_id
from .record import make_record, now
from .targets import resolve


def study(config: Mapping[str, Any], folder: RunFolder, pretrained: Path | None = None) -> dict[str, Any]:
    """Build the config's `study`, call it, and record the metrics that it returns (`{name: number}`).

    One that has an argument `base` gets the `pretrained` model of that folder.
    """
    started, begin = now(), time.monotonic()
    allowed = config["allow_targets"]
    supplied = {}
    if pretrained is not None and takes_base(config):
        from .zoo import load

        supplied["base"] = load(pretrained, allow_targets=allowed)
    made = build(config["study"], "study", allowed=allowed, **supplied)
    metrics = made()
    return make_record(
        config,
        run_id(config),
        {k: float(v) for k, v in metrics.items()},
        weights=None,
        steps=0,
        epochs=0,
        wall_s=round(time.monotonic() - begin, 3),
        s_per_step=None,
        peak_mb=None,
        params={"total": 0, "trainable": 0},
        data=[*_read(made), *base.provenance(config)],
        started=started,
        finished=now(),
    )


def takes_base(config: Mapping[str, Any]) -> bool:
    """Whether the study of a config has an argument `base`."""
    return (
        "base"
        in inspect.signature(
            resolve(config["study"]["_target_"], "study", config["allow_targets"])
        ).parameters
    )


def _read(made: Any) -> list[dict[str, Any]]:
    """The provenance of the data modules that a study holds, each entry once."""
    entries = [
        e for value in getattr(made, "__dict__", {}).values() for e in getattr(value, "provenance", [])
    ]
    return [entry for index, entry in enumerate(entries) if entry not in entries[:index]]
