"""Classification under sinusoidal noise at the resonances of a trained state-space model (PTD, section 5)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from ..errors import ConfigError
from .base import Batch
from .classification import Classification
from .inputs import model_inputs

SEED = 0  # of the phases and of the control's frequencies: the same in every run


class NoisyClassification(Classification):
    """`Classification` with further test metrics: accuracy under one tone at a time.

    The input becomes `u_t + noise sd(u) cos(theta t + phase)`, sd over the valid positions of each sample and
    channel. Frequencies are those of `resonances(layer)` of the trained model's first layer that has a method
    `discretise`; the control has as many, drawn uniformly from (0, pi). All samples get all of them, one after
    the other; phases and control are fixed.

    | metric | meaning |
    |---|---|
    | `test/accuracy_resonance` | accuracy under the resonant tones, mean over them |
    | `test/drop_resonance` | `test/accuracy` less that |
    | `test/accuracy_noise` | accuracy under the control's tones |

    Args:
        noise: amplitude of the tone in standard deviations of the signal (>= 0). The paper says "10 %".
        tones: largest number of resonances (>= 1).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        label_smoothing: float = 0.0,
        rates: Sequence[int] = (),
        noise: float = 0.1,
        tones: int = 5,
    ):
        super().__init__(
            model, optim=optim, scheduler=scheduler, label_smoothing=label_smoothing, rates=rates
        )
        if not noise >= 0:
            raise ValueError(f"noise={noise}: must be >= 0")
        if tones < 1:
            raise ValueError(f"tones={tones}: must be at least 1")
        self.noise, self.tones = noise, tones
        self._layer_of(model)
        for name in ("accuracy_resonance", "drop_resonance", "accuracy_noise"):
            self.evaluation["test"][name] = MeanMetric()  # type: ignore[index]

    def update_metrics(self, batch: Batch, stage: str) -> None:
        super().update_metrics(batch, stage)
        if stage != "test":
            return
        if not batch["x"].is_floating_point():
            raise ConfigError(f"task: noise is added to real signals, but x holds {batch['x'].dtype}")
        metrics, weight = self.metrics_of(stage), batch["mask"].float()
        resonant, control = self.frequencies(batch["x"].shape[1])
        clean = self._right(batch)
        for index, theta in enumerate(resonant):
            right = self._right(self.with_tone(batch, theta, index))
            metrics["accuracy_resonance"].update(right, weight)
            metrics["drop_resonance"].update(clean - right, weight)
        for index, theta in enumerate(control):
            right = self._right(self.with_tone(batch, theta, index))
            metrics["accuracy_noise"].update(right, weight)

    def frequencies(self, length: int) -> tuple[list[float], list[float]]:
        """(resonances, control) in radians per sample, as many of each."""
        found = resonances(self._layer_of(self.model), self.tones, length)
        return found, (math.pi * _uniform(len(found), SEED)).tolist()

    def with_tone(self, batch: Batch, theta: float, index: int) -> Batch:
        """The batch with the tone added to every channel of x; `index` chooses the phase."""
        x = batch["x"]
        phase = 2 * math.pi * _uniform(self.tones, SEED + 1)[index].item()
        steps = torch.arange(x.shape[1], dtype=torch.float64, device=x.device)
        tone = torch.cos(theta * steps + phase).to(x.dtype)
        return {**batch, "x": x + self.noise * _deviation(batch) * tone[:, None]}

    def _right(self, batch: Batch) -> Tensor:
        return (self.model(*model_inputs(batch)).argmax(-1) == batch["y"]).float()

    @staticmethod
    def _layer_of(model: nn.Module) -> Any:
        for module in model.modules():
            if callable(getattr(module, "discretise", None)):
                return module
        raise ConfigError("task: the model has no layer with a method `discretise`, so no resonances")


def _deviation(batch: Batch) -> Tensor:
    """(batch, 1, channels): standard deviation over the valid positions."""
    x = batch["x"]
    lengths = batch.get("lengths", torch.full((len(x),), x.shape[1])).to(x.device)[:, None, None]
    valid = torch.arange(x.shape[1], device=x.device)[:, None] < lengths
    mean = torch.where(valid, x, 0).sum(1, keepdim=True) / lengths
    return (torch.where(valid, x - mean, 0).square().sum(1, keepdim=True) / lengths).sqrt()


def _uniform(count: int, seed: int) -> Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.rand(count, dtype=torch.float64, generator=generator)


@torch.no_grad()
def resonances(layer: Any, count: int, length: int) -> list[float]:
    """The frequencies at which a layer rings longest, in radians per sample in 0..pi, sharpest first.

    A pole `Abar = exp(-d + i theta)` has the quality factor `Q = |theta| / (2 d)`, theta folded to -pi..pi: pi times
    the number of periods that it rings. Of all poles of all channels the one with the largest Q is taken, those
    nearer to it than `2 pi / length` (which so many samples cannot tell apart) are dropped, and so on. A layer
    with fewer such poles gives fewer frequencies; a real pole counts as frequency 0.

    Args:
        layer: has `discretise(rate)` -> (log Abar, ...), log Abar the pair of its real and imaginary part.
        count: how many at most.
        length: number of samples of the sequences.
    """
    real, imag = (
        part.double().flatten().cpu() for part in torch.broadcast_tensors(*layer.discretise(1.0)[0])
    )
    theta = (torch.remainder(imag + math.pi, 2 * math.pi) - math.pi).abs()
    quality = theta / (2 * (-real).clamp(min=torch.finfo(real.dtype).tiny))
    theta = theta[quality.argsort(descending=True, stable=True)]
    found = []
    while len(theta) and len(found) < count:
        found.append(theta[0].item())
        theta = theta[(theta - theta[0]).abs() >= 2 * math.pi / length]
    return found
