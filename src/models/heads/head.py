"""What every class head shares: features in, logits out, a loss and a prediction."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..arguments import check_sizes

LEAST = 1e-12


class Head(nn.Module):
    """From features to one logit per class; a subclass says `forward`, and `loss` where that is not the cross-entropy.

    Args:
        dim: width of the features.
        num_classes: at least 2.

    Attributes:
        soft_targets: whether the loss takes distributions over the classes.

    Raises:
        ValueError: a size out of range.
    """

    soft_targets = True

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        check_sizes(dim=dim)
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: must be at least 2")
        self.dim, self.num_classes = dim, num_classes

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Logits: the softmax of a row is the distribution over the classes."""
        raise NotImplementedError

    def loss(
        self,
        features: Float[Tensor, "batch dim"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        *,
        label_smoothing: float = 0.0,
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats against labels, or against distributions over the classes (mixed images).

        Raises:
            ValueError: a label out of range, a target of another shape, an empty batch.
        """
        check_target(target, self.num_classes, len(features))
        return cross_entropy(self(features), target, label_smoothing)

    def predict(self, features: Float[Tensor, "batch dim"]) -> Int[Tensor, " batch"]:
        """The class of the largest logit."""
        return self(features).argmax(-1)


def cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy against labels of any integer type, or against distributions of any floating type."""
    target = target.to(logits.dtype) if target.is_floating_point() else target.long()
    return F.cross_entropy(logits, target, label_smoothing=label_smoothing)


def check_target(target: Tensor, num_classes: int, count: int) -> None:
    """Raises ValueError unless there are `count` targets, at least one: labels in 0 .. num_classes-1, or distributions
    over num_classes.

    Labels on a GPU are not looked at: that would wait for the device at every step, and data modules check theirs.
    """
    if target.is_floating_point():
        if target.ndim != 2 or target.shape[1] != num_classes:
            raise ValueError(f"target: has shape {tuple(target.shape)}, wanted (batch, {num_classes})")
    elif target.ndim != 1:
        raise ValueError(f"target: labels have shape {tuple(target.shape)}, wanted (batch,)")
    if len(target) != count or not count:
        raise ValueError(
            f"target: {len(target)} for {count} samples; the mean loss needs one each, of one at least"
        )
    on_cpu = target.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and not target.is_floating_point():
        lowest, highest = (int(label) for label in target.aminmax())
        if lowest < 0 or highest >= num_classes:
            raise ValueError(
                f"target: label {lowest if lowest < 0 else highest} is not in 0 .. {num_classes - 1}"
            )


def check_width(features: Tensor, dim: int) -> None:
    """Raises ValueError unless the features are (batch, dim) with the head's width."""
    if features.ndim != 2:
        raise ValueError(f"features: have shape {tuple(features.shape)}, wanted (batch, {dim})")
    if features.shape[-1] != dim:
        raise ValueError(f"features: have width {features.shape[-1]}, and the head is for {dim}")


def unit(features: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """`x / |x|` along the last axis: of length 1; 0, and without gradient, for features shorter than 1e-12.

    Dividing by `max(|x|, 1e-12)` would give a zero feature a gradient of 1e12 times the loss's.
    """
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return torch.where(length > LEAST, features / length.clamp_min(LEAST), 0.0 * features)
