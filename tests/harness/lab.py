"""A tiny experiment that tests run whole, and ways to break it: bombs, damaged files, full disks."""

import contextlib
import copy
import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console
from torch import Tensor, nn

from eigenzoo.data.module import Splits, TensorData
from eigenzoo.harness import training
from eigenzoo.harness.compose import Composed, compose
from eigenzoo.harness.entry import guarded
from eigenzoo.harness.run import Outcome, folder_of, run

TINY = (
    "experiment=s4d_digits", "scale=smoke", "trainer=cpu", "model.dim=4", "model.depth=1",
    "model.layer.state_dim=4", "data.batch_size=300", "trainer.log_every_n_steps=1", "callbacks=default",
)  # fmt: skip
# Sequences of 8 steps with a validation part, dropout, a checkpoint after every step.
TOY = (
    *TINY, "data._target_=lab.Toy", "data.batch_size=10", "model.block.dropout=0.2", "model.block.norm=layer",
    "trainer.max_epochs=3", "checkpoint_every_s=0.000001", "test_weights=best",
)  # fmt: skip


class Toy(TensorData):
    """Noise with a slope that tells the class: 40 for training (4 batches of 10), 12 for validation, 12 for testing."""

    name = "toy"

    def __init__(self, batch_size: int, *, seed: int = 0, count: int = 40, poison: int | None = None):
        super().__init__(batch_size, seed=seed)
        self.count, self.poison = count, poison

    @property
    def sizes(self) -> dict[str, int]:
        return {"dim_in": 1, "dim_out": 2, "length": 8}

    def load(self) -> Splits:
        draw = torch.Generator().manual_seed(1)
        return {split: self._part(n, draw) for split, n in (("train", self.count), ("val", 12), ("test", 12))}

    def _part(self, count: int, draw: torch.Generator) -> dict[str, Tensor]:
        y = torch.arange(count) % 2
        slope = torch.linspace(0, 1, 8) * y[:, None]
        x = (slope + 0.5 * torch.randn(count, 8, generator=draw)).unsqueeze(-1)
        return {"x": x, "y": y}


class Spoilt(nn.Module):
    """A stack whose middle layer returns NaN from its `after`-th call on."""

    def __init__(self, dim_in: int, dim_out: int, *, length: int, after: int = 0):
        super().__init__()
        self.first = nn.Linear(dim_in * length, 6)
        self.middle = Breaks(after)
        self.last = nn.Linear(6, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x.flatten(1))))


class Breaks(nn.Module):
    """The identity, then NaN."""

    def __init__(self, after: int):
        super().__init__()
        self.calls, self.after = 0, after

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x * float("nan") if self.calls > self.after else x


def toy(folder: Path, *words: str) -> list[str]:
    """The words of a toy run in `folder`."""
    return [*TOY, f"run_dir={folder}", "allow_targets=[lab]", *words]


def tiny(folder: Path, *words: str) -> Outcome:
    """Run the tiny experiment in `folder` with more words."""
    return run(compose([*TINY, f"run_dir={folder}", "allow_targets=[lab]", *words]))


@functools.cache
def _composed(words: tuple[str, ...]) -> Composed:
    return compose(words)


def composed(words: list[str]) -> Composed:
    """`compose`, remembered: most of a toy run's time is Hydra's."""
    found = _composed(tuple(w for w in words if not w.startswith("run_dir=")))
    place = next(w.split("=", 1)[1] for w in words if w.startswith("run_dir="))
    return Composed({**copy.deepcopy(found.config), "run_dir": place}, tuple(words))


def go(words: list[str]) -> tuple[Outcome, str]:
    """Run `words` here; the outcome and what was printed."""
    text = io.StringIO()
    return run(composed(words), Console(file=text, highlight=False, width=400)), text.getvalue()


def code_of(words: list[str], capsys: Any) -> tuple[int, str]:
    """Run `words` as the command line does; exit code, and what went to stdout and stderr."""
    code = guarded(lambda: run(compose(words), Console(highlight=False, width=400)) and None)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def place(words: list[str]) -> Path:
    """The run folder that `words` lead to."""
    return folder_of(composed(words).config)


class Bomb(Checkpoint):
    """Stops the process's run as a kill would: nothing of the run itself gets a chance to react.

    Goes off in `hook` when `step` optimiser steps are done. As a `Checkpoint` it can stand after the run's own.
    """

    def __init__(self, step: int, hook: str = "batch_end"):
        self.step, self.hook = step, hook

    def _maybe(self, trainer: Any, hook: str) -> None:
        if hook == self.hook and trainer.global_step == self.step:
            raise SystemExit("bomb")

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self._maybe(trainer, "batch_start")

    def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
        self._maybe(trainer, "before_step")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self._maybe(trainer, "batch_end")

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        self._maybe(trainer, "epoch_end")

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        self._maybe(trainer, "validation_start")

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        self._maybe(trainer, "validation_end")

    def on_test_start(self, trainer: Any, *_: Any) -> None:
        self._maybe(trainer, "test_start")


@contextlib.contextmanager
def extra_callback(callback: pl.Callback, first: bool = False) -> Iterator[None]:
    """Runs made in here have one more callback, before or after all others; the config knows nothing of it."""
    original = training._trainer

    def with_callback(*args: Any) -> Any:
        made = original(*args)
        callbacks = made[0].callbacks
        callbacks.insert(0 if first else len(callbacks), callback)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_trainer", with_callback)
        yield


def bombed(words: list[str], step: int, hook: str = "batch_end", first: bool = False) -> None:
    """Run `words` until the bomb goes off; fails if it never does."""
    with extra_callback(Bomb(step, hook), first), pytest.raises(SystemExit, match="bomb"):
        go(words)


def state(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    """What a checkpoint says about the run itself, without times."""
    content = torch.load(folder / name, weights_only=True)
    keys = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "model")
    return {k: content[k] for k in keys if k in content}


def same(a: Any, b: Any) -> bool:
    """Bit equality of nested containers of tensors."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def assert_same_end(one: Outcome, other: Outcome) -> None:
    """Two finished runs have bit-equal weights, optimiser, log and metrics."""
    for name in ("last.ckpt", "best.ckpt"):
        assert (one.folder / name).exists() == (other.folder / name).exists()
        if (one.folder / name).exists():
            assert same(state(one.folder, name), state(other.folder, name)), name
    assert log(one.folder) == log(other.folder)
    assert one.record["metrics"] == other.record["metrics"]
    assert one.record["steps"] == other.record["steps"]
    assert one.record["epochs"] == other.record["epochs"]


def log(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, Tensor]:
    """The exported weights of a finished run."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
