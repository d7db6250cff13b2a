"""Heads with several vectors per class, the baselines of the Grassmann class representation.

Wang, Li, Zhang, ICCV 2023, arXiv 2308.01547, compare them at the parameters of 8-dimensional subspaces; all of them
fell behind the plain linear head on ImageNet (top-1 78.04: MultiFC 77.34, SoftTriple 75.55, SubCenterArcFace 77.10),
the subspaces did not (79.26). With x and the centres w_ck of unit length in the last two:

- MultiFC: H linear layers with a loss each, ensembled: `p(c|x) = mean_h softmax(W_h x + b_h)_c`.
- SoftTriple (Qian, Shang, Sun, Hu, Li, Jin, ICCV 2019, arXiv 1909.05235):
      S_c = sum_k softmax_k(w_ck . x / gamma) w_ck . x,        logit_c = lambda (S_c - delta [c = y]),
      + tau / (C K (K - 1)) sum_c sum_(k < l) sqrt(2 - 2 w_ck . w_cl)   in the loss, which lets centres merge.
- SubCenterArcFace (Deng, Guo, Liu, Gong, Zafeiriou, ECCV 2020): `cos(theta_c) = max_k w_ck . x`, then ArcFace's margin.

What differs here: the comparison does not say how MultiFC is ensembled; ours averages probabilities (the mean of the
logits would be a linear head again). SoftTriple's delta is taken off in proportion for distributions over the classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_sizes
from .cosine import check_margin, directions, margin_loss
from .head import cross_entropy, unit
from .precise import PreciseHead, check_positive


class MultiLinearHead(PreciseHead):
    """Several linear heads on the same features; the logits are the logarithm of their mean probability.

    The loss is the mean of theirs, so that each learns by itself, from its own random start.

    Args:
        heads: H.

    Raises:
        ValueError: a size out of range.
    """

    def __init__(self, dim: int, num_classes: int, *, heads: int = 8):
        super().__init__(dim, num_classes)
        check_sizes(heads=heads)
        bound = dim**-0.5
        self.weight = nn.Parameter(torch.empty(heads, num_classes, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(heads, num_classes).uniform_(-bound, bound))

    def _logits(self, features: Tensor) -> Tensor:
        each = self._each(features).log_softmax(-1)
        return each.logsumexp(1) - math.log(each.shape[1])

    def _loss(self, features: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
        each = self._each(features)
        target = target.repeat_interleave(each.shape[1], dim=0)
        return cross_entropy(each.flatten(0, 1), target, label_smoothing)

    def _each(self, features: Tensor) -> Tensor:
        """The logits of each, (batch, heads, classes)."""
        dtype = features.dtype
        logits = F.linear(features, self.weight.to(dtype).flatten(0, 1), self.bias.to(dtype).flatten())
        return logits.unflatten(1, self.bias.shape)


class _CentresHead(PreciseHead):
    """What heads with several unit vectors per class share."""

    def __init__(self, dim: int, num_classes: int, centres: int, scale: float):
        super().__init__(dim, num_classes)
        check_sizes(centres=centres)
        check_positive(scale=scale)
        self.scale = scale
        self.weight = nn.Parameter(directions(num_classes, centres, dim))

    def _centres(self, dtype: torch.dtype) -> Tensor:
        return unit(self.weight.to(dtype))

    def _similarities(self, features: Tensor) -> Tensor:
        """Cosines with all centres, (batch, classes, centres)."""
        centres = self._centres(features.dtype)
        return F.linear(unit(features), centres.flatten(0, 1)).unflatten(1, centres.shape[:2])


class SoftTripleHead(_CentresHead):
    """SoftTriple: a class is as similar as its centres are on average, by weights that favour the nearest.

    Args:
        centres: K, per class.
        scale: lambda.
        temperature: gamma, of the weights of the centres.
        margin: delta, taken off the label's similarity in the loss.
        regulariser: tau, of the term that lets centres merge; 0 for none.

    Raises:
        ValueError: a size, the scale or the temperature out of range; a negative margin or regulariser.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        centres: int = 8,
        scale: float = 20.0,
        temperature: float = 0.1,
        margin: float = 0.01,
        regulariser: float = 0.2,
    ):
        super().__init__(dim, num_classes, centres, scale)
        check_positive(temperature=temperature)
        for name, value in (("margin", margin), ("regulariser", regulariser)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}: must not be negative, and finite")
        self.temperature, self.margin, self.regulariser = temperature, margin, regulariser

    def _logits(self, features: Tensor) -> Tensor:
        similarities = self._similarities(features)
        weights = (similarities / self.temperature).softmax(-1)
        return self.scale * (weights * similarities).sum(-1)

    def _loss(self, features: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
        soft = target if target.is_floating_point() else F.one_hot(target.long(), self.num_classes)
        logits = self._logits(features) - self.scale * self.margin * soft.to(features.dtype)
        loss = cross_entropy(logits, target, label_smoothing)
        if self.regulariser and self.weight.shape[1] > 1:
            loss = loss + self.regulariser * self._spread(features.dtype)
        return loss

    def _spread(self, dtype: torch.dtype) -> Tensor:
        """Half the mean distance between two centres of a class."""
        centres = self._centres(dtype)
        gram = centres @ centres.mT
        first, second = torch.triu_indices(*gram.shape[1:], offset=1, device=gram.device)
        # The slope of the root is infinite where two centres agree.
        return (2 - 2 * gram[:, first, second]).clamp_min(1e-12).sqrt().mean() / 2


class SubCenterArcFaceHead(_CentresHead):
    """ArcFace by the nearest of several centres per class.

    Args:
        centres: K, per class.
        scale: s, see `ArcFaceHead`.
        margin: m in radians, see `ArcFaceHead`.

    Raises:
        ValueError: a size, the scale or the margin out of range; soft targets.
    """

    soft_targets = False

    def __init__(
        self, dim: int, num_classes: int, *, centres: int = 8, scale: float = 64.0, margin: float = 0.5
    ):
        super().__init__(dim, num_classes, centres, scale)
        check_margin(margin)
        self.margin = margin

    def _logits(self, features: Tensor) -> Tensor:
        return self.scale * self._similarities(features).amax(-1)

    def _loss(self, features: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
        options = {"scale": self.scale, "margin": self.margin, "label_smoothing": label_smoothing}
        return margin_loss(self._similarities(features).amax(-1), target, **options)
