"""What a state-space model has learned: its kernels and spectra, before training and after it.

For a few channels of a few layers, `figures/ssm_kernels.png` shows the convolution kernel K_l against the lag l,
and `figures/ssm_spectra.png` the gain |FFT(K)| against the frequency and the poles a_n dt in the complex plane.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor, nn

from .drawing import COLOURS, FAINT, figure, plain

MAX_LAYERS = 4
DEFAULT_LENGTH = 256
# Layer name -> {"channels": (c,), "kernel": (c, length), "poles": (c, modes, 2)}; some layers have no poles.
Snapshot = dict[str, dict[str, Tensor]]


class SSMFigures(pl.Callback):
    """Draws kernels and spectra at the start and at the end of training, for the run folder and the loggers.

    A layer is any module with a method `kernel(length, rate)` -> (directions, channels, length); the poles are
    drawn for those that have `discretise(rate)` -> (log Abar, Bbar) too. Models without such layers are left
    alone, and so are sharded ones, whose layers cannot be evaluated. What the layers were at the start is part of
    the checkpoint.

    Args:
        channels: how many channels of a layer are drawn, spread over its width; at most 6.
        length: of the kernels; None takes that of the data, or 256 where they do not say.

    Raises:
        ValueError: `channels` or `length` out of range.
    """

    def __init__(self, channels: int = 4, length: int | None = None):
        if not 1 <= channels <= len(COLOURS):
            raise ValueError(f"channels is {channels}, it must lie in 1..{len(COLOURS)}")
        if length is not None and length < 2:
            raise ValueError(f"length is {length}, it must be at least 2")
        self.channels, self.length = channels, length
        self._before: Snapshot = {}

    def state_dict(self) -> dict[str, Any]:
        """The snapshot of the start."""
        return {"before": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A resumed run compares with the start of the whole run."""
        self._before = state_dict["before"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._before:
            self._before = self._snapshot(trainer, pl_module)
            self._draw(trainer, self._before)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw(trainer, self._snapshot(trainer, pl_module))

    def _snapshot(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Snapshot:
        layers = [] if _is_sharded(trainer) else ssm_layers(pl_module)
        length = self.length or _data_length(trainer)
        return {name: snapshot(layer, self.channels, length) for name, layer in _spread(layers, MAX_LAYERS)}

    def _draw(self, trainer: pl.Trainer, now: Snapshot) -> None:
        if not now or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / "figures"
        for name, draw in (("ssm_kernels", draw_kernels), ("ssm_spectra", draw_spectra)):
            draw(self._before, now, folder / f"{name}.png")
            for logger in trainer.loggers:
                show(logger, name, folder / f"{name}.png", trainer.global_step)


def _data_length(trainer: pl.Trainer) -> int:
    sizes = getattr(getattr(trainer, "datamodule", None), "sizes", {})
    return max(2, sizes.get("length", DEFAULT_LENGTH))


def _is_sharded(trainer: pl.Trainer) -> bool:
    return "FSDP" in type(trainer.strategy).__name__


def ssm_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name, layer) of every submodule that has a method `kernel`, in the order of the model."""
    return [(name, m) for name, m in module.named_modules() if callable(getattr(m, "kernel", None))]


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


@torch.no_grad()
def snapshot(layer: Any, channels: int, length: int) -> dict[str, Tensor]:
    """The first direction's kernels, and the poles, of some channels; float32 on the CPU."""
    kernel = layer.kernel(length, 1.0)[0].float().cpu()
    chosen = torch.tensor(_spread(range(len(kernel)), channels))
    found = {"channels": chosen, "kernel": kernel[chosen]}
    if callable(getattr(layer, "discretise", None)):
        poles = layer.discretise(1.0)[0].cpu()[chosen]
        found["poles"] = torch.view_as_real(poles).float()
    return found


def draw_kernels(before: Snapshot, now: Snapshot, path: Path) -> None:
    """One panel per layer and channel: K_l before (grey) and after (colour) against the lag l."""
    columns = max(len(s["channels"]) for s in now.values())
    with figure(max(8.0, 2.4 * columns), 0.7 + 1.5 * len(now), path) as drawn:
        grid = drawn.subplots(len(now), columns, sharex=True, squeeze=False)
        for row, (name, after) in zip(grid, now.items(), strict=True):
            for column, axes in enumerate(row):
                if column >= len(after["channels"]):
                    axes.set_visible(False)
                    continue
                title = f"{short(name)}, channel {int(after['channels'][column])}"
                plain(axes, xlabel="lag (samples)" if row is grid[-1] else "", title=title)
                axes.plot(before[name]["kernel"][column], color=FAINT, linewidth=1.6, label="before")
                axes.plot(after["kernel"][column], color=COLOURS[column], linewidth=1.2, label="after")
        drawn.suptitle("Kernels K, before training (grey) and after (colour)", x=0.01, ha="left", fontsize=10)


def draw_spectra(before: Snapshot, now: Snapshot, path: Path) -> None:
    """Per layer the gain |FFT(K)| against the frequency, and the poles a_n dt; before in grey, after in colour."""
    columns = 2 if any("poles" in s for s in now.values()) else 1
    with figure(9.0, 0.7 + 2.6 * len(now), path) as drawn:
        grid = drawn.subplots(len(now), columns, squeeze=False)
        for row, (name, after) in zip(grid, now.items(), strict=True):
            last = row is grid[-1]
            plain(
                row[0],
                xlabel="frequency (cycles per sample)" if last else "",
                title=f"{short(name)}: gain |FFT(K)|",
            )
            _draw_gain(row[0], before[name], after)
            if "poles" in after:
                plain(
                    row[1],
                    xlabel="decay −Re a dt (per sample)" if last else "",
                    title=f"{short(name)}: poles",
                )
                row[1].set_ylabel("Im a dt (radians per sample)")
                _draw_poles(row[1], before[name]["poles"], after["poles"])
        drawn.suptitle("Spectra, before training (grey) and after (colour)", x=0.01, ha="left", fontsize=10)


def _draw_gain(axes: Any, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    frequencies = torch.fft.rfftfreq(after["kernel"].shape[-1])[1:]
    axes.set_xscale("log")
    axes.set_yscale("log")
    for column, (old, new) in enumerate(zip(before["kernel"], after["kernel"], strict=True)):
        axes.plot(frequencies, torch.fft.rfft(old).abs()[1:], color=FAINT, linewidth=1.2)
        axes.plot(
            frequencies, torch.fft.rfft(new).abs()[1:], color=COLOURS[column], linewidth=1.3,
            label=f"channel {int(after['channels'][column])}",
        )  # fmt: skip
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def _draw_poles(axes: Any, before: Tensor, after: Tensor) -> None:
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=0.1)
    axes.axhline(torch.pi, color=FAINT, linewidth=0.8, linestyle="--")
    for column, (old, new) in enumerate(zip(before, after, strict=True)):
        for start, end in zip(old, new, strict=True):
            axes.plot([-start[0], -end[0]], [start[1], end[1]], color=FAINT, linewidth=0.6)
        axes.scatter(-old[:, 0], old[:, 1], s=9, color=FAINT)
        axes.scatter(-new[:, 0], new[:, 1], s=11, color=COLOURS[column])


def short(name: str) -> str:
    """`block 1` for `model.blocks.1.layer`: the position in the stack is what tells layers apart."""
    numbers = [part for part in name.split(".") if part.isdigit()]
    return f"block {numbers[0]}" if len(numbers) == 1 else name


def show(logger: Logger, name: str, path: Path, step: int) -> None:
    """Hand a picture to a logger that takes pictures (TensorBoard, or one with `log_image`)."""
    if isinstance(logger, TensorBoardLogger):
        from matplotlib.image import imread

        logger.experiment.add_image(f"figures/{name}", imread(path), step, dataformats="HWC")
    elif callable(log_image := getattr(logger, "log_image", None)):
        log_image(key=f"figures/{name}", images=[str(path)])
