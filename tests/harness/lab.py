"""A tiny experiment that tests run whole: digits, one small layer, a few steps."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from eigenzoo.harness.compose import compose
from eigenzoo.harness.run import Outcome, run

TINY = (
    "experiment=s4d_digits", "scale=smoke", "trainer=cpu", "model.dim=4", "model.depth=1",
    "model.layer.state_dim=4", "data.batch_size=300", "trainer.log_every_n_steps=1",
)  # fmt: skip


def tiny(folder: Path, *words: str) -> Outcome:
    """Run the tiny experiment in `folder` with more words."""
    return run(compose([*TINY, f"run_dir={folder}", "allow_targets=[lab]", *words]))


class Bomb(pl.Callback):
    """Stops the process's run as a kill would: nothing of the run itself gets a chance to react."""

    def __init__(self, step: int, hook: str = "batch_end"):
        self.step, self.hook = step, hook

    def _maybe(self, trainer: Any, hook: str) -> None:
        if hook == self.hook and trainer.global_step == self.step:
            raise SystemExit("bomb")

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self._maybe(trainer, "batch_start")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self._maybe(trainer, "batch_end")

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        self._maybe(trainer, "epoch_end")

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        self._maybe(trainer, "validation_end")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The exported weights of a finished run."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
