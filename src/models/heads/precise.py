"""A head that computes in float32 or wider, whatever surrounds it."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...ops.precision import without_autocast
from .head import Head, check_target, check_width, cross_entropy


class PreciseHead(Head):
    """A head whose norms, projections and loss are in float32 or wider: under autocast and in bfloat16 too.

    A subclass writes `_logits`, which gets features in the wide type and converts its parameters to it. Logits have the
    wider of the types of features and parameters, the loss is never narrower than float32. Parameters are tagged
    `head`.
    """

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        dtype = features.dtype
        for parameter in self.parameters():
            dtype = torch.promote_types(dtype, parameter.dtype)
        with without_autocast(features.device):
            return self._logits(self._wide(features)).to(dtype)

    def loss(
        self,
        features: Float[Tensor, "batch dim"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        *,
        label_smoothing: float = 0.0,
    ) -> Float[Tensor, ""]:
        """`Head.loss`, in float32 or wider."""
        check_target(target, self.num_classes, len(features))
        with without_autocast(features.device):
            return self._loss(self._wide(features), target, label_smoothing)

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """All are tagged `head`."""
        return {name: ("head",) for name, _ in self.named_parameters()}

    def _logits(self, features: Tensor) -> Tensor:
        raise NotImplementedError

    def _loss(self, features: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
        return cross_entropy(self._logits(features), target, label_smoothing)

    def _wide(self, features: Tensor) -> Tensor:
        check_width(features, self.dim)
        return features.to(torch.promote_types(features.dtype, torch.float32))


def check_positive(**values: float) -> None:
    """ValueError naming the first value that is not positive and finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: must be positive and finite")
