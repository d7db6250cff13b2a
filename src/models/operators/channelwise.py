"""Layers that treat every grid point, or every channel, by itself, on any number of axes.

What decay should leave alone carries the tag `no_decay`: biases, gates, the scale and shift of norms.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.pointwise import pointwise, pointwise_mlp

NORMS = ("none", "instance", "group")
SKIPS = ("linear", "identity", "soft_gating", "none")


def affine(dim_in: int, dim_out: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight (dim_out, dim_in) and bias from U[-1, 1] / sqrt(dim_in), as of torch's linear layers."""
    bound = 1 / math.sqrt(dim_in)
    weight, bias = torch.empty(dim_out, dim_in), torch.empty(dim_out)
    return nn.Parameter(weight.uniform_(-bound, bound)), nn.Parameter(bias.uniform_(-bound, bound))


class Pointwise(nn.Conv1d):
    """The same affine map of the channels at every grid point, `y = W x + b`."""

    def __init__(self, dim_in: int, dim_out: int, *, bias: bool = True):
        super().__init__(dim_in, dim_out, 1, bias=bias)

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """The bias is `no_decay`."""
        return {} if self.bias is None else {"bias": ("no_decay",)}

    def forward(self, x: Float[Tensor, "batch dim_in *grid"]) -> Float[Tensor, "batch dim_out *grid"]:
        return pointwise(x.flatten(2), self.weight[:, :, 0], self.bias).unflatten(2, x.shape[2:])


class ChannelMLP(nn.Module):
    """`Q_2 gelu(Q_1 x + q_1) + q_2` at every grid point, see `ops.pointwise_mlp`."""

    def __init__(self, dim_in: int, dim_hidden: int, dim_out: int):
        super().__init__()
        self.first, self.first_bias = affine(dim_in, dim_hidden)
        self.second, self.second_bias = affine(dim_hidden, dim_out)

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """The biases are `no_decay`."""
        return {"first_bias": ("no_decay",), "second_bias": ("no_decay",)}

    def forward(self, x: Float[Tensor, "batch dim_in *grid"]) -> Float[Tensor, "batch dim_out *grid"]:
        return pointwise_mlp(x, self.first, self.first_bias, self.second, self.second_bias)


class SoftGating(nn.Module):
    """Every channel times a trained number, at first 1."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """The gate is `no_decay`."""
        return {"weight": ("no_decay",)}

    def forward(self, x: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch dim *grid"]:
        return x * self.weight.view(-1, *[1] * (x.ndim - 2))


class InstanceNorm(nn.Module):
    """`(x - mean) / sqrt(var + 1e-5)` over the grid, per sample and channel, without parameters.

    It removes the amplitude of every sample's channels; a constant channel becomes 0.
    """

    def forward(self, x: Float[Tensor, "batch dim *grid"]) -> Float[Tensor, "batch dim *grid"]:
        flat = x.flatten(2)
        return F.layer_norm(flat, flat.shape[2:]).view_as(x)


class GroupNorm(nn.GroupNorm):
    """Norm over channels and grid together (one group), with a scale and a shift per channel."""

    def __init__(self, dim: int):
        super().__init__(1, dim)

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """Scale and shift are `no_decay`."""
        return {"weight": ("no_decay",), "bias": ("no_decay",)}


def grouped_norm(dim: int) -> nn.GroupNorm:
    """Group norm with 8 groups, or as many as divide both 8 and dim."""
    return nn.GroupNorm(math.gcd(8, dim), dim)


def make_norm(kind: str, dim: int) -> nn.Module | None:
    """A norm by its name in `NORMS`; None for `none`."""
    return {"none": lambda: None, "instance": InstanceNorm, "group": lambda: GroupNorm(dim)}[kind]()


def make_skip(kind: str, dim: int) -> nn.Module | None:
    """A skip connection by its name in `SKIPS`; None for `none`."""
    makers = {
        "linear": lambda: Pointwise(dim, dim),
        "identity": nn.Identity,
        "soft_gating": lambda: SoftGating(dim),
        "none": lambda: None,
    }
    return makers[kind]()
