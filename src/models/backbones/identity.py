"""No backbone: the head sees the vectors themselves."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_sizes


class Identity(nn.Module):
    """Vectors as they are.

    Args:
        dim_in: their width.

    Raises:
        ValueError: a width below 1; in `forward`, samples that are not vectors of this width.
    """

    def __init__(self, dim_in: int):
        super().__init__()
        check_sizes(dim_in=dim_in)
        self.dim = dim_in

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        if x.shape[1:] != (self.dim,):
            raise ValueError(f"samples have shape {tuple(x.shape[1:])}, wanted vectors of width {self.dim}")
        return x

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Noise."""
        return (torch.randn(batch, self.dim),)
