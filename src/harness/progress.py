"""What a person sees of a run: a start banner of one screen, one moving line, one line at the end.

The line has the epoch, steps per second, the loss, the best metric and the time left for the whole run. Where there is
no terminal, a plain line every 30 seconds says the same.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.live import Live
from rich.text import Text

from .words import duration

PLAIN_EVERY_S = 30.0


class Progress(pl.Callback):
    """One line that moves; `monitor` is the metric shown with its best value."""

    def __init__(self, monitor: str, best: Any = None, console: Console | None = None):
        self.monitor, self.best = monitor, best
        self.console = console or Console(file=sys.stdout, highlight=False)
        self._live: Live | None = None
        self._shown = self._started = 0.0
        self._first = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._started = self._shown = time.monotonic()
        self._first = trainer.global_step
        if trainer.is_global_zero and self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        if now - self._shown < (0.25 if self._live else PLAIN_EVERY_S):
            return
        self._shown = now
        line = self.line(trainer, pl_module, now)
        if self._live:
            self._live.update(Text(line, overflow="ellipsis", no_wrap=True))
        else:
            self.console.print(line, soft_wrap=True)
            self.console.file.flush()

    def line(self, trainer: pl.Trainer, task: Any, now: float) -> str:
        """The text of the line at this moment."""
        total, done = int(trainer.estimated_stepping_batches), trainer.global_step
        rate = (done - self._first) / max(1e-9, now - self._started)
        parts = [
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            f"step {done}/{total}",
            f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/step",
            f"loss {sum(float(t.detach()) for t in task.terms.values()):.4f}",
        ]
        if self.best is not None and (best := self.best()) is not None:
            parts.append(f"best {self.monitor} {best:.4f}")
        parts.append(f"{duration((total - done) / max(rate, 1e-9))} left")
        return " · ".join(parts)

    def _stop(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._stop()


def banner(
    *,
    title: str,
    changes: Mapping[str, Any],
    parameters: tuple[int, int],
    counts: Mapping[str, int],
    device: str,
    steps: int,
    estimate_s: float | None,
    folder: str,
    resumed: int | None,
) -> str:
    """The start of a run on one screen: what differs from the experiment, sizes, device, time."""
    total, trainable = parameters
    frozen = "" if total == trainable else f" ({trainable:,} trainable)"
    data = " · ".join(f"{name} {n:,}" for name, n in counts.items() if n)
    about = "known after the first steps" if estimate_s is None else f"about {duration(estimate_s)}"
    rows = [
        title,
        f"  parameters  {total:,}{frozen}",
        f"  data        {data}",
        f"  device      {device}",
        f"  steps       {steps:,}, {about}",
        f"  folder      {folder}",
    ]
    if changes:
        rows.append(
            "  changed     " + "\n              ".join(f"{k} = {v}" for k, v in list(changes.items())[:12])
        )
    if resumed is not None:
        rows.append(f"  resumed     at step {resumed:,}")
    return "\n".join(rows)
