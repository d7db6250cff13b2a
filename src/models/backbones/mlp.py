"""Fully connected layers over vectors, or over images as vectors."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_sizes
from .small_cnn import check_widths


class MLP(nn.Module):
    """Per width of `dims` a linear layer, batch norm where wanted, and ReLU; at the end a linear layer where wanted.

    The features are what the last ReLU gives, or with `features` what a linear layer without bias makes of it.
    784-256-256-256 with features of width 256 is `MLP(784, dims=(256, 256, 256), features=256)`.

    Args:
        dim_in: width of the vectors, or channels of the images.
        dims: widths of the layers.
        side: of the images; None for vectors.
        norm: batch norm before every ReLU.
        bias: of the layers; those before a batch norm have none.
        features: width of the linear layer at the end; None: there is none.

    Raises:
        ValueError: a size below 1, no layers; in `forward`, samples of another size.
    """

    def __init__(
        self,
        dim_in: int,
        *,
        dims: Sequence[int] = (512, 512),
        side: int | None = None,
        norm: bool = False,
        bias: bool = True,
        features: int | None = None,
    ):
        super().__init__()
        check_widths(dims)
        optional = {"side": side, "features": features}
        check_sizes(dim_in=dim_in, **{name: size for name, size in optional.items() if size is not None})
        self.shape = (dim_in,) if side is None else (dim_in, side, side)
        self.dim = dims[-1] if features is None else features
        widths = (dim_in * (side or 1) ** 2, *dims)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers.append(nn.Linear(a, b, bias=bias and not norm))
            layers += [nn.BatchNorm1d(b), nn.ReLU()] if norm else [nn.ReLU()]
        if features is not None:
            layers.append(nn.Linear(widths[-1], features, bias=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        if x.shape[1:] != self.shape:
            raise ValueError(f"samples have shape {tuple(x.shape[1:])}, wanted {self.shape}")
        return self.layers(x.flatten(1))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Noise of the samples' size."""
        return (torch.randn(batch, *self.shape),)
