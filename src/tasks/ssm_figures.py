"""What a state-space model has learned: its kernels and spectra, before training and after it.

For a few channels of a few layers, `figures/ssm_kernels.png` shows the convolution kernel K_l against the
lag l, `figures/ssm_spectra.png` the gain |FFT(K)| against the frequency and the poles a_n dt in the plane.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from .drawing import COLOURS, FAINT, figure, log_ticks, plain

MAX_LAYERS = 4
DEFAULT_LENGTH = 256
FREQUENCY_TICKS = (-5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50, 100)
# Layer name -> {"channels": (c,), "kernel": (c, length), "poles": (c, modes, 2)}; some layers have no poles.
Snapshot = dict[str, dict[str, Tensor]]


class SSMFigures(pl.Callback):
    """Draws kernels and spectra at the start and at the end of training, for the run folder and the loggers.

    A layer is any module with a method `kernel(length, rate)` -> (directions, channels, length); poles are
    drawn for those that have `discretise(rate)` -> (log Abar, Bbar) too, log Abar as the pair of its real and
    imaginary part, each (channels, modes). Models without such layers are left alone, and so are sharded
    ones, whose layers cannot be evaluated. What the layers were at the start is part of the checkpoint.

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
        parts = torch.broadcast_tensors(*layer.discretise(1.0)[0])
        found["poles"] = torch.stack(parts, -1).float().cpu()[chosen]
    return found


def draw_kernels(before: Snapshot, now: Snapshot, path: Path) -> None:
    """One panel per layer and channel: K_l before (grey) and after (colour) against the lag l."""
    columns = max(len(s["channels"]) for s in now.values())
    with figure(max(8.0, 2.4 * columns), 0.7 + 1.5 * len(now), path) as drawn:
        grid = drawn.subplots(len(now), columns, sharex=True, squeeze=False)
        drawn.suptitle("Kernels K before training (grey) and after", x=0.01, ha="left", fontsize=10)
        for name, column, last, axes in _panels(grid, now):
            plain(axes, xlabel="lag (samples)" if last else "", title=_title(name, now[name], column))
            axes.plot(before[name]["kernel"][column], color=FAINT, linewidth=1.6)
            axes.plot(now[name]["kernel"][column], color=COLOURS[column], linewidth=1.2)


def draw_spectra(before: Snapshot, now: Snapshot, path: Path) -> None:
    """Per layer: the gain |FFT(K)| of each channel against the frequency, then all their poles a_n dt."""
    columns = max(len(s["channels"]) for s in now.values())
    with figure(3.2 + 2.0 * columns, 0.7 + 1.9 * len(now), path) as drawn:
        grid = drawn.subplots(len(now), columns + 1, squeeze=False, width_ratios=[1.0] * columns + [1.5])
        drawn.suptitle("Gain and poles before training (grey) and after", x=0.01, ha="left", fontsize=10)
        for name, column, last, axes in _panels(grid[:, :-1], now):
            plain(axes, xlabel="cycles per sample" if last else "", title=_title(name, now[name], column))
            axes.set_yscale("log")
            axes.plot(*_gain(before[name]["kernel"][column]), color=FAINT, linewidth=1.6)
            axes.plot(*_gain(now[name]["kernel"][column]), color=COLOURS[column], linewidth=1.2)
            log_ticks(axes.yaxis)
        for index, (axes, (name, after)) in enumerate(zip(grid[:, -1], now.items(), strict=True)):
            axes.set_visible("poles" in after)
            if "poles" in after:
                last = index == len(now) - 1
                plain(
                    axes,
                    xlabel="decay, −Re a dt" if last else "",
                    ylabel="Im a dt",
                    title=f"{short(name)}, poles",
                )
                _draw_poles(axes, before[name]["poles"], after["poles"])


def _panels(grid: Any, now: Snapshot) -> Iterator[tuple[str, int, bool, Any]]:
    """(layer, column, whether it is the last row, axes); panels without a channel are hidden."""
    for row, (name, after) in enumerate(now.items()):
        for column, axes in enumerate(grid[row]):
            if column < len(after["channels"]):
                yield name, column, row == len(now) - 1, axes
            else:
                axes.set_visible(False)


def _title(name: str, layer: dict[str, Tensor], column: int) -> str:
    return f"{short(name)}, channel {int(layer['channels'][column])}"


def _gain(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """(frequencies, |FFT|), padded to four times the length for a smooth line."""
    length = 4 * len(kernel)
    return torch.fft.rfftfreq(length), torch.fft.rfft(kernel, n=length).abs()


def _draw_poles(axes: Any, before: Tensor, after: Tensor) -> None:
    """Each pole's way from before to after; the dashed line is the Nyquist frequency."""
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_yticks(FREQUENCY_TICKS, minor=False)
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = torch.cat([before, after])[..., 1].aminmax()
    axes.set_ylim(min(float(low), 0.0) - 0.3, max(float(high), torch.pi) * 1.3)
    axes.axhline(torch.pi, color=FAINT, linewidth=0.8, linestyle="--")
    for column, (old, new) in enumerate(zip(before, after, strict=True)):
        ways = torch.stack([old, new])
        axes.plot(-ways[..., 0], ways[..., 1], color=FAINT, linewidth=0.6)
        axes.scatter(-old[:, 0], old[:, 1], s=9, color=FAINT)
        axes.scatter(-new[:, 0], new[:, 1], s=11, color=COLOURS[column], zorder=3)
    log_ticks(axes.xaxis)


def short(name: str) -> str:
    """`block 1` for `model.blocks.1.layer`: the position in the stack is what tells layers apart."""
    numbers = [part for part in name.split(".") if part.isdigit()]
    return f"block {numbers[0]}" if len(numbers) == 1 else name


def show(logger: Any, name: str, path: Path, step: int) -> None:
    """Hand a picture to a logger that takes pictures (TensorBoard, or one with `log_image`)."""
    if isinstance(logger, TensorBoardLogger):
        from matplotlib.image import imread

        logger.experiment.add_image(f"figures/{name}", imread(path), step, dataformats="HWC")
    elif callable(log_image := getattr(logger, "log_image", None)):
        log_image(key=f"figures/{name}", images=[str(path)])
