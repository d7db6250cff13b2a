"""Layer-wise learning rates from the spectra of the weights: TempBalance, with FARMS or without.

Zhou et al., "Temperature Balancing, Layer-wise Weight Analysis, and Neural Network Training", NeurIPS 2023, arXiv
2312.00359; Hu et al., ICML 2025, arXiv 2506.06280 (FARMS). With the exponent alpha_l of every layer, once per epoch,

    rate_l = rate(t) (low + (alpha_l - alpha_min) / (alpha_max - alpha_min) (high - low)),

so that a heavy tail (a small alpha, a layer that has learned much) gets a small rate. Differs: where all exponents are
equal every factor is 1, and so it is for a layer without exponent (a weight of zeros, an orthogonal matrix).
"""

from typing import Any

import lightning.pytorch as pl
from torch import nn

from ..errors import ConfigError
from ..models.arguments import check_choice
from ..models.compression.matrices import weight_layers
from ..ops.submatrices import Windows
from ..ops.tails import RULES, weight_exponent

_Normalisation = nn.modules.batchnorm._BatchNorm


class TemperatureBalance(pl.Callback):
    """Sets the `ratio` of every layer's group at the start of an epoch; needs `optim: layerwise_sgd`.

    Linear layers and convolutions are measured; a batch normalisation follows the layer before it; all else keeps the
    factor 1. The factors are part of the optimiser's state, the epoch for which they were computed is part of the
    checkpoint: a resumed run goes on with the factors of its epoch.

    Args:
        low, high: factors of the smallest and the largest exponent (TempBalance 0.6 and 1.4; with FARMS 0.1 and 1.9).
        windows: of FARMS; None takes the full spectra (TempBalance).
        rule: of the tail, one of `ops.tails.RULES`.
        first, last: whether the first and the last layer are balanced.

    Raises:
        ValueError: `low` negative or above `high`, an unknown rule.
    """

    def __init__(
        self,
        low: float = 0.6,
        high: float = 1.4,
        *,
        windows: Windows | None = None,
        rule: str = "median",
        first: bool = True,
        last: bool = True,
    ):
        if not 0 <= low <= high:
            raise ValueError(f"low={low}, high={high}: they need 0 <= low <= high")
        check_choice("rule", rule, RULES)
        self.low, self.high, self.windows, self.rule = low, high, windows, rule
        self.first, self.last = first, last
        self._epoch = -1

    def state_dict(self) -> dict[str, Any]:
        """The epoch of the factors that are set."""
        return {"epoch": self._epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """An epoch that had begun keeps its factors."""
        self._epoch = state_dict["epoch"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._epoch == trainer.current_epoch:
            return
        groups = trainer.optimizers[0].param_groups
        if "FSDP" in type(trainer.strategy).__name__:
            raise ConfigError(
                "callbacks: TemperatureBalance needs whole weights, which a sharded model does not have"
            )
        if not all("ratio" in group and "layer" in group for group in groups):
            raise ConfigError(
                "callbacks: TemperatureBalance needs one group per layer; set optim=layerwise_sgd"
            )
        model: Any = pl_module.model
        found = self.ratios(model)
        for group in groups:
            group["ratio"] = found.get(group["layer"], 1.0)
        self._epoch = trainer.current_epoch

    def ratios(self, model: nn.Module) -> dict[str, float]:
        """The factor of every layer that is balanced, and of the batch normalisations that follow one."""
        layers = list(weight_layers(model))
        layers = layers[0 if self.first else 1 : None if self.last else -1]
        found = {layer.name: self._alpha(layer.weight.float()) for layer in layers}
        ratios = spread(
            {name: alpha for name, alpha in found.items() if alpha is not None}, self.low, self.high
        )
        return _with_normalisations(model, ratios)

    def _alpha(self, weight: Any) -> float | None:
        try:
            return weight_exponent(weight, self.windows, rule=self.rule)
        except ValueError:  # no exponent: zeros, or all singular values equal
            return None


def spread(alphas: dict[str, float], low: float, high: float) -> dict[str, float]:
    """The exponents mapped linearly onto [low, high]; 1 for each where they are all equal."""
    if len(set(alphas.values())) < 2:
        return dict.fromkeys(alphas, 1.0)
    least, most = min(alphas.values()), max(alphas.values())
    return {name: low + (alpha - least) / (most - least) * (high - low) for name, alpha in alphas.items()}


def _with_normalisations(model: nn.Module, ratios: dict[str, float]) -> dict[str, float]:
    """The same, with each batch normalisation at the factor of the weight layer before it."""
    measured, before, found = {layer.name for layer in weight_layers(model)}, 1.0, dict(ratios)
    for name, module in model.named_modules():
        if name in measured:
            before = ratios.get(name, 1.0)
        elif isinstance(module, _Normalisation):
            found[name] = before
    return found
