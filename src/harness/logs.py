"""The log of a run: one JSON line per entry, always written; and the callback that feeds every logger.

A resumed run drops the lines beyond its checkpoint, so the finished file has each step once.
"""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from .folder import atomic, storage, write_text


class RunLog(Logger):
    """Writes `metrics.jsonl`: `{"step": 12, "train/loss": 0.3, ...}`; a NaN is written as null."""

    def __init__(self, folder: Path):
        super().__init__()
        self.path = folder / "metrics.jsonl"

    @property
    def name(self) -> str:
        return "run"

    @property
    def version(self) -> str:
        return self.path.parent.name

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": step} | {k: _finite(v) for k, v in metrics.items() if k != "epoch"}
        if len(row) > 1:
            with storage("the log", self.path), open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")

    def rewind(self, steps: int) -> None:
        """Drop what was logged at or after step `steps` (counted from 0), and a line that a kill has torn."""
        if self.path.exists():
            kept = [r for r in read_log(self.path) if r["step"] < steps]
            with storage("the log", self.path), atomic(self.path) as file:
                file.write("".join(json.dumps(r) + "\n" for r in kept).encode())

    def write_csv(self) -> None:
        """The same rows as `metrics.csv`, one column per metric."""
        rows = read_log(self.path) if self.path.exists() else []
        names = list(dict.fromkeys(k for r in rows for k in r))
        text = io.StringIO()
        table = csv.DictWriter(text, names)
        table.writeheader()
        table.writerows(rows)
        write_text(self.path.with_suffix(".csv"), text.getvalue())


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a `metrics.jsonl`; a last line that a kill has torn is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class TrainLog(pl.Callback):
    """Logs the loss, its terms and the learning rates every `log_every_n_steps` steps.

    Done here, before the checkpoint of the same step, and not by Lightning's own logging, which comes after it: a
    run killed in between would lose the line.
    """

    def __init__(self) -> None:
        self._rates: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        # When the batch ends the schedule has moved on already.
        self._rates = [group["lr"] for group in optimizer.param_groups]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step - 1
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % every or trainer.fit_loop.epoch_loop._should_accumulate():
            return
        # The ranks' losses are weighted, so their mean is the mean over the global batch.
        row = {"train/loss": self._mean(trainer, sum(pl_module.terms.values()) * batch["weight"])}
        if len(pl_module.terms) > 1:
            for name, term in pl_module.terms.items():
                row[f"train/{name}"] = self._mean(trainer, term * batch["weight"])
        row |= {f"lr/{index}" if index else "lr": rate for index, rate in enumerate(self._rates)}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=step)

    def _mean(self, trainer: pl.Trainer, value: Any) -> float:
        value = value.detach()
        return float(trainer.strategy.reduce(value, reduce_op="mean") if trainer.world_size > 1 else value)
