"""Training of a classifier whose last layers and features alone decay, as the theory of neural collapse has it.

Dang et al., ICML 2023, arXiv 2301.00437. A backbone, features h, and a `DeepLinearHead` of M layers. With N training
samples, batches of B and y_i the unit vector of the class, a step descends on an estimate of the objective of
`ops.collapse_optimum`, with the features of a network in place of free ones:

    1/(2B) sum_batch |W_M .. W_1 h_i + b - y_i|^2 + lambda_W/2 sum_j |W_j|^2 + lambda_H/2 (N/B) sum_batch |h_i|^2.

The paper claims that networks that can fit their training data end in the closed form's geometry. What differs here:
its scripts have torch's mean squared error, over batch and classes, and no factor N/B (`scaling: torch`):

    1/(BK) sum_batch |..|^2 + lambda_W/2 sum_j |W_j|^2 + lambda_H/2 sum_batch |h_i|^2.

That is 2/K times the theory's objective with the decays (K/2) lambda_W and (K/2) (B/N) lambda_H, which is how both are
compared with the closed form.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..models.arguments import check_choice
from ..models.heads.classifier import Classifier
from ..models.heads.deep_linear import DeepLinearHead
from ..ops.collapse_optimum import CollapseOptimum, collapse_optimum, decay_terms
from .base import Batch
from .classification import Classification
from .collapse_measures import LOSSES, collapse_measures
from .inputs import model_inputs

SCALINGS = ("theory", "torch")


class NeuralCollapse(Classification):
    """`Classification` by the objective of the module; at the end of the test it measures the training data.

    | metric | meaning |
    |---|---|
    | `val/loss`, `test/loss` | the error alone, without decays: squared as in the objective, or cross-entropy in nats |
    | `train/accuracy`, `train/loss` | of all training samples, without augmentation; the loss is the whole objective |
    | `train/loss/optimum` | its least value by the closed form |
    | `train/excess` | loss over that, minus 1 |
    | `train/nc1`, .. | see `collapse_measures` |

    There is a closed form for the squared error without a bias, and with one where all classes are of equal size.

    Args:
        model: a `Classifier` with a `DeepLinearHead`.
        loss: mse, or ce: the mean cross-entropy in place of the squared error.
        weight_decay: lambda_W, of the head's layers. The optimiser should have none.
        feature_decay: lambda_H.
        scaling: theory or torch, see the module.

    Raises:
        ValueError: an unknown loss or scaling, a decay that is not positive and finite.
        ConfigError: another model or head; on the fit's start, a class without training samples.
    """

    model: Classifier  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        loss: str = "mse",
        weight_decay: float = 1e-4,
        feature_decay: float = 1e-4,
        scaling: str = "theory",
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        check_choice("loss", loss, LOSSES)
        check_choice("scaling", scaling, SCALINGS)
        for name, decay in (("weight_decay", weight_decay), ("feature_decay", feature_decay)):
            if not 0 < decay < math.inf:
                raise ValueError(f"{name}={decay}: must be positive and finite")
        if not isinstance(getattr(model, "head", None), DeepLinearHead) or not isinstance(model, Classifier):
            found = model.head if isinstance(model, Classifier) else model
            raise ConfigError(
                f"model.head: neural collapse is measured on a DeepLinearHead, not {type(found).__name__}"
            )
        self.loss, self.scaling = loss, scaling
        self.weight_decay, self.feature_decay = weight_decay, feature_decay

    @property
    def head(self) -> DeepLinearHead:
        """Of the model as it is now."""
        return self.model.head  # type: ignore[return-value]

    def on_fit_start(self) -> None:
        self._optimum()  # a class without samples should not be noticed at the end

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        features = self.model.features(*model_inputs(batch))
        error = self._errors(self.head(features), batch["y"]).mean()
        theory = self.scaling == "theory"
        factor = self._samples / len(features) if theory else float(self.trainer.world_size)
        decay = self._decay_terms(features, self.weight_decay, factor * self.feature_decay)
        return {self.loss: error, "decay": decay}

    def update_metrics(self, batch: Batch, stage: str) -> None:
        logits = self.model(*model_inputs(batch))
        weight, metrics = batch["mask"].float(), self.metrics_of(stage)
        metrics["loss"].update(self._errors(logits, batch["y"]), weight)
        metrics["accuracy"].update((logits.argmax(-1) == batch["y"]).float(), weight)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        for name, value in self.measure().items():
            self.log(f"train/{name}", value, rank_zero_only=True)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """The measures of the training data, by the model as it stands."""
        features, labels = self._training_features()
        weights, logits = [weight.double() for weight in self.head.weights()], self.head(features).double()
        weight_decay, feature_decay, factor = self._theory()
        error = self._errors(logits, labels).mean()
        decay = decay_terms(
            weights,
            features.double(),
            weight_decay=weight_decay * factor,
            feature_decay=feature_decay * factor,
        )
        loss = float(error + decay)
        found = {"accuracy": float((logits.argmax(-1) == labels).double().mean()), "loss": loss}
        optimum = self._optimum()
        if optimum is not None:
            least = factor * optimum.loss
            found |= {"loss/optimum": least, "excess": loss / least - 1}
        frame = "simplex" if self.loss == "ce" or self.head.bias is not None else "orthogonal"
        return found | collapse_measures(weights, features.double(), labels, frame=frame, optimum=optimum)

    def _errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of each sample, so that their mean is the first term of the objective."""
        if self.loss == "ce":
            return F.cross_entropy(logits, labels, reduction="none")
        squares = (logits - F.one_hot(labels, self.model.num_classes)).square().sum(-1)
        return squares / (2 if self.scaling == "theory" else self.model.num_classes)

    def _decay_terms(self, features: Tensor, weight_decay: float, feature_decay: float) -> Tensor:
        weights = self.head.weights()
        return decay_terms(
            weights, features.to(weights[0].dtype), weight_decay=weight_decay, feature_decay=feature_decay
        )

    def _theory(self) -> tuple[float, float, float]:
        """Decays of the theory's objective with the same minimisers, and what that one is multiplied by."""
        if self.scaling == "theory":
            return self.weight_decay, self.feature_decay, 1.0
        half = 1.0 if self.loss == "ce" else self.model.num_classes / 2
        share = min(1.0, self._data.batch_size / self._samples)
        return half * self.weight_decay, half * share * self.feature_decay, 1 / half

    def _optimum(self) -> CollapseOptimum | None:
        classes, (weight_decay, feature_decay, _) = self.model.num_classes, self._theory()
        counts = torch.bincount(self._data.splits["train"]["y"].cpu(), minlength=classes).tolist()
        if 0 in counts:
            raise ConfigError(f"data: class {counts.index(0)} has no training samples, of {classes} classes")
        bias = self.head.bias is not None
        if self.loss == "ce" or (bias and len(set(counts)) > 1):
            return None
        return collapse_optimum(counts, len(self.head.weights()), weight_decay, feature_decay, bias=bias)

    def _training_features(self) -> tuple[Tensor, Tensor]:
        split, size = self._data.splits["train"], self._data.eval_batch_size
        found = []
        for start in range(0, self._samples, size):
            rows = {name: tensor[start : start + size].to(self.device) for name, tensor in split.items()}
            found.append(self.model.features(*model_inputs(self._data.prepare(rows))))
        return torch.cat(found), split["y"].to(self.device)

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def _samples(self) -> int:
        """N."""
        return self._data.counts["train"]
