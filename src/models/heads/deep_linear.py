"""A stack of linear layers as the head: no more expressive than one, but another geometry of the minimisers.

Dang et al., "Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data", ICML 2023, arXiv 2301.00437:

    logits = W_M .. W_1 h (+ b),      W_1: (width, dim), W_j: (width, width), W_M: (K, width).

With weight decay on layers and features their minimisers are known in closed form, see `ops.collapse_optimum`, also for
the paper's claims. The reference starts orthogonal in some scripts and from N(0, 0.1^2) in others: `init` says which.
"""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_choice, check_sizes
from .precise import PreciseHead

NORMAL_SD = 0.1
INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "orthogonal": nn.init.orthogonal_,
    "normal": lambda weight: nn.init.normal_(weight, std=NORMAL_SD),
}


class DeepLinearHead(PreciseHead):
    """`depth` linear layers, the last with a bias or not; see the module.

    Warns where a layer is narrower than the collapsed features are wide, K without and K - 1 with a bias: such a head
    cannot reach the geometry of the closed forms.

    Args:
        dim: width of the features.
        num_classes: at least 2.
        depth: layers M.
        width: of the features between layers; None: `dim`.
        bias: in the last layer, starts at 0.
        init: of the weights: orthogonal (of norm 1, rows or columns orthonormal), or normal (N(0, 0.1^2)).

    Raises:
        ValueError: a size out of range, an unknown init.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        depth: int = 1,
        width: int | None = None,
        bias: bool = False,
        init: str = "orthogonal",
    ):
        super().__init__(dim, num_classes)
        width = dim if width is None else width
        check_sizes(depth=depth, width=width)
        check_choice("init", init, tuple(INITS))
        self.depth = depth
        widths = [dim, *[width] * (depth - 1), num_classes]
        if min(widths) < num_classes - bias:
            warnings.warn(
                f"a layer of width {min(widths)} cannot hold the frame of {num_classes} classes, which needs "
                f"{num_classes - bias} dimensions",
                stacklevel=2,
            )
        shapes = zip(widths[1:], widths[:-1], strict=True)
        self.layers = nn.ParameterList([INITS[init](torch.empty(shape)) for shape in shapes])
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None

    def weights(self) -> list[nn.Parameter]:
        """W_1 .. W_M, each (out, in): from the features to the classes."""
        return list(self.layers)

    def _logits(self, features: Tensor) -> Tensor:
        x = features
        for weight in self.layers:
            x = F.linear(x, weight.to(x.dtype))
        return x if self.bias is None else x + self.bias.to(x.dtype)
