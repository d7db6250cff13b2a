"""Checkpoints that survive a kill at any moment.

`last.ckpt` is written to another name, fsynced and renamed, and the one before stays as `previous.ckpt`: at every
instant at least one complete checkpoint lies in the folder. A damaged `last.ckpt` is noticed when it is read, and
the one before is used. Files hold plain containers and tensors only; all loading is `weights_only=True`.
"""

import os
import signal
import time
import warnings
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from ..errors import Interrupted, StorageError
from .folder import atomic, storage

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
NEEDED = ("global_step", "state_dict", "optimizer_states", "loops", "callbacks")


def save(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint atomically; the old file stays whole if anything goes wrong (a full disk, a kill)."""
    with storage("the checkpoint", path):
        try:
            with atomic(path) as file:
                torch.save(content, file)
        except RuntimeError as error:  # torch hides the file system's error behind its own
            raise OSError(
                getattr(error.__context__, "errno", None) or 5, str(error).splitlines()[0]
            ) from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU, plain data only; StorageError if it is damaged or holds code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of another make; the unpickler itself decides
            with zipfile.ZipFile(
                path
            ) as file:  # torch does not look at the sums: flipped bits would pass as weights
                if (name := file.testzip()) is not None:
                    raise zipfile.BadZipFile(f"the sum of its part '{name}' is wrong")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes lead the unpickler into errors of any kind
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StorageError(f"{path} is damaged or holds more than plain data: {reason}") from error


def latest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a run that can be read, and a remark for each one that could not.

    None if the run has not saved anything yet. A damaged file is set aside as `damaged-<name>`, so that it cannot
    take the place of a good one. Raises StorageError if there are checkpoints and all are damaged.
    """
    remarks = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if path.exists():
            try:
                content = load(path)
                if missing := [k for k in NEEDED if k not in content]:
                    raise StorageError(f"{path} is damaged or of something else: it has no '{missing[0]}'")
                return path, remarks
            except StorageError as error:
                remarks.append(f"{error}; the one before is used")
                with storage("the damaged checkpoint", path):
                    os.replace(path, path.with_name(f"damaged-{name}"))
    if remarks:
        raise StorageError(
            f"every checkpoint in {folder} is damaged ({'; '.join(remarks)}): nothing is left to go on from. "
            "They are kept as damaged-*.ckpt; the same command now starts anew"
        )
    return None, remarks


class RunCheckpointIO(CheckpointIO):
    """Lightning's checkpoint file access, atomic and `weights_only`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Keep the present file as `previous.ckpt`, then put the new one in its place."""
        path = Path(path)
        if path.name == LAST and path.exists():
            link = path.with_name(f".{PREVIOUS}.{os.getpid()}.tmp")
            with storage("the checkpoint", path):
                link.unlink(missing_ok=True)
                os.link(path, link)
                os.replace(link, path.with_name(PREVIOUS))
        save(checkpoint, path)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read plain data; what the caller wishes for `weights_only` makes no difference."""
        return load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class RunCheckpoint(Checkpoint):
    """Saves `last.ckpt` (each epoch, every `every_s` seconds, on SIGTERM or SIGUSR1) and `best.ckpt`.

    The state is saved after a whole step only, and never where validation or the end of the epoch follows at once
    (there it is saved when that is over), so that a resumed run never repeats or skips anything. After a signal the
    run ends with `Interrupted`. As a `Checkpoint` it comes after the callbacks that may stop a run early.
    """

    def __init__(self, folder: Path, *, monitor: str, higher_is_better: bool, every_s: float = 60.0):
        self.folder, self.monitor, self.every_s = folder, monitor, every_s
        self.sign = 1.0 if higher_is_better else -1.0
        self.best: float | None = None
        self._stopping = self._between_epochs = self._fresh_epoch = False
        self._saved_at = time.monotonic()
        self._signal: int | None = None
        self._former: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "stopping": self._stopping, "between_epochs": self._between_epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
        self._stopping = state_dict["stopping"]
        self._fresh_epoch = state_dict["between_epochs"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop |= self._stopping  # a run that was killed while it was stopping early

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # After Lightning has set its own: its handler would only stop at the epoch's end.
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._former[number] = signal.signal(number, self._note)
        if self._fresh_epoch:
            # Lightning would go through the end of the saved epoch a second time.
            trainer.fit_loop.epoch_loop.restarting = self._fresh_epoch = False
            trainer.fit_loop.epoch_loop.reset_restart_stage()
        self._saved_at = time.monotonic()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        due = bool(self.every_s) and time.monotonic() - self._saved_at >= self.every_s
        if self._any(trainer, due or self._signal is not None) and _between_steps(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or value is None:
            return
        score = float(value)
        if self.best is None or self.sign * score > self.sign * self.best:
            self.best = score
            if trainer.is_global_zero:
                weights = pl_module.get_submodule("model").state_dict()
                save(
                    {"model": weights, self.monitor: score, "epoch": trainer.current_epoch},
                    self.folder / BEST,
                )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._between_epochs = True
        try:
            self._save(trainer)
        finally:
            self._between_epochs = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._between_epochs:
            # With `max_steps`, Lightning would count an epoch that is saved as processed, not completed, once more.
            for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
                counts["completed"] = counts["processed"]

    def _any(self, trainer: pl.Trainer, wish: bool) -> bool:
        """Every rank must take part in a checkpoint, so one rank's wish is everybody's."""
        return trainer.strategy.reduce_boolean_decision(wish, all=False) if trainer.world_size > 1 else wish

    def _save(self, trainer: pl.Trainer) -> None:
        stop = self._any(trainer, self._signal is not None)
        self._stopping = trainer.should_stop
        trainer.save_checkpoint(self.folder / LAST)
        self._saved_at = time.monotonic()
        if stop:
            name = signal.Signals(self._signal or signal.SIGTERM).name
            raise Interrupted(
                f"{name} at step {trainer.global_step}: the state is saved in {self.folder / LAST}; "
                "the same command goes on from there"
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()


def _between_steps(trainer: pl.Trainer) -> bool:
    """Whether nothing but the next training batch follows, and no half of an accumulated gradient is pending."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    ends = loop.batch_progress.is_last_batch or loop._is_training_done or trainer.should_stop
    return not (ends or loop._should_accumulate() or (fetcher and loop._should_check_val_fx(fetcher)))
