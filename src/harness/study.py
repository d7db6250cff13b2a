"""A run without training: a deterministic computation whose result is a few numbers."""

import time
from collections.abc import Mapping
from typing import Any

from .build import build
from .folder import RunFolder
from .identity import run_id
from .record import make_record, now


def study(config: Mapping[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Build the config's `study`, call it, and record the metrics that it returns (`{name: number}`)."""
    started, begin = now(), time.monotonic()
    metrics = build(config["study"], "study", allowed=config["allow_targets"])()
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
        data=[],
        started=started,
        finished=now(),
    )
