"""The linear head: one vector and one offset per class.

    logits = W x + b,       loss = cross-entropy

The usual last layer of a classifier, and the baseline of every other head ("Softmax" and "vector" in the tables of
Wang, Li, Zhang, ICCV 2023, arXiv 2308.01547).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .precise import PreciseHead


class LinearHead(PreciseHead):
    """`W x + b`, W (num_classes, dim), b (num_classes,). Starts as `torch.nn.Linear`.

    Args:
        bias: whether there is b.

    Raises:
        ValueError: a size out of range.
    """

    def __init__(self, dim: int, num_classes: int, *, bias: bool = True):
        super().__init__(dim, num_classes)
        bound = dim**-0.5
        self.weight = nn.Parameter(torch.empty(num_classes, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_classes).uniform_(-bound, bound)) if bias else None

    def _logits(self, features: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(features.dtype)
        return F.linear(features, self.weight.to(features.dtype), bias)
