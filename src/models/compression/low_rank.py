"""Layers whose weight is a product of two thin ones, and models in which such layers stand for dense ones.

`LowRankLinear` and `LowRankConv` compute `second(first(x))`: r (in * kernel + out) parameters for out * in * kernel,
and a bias in `second` alone. `factorise` puts them into a model from given factors; `Factorised` makes the same
structure from shapes alone, so that a compressed model can be named in a config and its weights loaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.factorisation import Factors
from ..adapters.site import Site, site_of
from ..arguments import check_sizes

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
Ranks = Mapping[str, Any]


class LowRankLinear(nn.Module):
    """`y = second(first(x))`, first (rank, dim_in) without bias, second (dim_out, rank).

    Raises:
        ValueError: a size below 1, a rank above min(dim_in, dim_out).
    """

    def __init__(self, dim_in: int, dim_out: int, rank: int, bias: bool = True):
        super().__init__()
        check_sizes(dim_in=dim_in, dim_out=dim_out, rank=rank)
        _check_rank(rank, dim_in, dim_out)
        self.first = nn.Linear(dim_in, rank, bias=False)
        self.second = nn.Linear(rank, dim_out, bias=bias)

    @property
    def rank(self) -> int:
        """r."""
        return self.second.in_features

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        return self.second(self.first(x))


class LowRankConv(nn.Module):
    """A convolution in -> rank that walks over x as `base` does, and one with kernel 1, rank -> out, with the bias.

    Args:
        base: the convolution that it stands for, with one group; only its settings are used.
    """

    def __init__(self, base: nn.Conv1d | nn.Conv2d | nn.Conv3d, rank: int, *, bias: bool = True):
        super().__init__()
        check_sizes(rank=rank)
        if base.groups != 1:
            raise ValueError(
                f"a convolution with {base.groups} groups has no low-rank form here; it wants one"
            )
        columns = base.in_channels * torch.Size(base.kernel_size).numel()
        _check_rank(rank, columns, base.out_channels)
        kind = CONVOLUTIONS[len(base.kernel_size)]
        walk: dict[str, Any] = {name: getattr(base, name) for name in ("stride", "padding", "dilation")}
        self.first = kind(
            base.in_channels,
            rank,
            base.kernel_size,
            **walk,
            padding_mode=base.padding_mode,
            bias=False,  # type: ignore[arg-type]
        )
        self.second = kind(rank, base.out_channels, 1, bias=bias)

    @property
    def rank(self) -> int:
        """r."""
        return self.second.in_channels

    def forward(self, x: Float[Tensor, "batch dim_in *grid"]) -> Float[Tensor, "batch dim_out *smaller"]:
        return self.second(self.first(x))


def _check_rank(rank: int, columns: int, rows: int) -> None:
    if rank > min(columns, rows):
        raise ValueError(f"rank={rank} is above min({rows}, {columns}), the rank that the matrix can have")


class Factorised(nn.Module):
    """A model with some layers in low-rank form, made from shapes alone; its weights are to be loaded.

    Args:
        model: the dense model; it is changed in place.
        ranks: path of a layer -> rank, or [rank, bias]: whether `second` has a bias; alone, as the layer has.

    Raises:
        ValueError: a path that is not a linear layer or a convolution with one group, or a rank it cannot have.
    """

    def __init__(self, model: nn.Module, *, ranks: Ranks):
        super().__init__()
        for name, entry in ranks.items():
            rank, bias = _entry(name, entry)
            put(model, name, low_rank_like(_site_at(model, name), rank, bias))
        self.model = model

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The model's."""
        return self.model(*inputs, **options)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """The model's."""
        return self.model.example_inputs(batch)  # type: ignore[operator]


def low_rank_like(site: Site, rank: int, bias: bool | None = None) -> LowRankLinear | LowRankConv:
    """The low-rank form of a layer with its device, dtype and mode; bias None: as the layer has.

    Raises:
        ValueError: a layer without such a form, or a rank it cannot have; names the layer.
    """
    if reason := without_low_rank_form(site):
        raise ValueError(f"{site.text} has no low-rank form: {reason}")
    weight, base = site.weight, site.module
    bias = getattr(base, "bias", None) is not None if bias is None else bias
    try:
        # Memory without values: what a fresh layer draws would be overwritten, and would move the random numbers.
        with torch.device("meta"):
            made: LowRankLinear | LowRankConv = (
                LowRankConv(base, rank, bias=bias)  # type: ignore[arg-type]
                if site.kind == "conv"
                else LowRankLinear(site.dim_in, site.dim_out, rank, bias)
            )
    except ValueError as error:
        raise ValueError(f"{site.text}: {error}") from error
    made = made.to(weight.dtype).train(base.training)
    return made if weight.is_meta else made.to_empty(device=weight.device)


def without_low_rank_form(site: Site) -> str:
    """Why a layer has no low-rank form; empty where it has one."""
    if site.kind == "embedding":
        return "it is an embedding"
    if site.groups != 1:
        return f"it is a convolution with {site.groups} groups"
    plain = (nn.Linear, *CONVOLUTIONS.values())
    if site.kind != "transposed" and type(site.module) not in plain:
        return f"{type(site.module).__name__} may be more than the product with its weight"
    return ""


@torch.no_grad()
def factorise(model: nn.Module, factors: Mapping[str, Factors]) -> nn.Module:
    """Puts the factors of the named layers in the layers' places, in the layers' dtypes; in place.

    `first` is (rank, in * prod(kernel)); the bias None makes a layer without one.
    """
    for name, (first, second, bias) in factors.items():
        site = _site_at(model, name)
        made = low_rank_like(site, first.shape[-2], bias is not None)
        made.first.weight.copy_(first.reshape(made.first.weight.shape))
        made.second.weight.copy_(second.reshape(made.second.weight.shape))
        if bias is not None and made.second.bias is not None:
            made.second.bias.copy_(bias)
        made.requires_grad_(site.weight.requires_grad)
        put(model, name, made)
    return model


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """A module in the place of another."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _site_at(model: nn.Module, name: str) -> Site:
    try:
        site = site_of(name, model.get_submodule(name))
    except AttributeError as error:
        raise ValueError(f"ranks: the model has no layer '{name}'") from error
    if site is None:
        raise ValueError(f"ranks: '{name}' is neither a linear layer nor a convolution")
    return site


def _entry(name: str, entry: Any) -> tuple[int, bool | None]:
    """(rank, bias or None) of an entry of `ranks`."""
    values = list(entry) if isinstance(entry, Sequence) else [entry, None]
    if len(values) != 2 or isinstance(values[0], bool) or not isinstance(values[0], int):
        raise ValueError(
            f"ranks: '{name}' is {entry!r}, wanted a whole number or [a whole number, true or false]"
        )
    return values[0], values[1]
