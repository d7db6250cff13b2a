"""Where a step's time goes: a trace of a few steps, the costliest operations, and the share of waiting for data."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile


class Profile(pl.Callback):
    """Traces `steps` training steps after the first `skip` ones; writes `profile/trace.json` into the run folder.

    The trace opens in `chrome://tracing` or Perfetto. Printed are the ten operations with the most time of their own
    (on the GPU where there is one) and the share of time between the end of a step and the start of the next: what
    the data cost. A run with fewer steps is traced as far as it goes.
    """

    def __init__(self, folder: Path, console: Console, *, skip: int = 5, steps: int = 20):
        self.path, self.console = folder / "profile" / "trace.json", console
        self.skip, self.steps = skip, steps
        self._tracer: profile | None = None
        self._seen, self._waited, self._began, self._ended = 0, 0.0, 0.0, 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self._tracer is not None:
            self._waited += time.perf_counter() - self._ended

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._seen += 1
        if self._tracer is not None and self._seen == self.skip + self.steps:
            self._finish(pl_module.device)
        if self._seen == self.skip:
            activities = [ProfilerActivity.CPU]
            if pl_module.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._tracer = profile(activities=activities)
            self._tracer.start()
            self._began = time.perf_counter()
        self._ended = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._tracer is not None:
            self._finish(pl_module.device)

    def _finish(self, device: torch.device) -> None:
        tracer, self._tracer = self._tracer, None
        assert tracer is not None
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - self._began
        tracer.stop()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tracer.export_chrome_trace(str(self.path))
        self.console.print(self._table(tracer, device, seconds), soft_wrap=True)

    def _table(self, tracer: profile, device: torch.device, seconds: float) -> str:
        key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        found = sorted(tracer.key_averages(), key=lambda e: -getattr(e, key))
        total = sum(getattr(e, key) for e in found) or 1.0
        rows = [
            f"  {getattr(e, key) / total:6.1%}  {getattr(e, key) / 1e3:9.2f} ms  {e.count:6d} x  {e.key[:80]}"
            for e in found[:10]
        ]
        steps = max(1, self._seen - self.skip)
        return "\n".join([
            f"profile of {steps} steps, {1e3 * seconds / steps:.2f} ms each; "
                f"{self._waited / seconds:.1%} of it for data",
            *rows,
            f"  trace: {self.path}",
        ])  # fmt: skip
