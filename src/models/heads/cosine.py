"""Heads that see only angles between features and class vectors: the cosine softmax, and ArcFace.

Cosine: `logit_c = s cos(theta_c)`, `cos(theta_c) = w_c . x / (|w_c| |x|)`, with a constant scale s.

Deng, Guo, Xue, Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, arXiv
1801.07698. With the label y, in the loss only,

    logit_y = s cos(theta_y + m)                 where theta_y <= pi - m,
    logit_y = s (cos(theta_y) - m sin(m))        beyond, where the cosine would rise again,

so that it falls in theta_y everywhere (at pi - m it steps down by s (cos m + m sin m - 1)); the other logits are the
cosine head's. The second line is that of the authors' code, where it goes with `easy_margin=False`. The paper claims
more compact classes, farther from each other, and better face verification, with s = 64 and m = 0.5; as a head on
ImageNet, Wang et al. (arXiv 2308.01547) found it 1.4 points behind the linear one.

What differs here: soft targets are refused, since the margin is defined for a label.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .head import cross_entropy, unit
from .precise import PreciseHead, check_positive


class CosineHead(PreciseHead):
    """`scale * cos(angle between the features and the class vector)`; vectors are normalised at use.

    Args:
        scale: s, constant. 25 is that of the Grassmann head, for comparison.

    Raises:
        ValueError: a size or the scale out of range.
    """

    def __init__(self, dim: int, num_classes: int, *, scale: float = 25.0):
        super().__init__(dim, num_classes)
        check_positive(scale=scale)
        self.scale = scale
        self.weight = nn.Parameter(directions(num_classes, dim))

    def _logits(self, features: Tensor) -> Tensor:
        return self.scale * self._cosines(features)

    def _cosines(self, features: Tensor) -> Tensor:
        return F.linear(unit(features), unit(self.weight.to(features.dtype)))

    def extra_repr(self) -> str:
        return f"{self.dim} -> {self.num_classes}, scale={self.scale}"


class ArcFaceHead(CosineHead):
    """A cosine head whose loss adds the angle `margin` to that of the label; logits and predictions have no margin.

    Args:
        scale: s; the paper's, for many thousands of classes. With few, 25 is nearer to what other heads have.
        margin: m in radians, from 0 (the cosine head) to below pi / 2.

    Raises:
        ValueError: a size, the scale or the margin out of range; soft targets.
    """

    soft_targets = False

    def __init__(self, dim: int, num_classes: int, *, scale: float = 64.0, margin: float = 0.5):
        super().__init__(dim, num_classes, scale=scale)
        check_margin(margin)
        self.margin = margin

    def _loss(self, features: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
        options = {"scale": self.scale, "margin": self.margin, "label_smoothing": label_smoothing}
        return margin_loss(self._cosines(features), target, **options)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, margin={self.margin}"


def directions(*shape: int) -> Tensor:
    """Random vectors, of every direction alike and of length about 1."""
    return torch.randn(shape) * shape[-1] ** -0.5


def check_margin(margin: float) -> None:
    """ValueError unless the margin is an angle for which the margin's logit falls everywhere."""
    if not 0 <= margin < math.pi / 2:
        raise ValueError(f"margin={margin}: an angle in radians from 0 to below pi / 2")


def margin_loss(
    cosines: Tensor, target: Tensor, *, scale: float, margin: float, label_smoothing: float
) -> Tensor:
    """Cross-entropy of scaled cosines with ArcFace's margin, against labels.

    Raises:
        ValueError: soft targets.
    """
    if target.is_floating_point():
        raise ValueError(
            "target: this head adds its margin to the angle of a label and has no loss against distributions over "
            "the classes; train it without mixup and cutmix"
        )
    return cross_entropy(scale * add_margin(cosines, target, margin), target, label_smoothing)


def add_margin(
    cosines: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], margin: float
) -> Float[Tensor, "batch classes"]:
    """The cosines, with ArcFace's `cos(theta + margin)`, or its continuation, in place of that of the label."""
    index = labels.long()[:, None]
    cosine = cosines.gather(1, index)
    # The slope of the sine is infinite at angle 0: below the least of it there is none.
    sine = (1 - cosine.square()).clamp_min(1e-12).sqrt()
    added = cosine * math.cos(margin) - sine * math.sin(margin)
    beyond = cosine - margin * math.sin(margin)
    return cosines.scatter(1, index, torch.where(cosine >= -math.cos(margin), added, beyond))
