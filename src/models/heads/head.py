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

    Raises:
        ValueError: a size out of range.
    """

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
            ValueError: a label out of range, a target of another shape.
        """
        check_target(target, self.num_classes)
        return F.cross_entropy(self(features), target, label_smoothing=label_smoothing)

    def predict(self, features: Float[Tensor, "batch dim"]) -> Int[Tensor, " batch"]:
        """The class of the largest logit."""
        return self(features).argmax(-1)


def check_target(target: Tensor, num_classes: int) -> None:
    """Raises ValueError unless labels lie in 0 .. num_classes-1, and distributions have num_classes columns.

    Labels on a GPU are not looked at: that would wait for the device at every step, and data modules check theirs.
    """
    if target.is_floating_point():
        if target.ndim != 2 or target.shape[1] != num_classes:
            raise ValueError(f"target: has shape {tuple(target.shape)}, wanted (batch, {num_classes})")
    elif target.ndim != 1:
        raise ValueError(f"target: labels have shape {tuple(target.shape)}, wanted (batch,)")
    elif target.device.type == "cpu" and not torch.compiler.is_compiling() and len(target):
        lowest, highest = (int(label) for label in target.aminmax())
        if lowest < 0 or highest >= num_classes:
            raise ValueError(
                f"target: label {lowest if lowest < 0 else highest} is not in 0 .. {num_classes - 1}"
            )


def check_width(features: Tensor, dim: int) -> None:
    """Raises ValueError unless the last axis of the features has the head's width."""
    if features.shape[-1] != dim:
        raise ValueError(f"features: have width {features.shape[-1]}, and the head is for {dim}")


def unit(features: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """`x / |x|` along the last axis: of length 1; 0, and without gradient, for features shorter than 1e-12.

    Dividing by `max(|x|, 1e-12)` would give a zero feature a gradient of 1e12 times the loss's.
    """
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return torch.where(length > LEAST, features / length.clamp_min(LEAST), 0.0 * features)
