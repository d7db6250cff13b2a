"""A last layer that is fixed as a simplex equiangular tight frame (ETF).

The class vectors that training to zero error brings about (neural collapse) are known beforehand: unit m_c with
`<m_c, m_c'> = -1 / (C - 1)`. Two ways to use them, both with nothing trained in the head:

- plain, `logit_c = scale <m_c, x>`: Zhu et al., "A Geometric Analysis of Neural Collapse with Unconstrained Features",
  NeurIPS 2021, arXiv 2105.02375.
- `normalise`, `logit_c = scale <m_c, x / |x|>`: Yang et al., "Inducing Neural Collapse in Imbalanced Learning", NeurIPS
  2022, arXiv 2203.09081.

The first paper claims the same accuracy as with a trained layer, at less memory; the second, higher accuracy where
classes are imbalanced (with a squared loss in place of the cross-entropy). What differs here: no bias; where there are
more dimensions than classes, the frame lies in a random subspace instead of the first coordinates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.equiangular import simplex_etf
from .head import unit
from .precise import PreciseHead, check_positive


class SimplexETFHead(PreciseHead):
    """`scale * <m_c, x>`, or of x / |x|, with the fixed rows m_c of a simplex ETF.

    There is no linear map before it: the features themselves need `num_classes - 1` dimensions.

    Args:
        scale: a number, or with `normalise` the inverse temperature (1 / 0.07 of the equiangular vectors, say). The
            plain form grows its features instead, so that 1 will do.
        normalise: use the direction of the features alone.
        seed: of the orthonormal basis in which the frame lies.

    Raises:
        ValueError: a size or the scale out of range, fewer dimensions than an ETF needs.
    """

    vectors: Tensor

    def __init__(
        self, dim: int, num_classes: int, *, scale: float = 1.0, normalise: bool = False, seed: int = 0
    ):
        super().__init__(dim, num_classes)
        check_positive(scale=scale)
        self.scale, self.normalise = scale, normalise
        self.register_buffer("vectors", torch.zeros(num_classes, dim))
        frame = simplex_etf(num_classes, dim, seed=seed)
        if not self.vectors.is_meta:
            self.vectors.copy_(frame)

    def _logits(self, features: Tensor) -> Tensor:
        features = unit(features) if self.normalise else features
        return self.scale * F.linear(features, self.vectors.to(features.dtype))

    def extra_repr(self) -> str:
        return f"{self.dim} -> {self.num_classes}, scale={self.scale}, normalise={self.normalise}"
