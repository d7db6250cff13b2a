"""Stops a run whose loss is not finite, and says where it began."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from ..errors import NonFiniteError


class FiniteGuard(pl.Callback):
    """Raises NonFiniteError naming the step, the loss term and the first module with a non-finite output.

    On the CPU every step is looked at before the optimiser acts on it. On a GPU that would wait for the device at
    each step, so the first bad step is noted on the device and read every `every` steps, and always before a
    checkpoint: a checkpoint never holds what a non-finite loss has spoilt.
    """

    def __init__(self, every: int = 50):
        self.every = every
        self._bad: Tensor | None = None
        self._batch: Any = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if not loss.is_cuda:
            if not torch.isfinite(loss):
                self._stop(trainer, pl_module, trainer.global_step)
            return
        if self._bad is None:
            self._bad = torch.full((), -1, dtype=torch.int64, device=loss.device)
        fresh = (self._bad < 0) & ~torch.isfinite(loss.detach())
        self._bad = torch.where(fresh, trainer.global_step, self._bad)
        if trainer.global_step % self.every == 0:
            self.look(trainer, pl_module)

    def look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the device's note."""
        if self._bad is not None and (step := int(self._bad)) >= 0:
            self._stop(trainer, pl_module, step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.look(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.look(trainer, pl_module)

    def _stop(self, trainer: pl.Trainer, task: Any, step: int) -> None:
        terms = [
            f"{name}={float(value.detach()):g}"
            for name, value in task.terms.items()
            if not torch.isfinite(value)
        ]
        raise NonFiniteError(
            f"step {step} (epoch {trainer.current_epoch}): the loss is not finite "
            f"({', '.join(terms) or 'its backward scale'}); {self._origin(task)}. "
            "What was saved before is kept."
        )

    def _origin(self, task: Any) -> str:
        if bad := [k for k, v in self._batch.items() if not _finite(v)]:
            return f"the batch itself has a NaN or infinity in '{bad[0]}'"
        name = first_bad_module(task, self._batch)
        return (
            f"the first module with a non-finite output is '{name}'"
            if name
            else "all modules' outputs are finite"
        )


def first_bad_module(task: Any, batch: Any) -> str | None:
    """Run the loss once more and name the first module (innermost, in order of execution) that goes wrong.

    A module counts only if it is a leaf of the trouble: its own inputs were finite.
    """
    found: list[str] = []
    hooks = []
    for name, module in task.named_modules():
        if name:
            hooks.append(module.register_forward_hook(_note(name, found)))
    try:
        with torch.no_grad():
            task.losses(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _note(name: str, found: list[str]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and not _finite(output):
            found.append(name)

    return hook


def _finite(value: Any) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _tensors(v)
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from _tensors(v)
