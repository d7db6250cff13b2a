"""`Operator`: the base of whole models, with normalisers of inputs and outputs that travel with the weights.

A model sees `(x - mean) / (std + eps)` and its output is mapped back, so that a loaded model takes and gives
fields in their own units. Statistics per channel hold at every resolution; statistics per grid point belong to
the grid that they were computed on.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ..arguments import check_sizes

KINDS = ("none", "channel", "point")


class Normaliser(nn.Module):
    """Shifts and scales fields to mean 0 and deviation 1, and back: `(x - mean) / (std + eps)`.

    Args:
        dim: channels.
        kind: `channel`, a mean and a deviation per channel; `point`, per channel and grid point.

    Until `fit` is called it changes nothing.
    """

    EPS = 1e-5
    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, kind: str):
        super().__init__()
        self.kind = kind
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    @torch.no_grad()
    def fit(self, fields: Float[Tensor, "samples channels *grid"]) -> None:
        """Takes mean and (biased) deviation over samples, and over the grid where the kind is `channel`."""
        self._check(fields)
        axes = (0, *range(2, fields.ndim)) if self.kind == "channel" else (0,)
        values = fields.double()
        mean, deviation = values.mean(axes), values.std(axes, correction=0)
        self.mean, self.scale = mean.to(self.mean), (deviation + self.EPS).to(self.scale)

    def forward(
        self, fields: Float[Tensor, "batch channels *grid"], inverse: bool = False
    ) -> Float[Tensor, "batch channels *grid"]:
        """The normalised fields; with `inverse` the fields in their own units."""
        self._check(fields)
        mean, scale = (
            t if t.ndim > 1 else t.view(-1, *[1] * (fields.ndim - 2)) for t in (self.mean, self.scale)
        )
        return fields * scale + mean if inverse else (fields - mean) / scale

    def _check(self, fields: Tensor) -> None:
        if fields.shape[1] != len(self.mean):
            raise ValueError(f"fields have {fields.shape[1]} channels, the normaliser has {len(self.mean)}")
        if self.mean.ndim > 1 and fields.shape[1:] != self.mean.shape:
            raise ValueError(
                f"normalise='point' belongs to the grid {tuple(self.mean.shape[1:])}, these fields have "
                f"{tuple(fields.shape[2:])}; 'channel' holds at every resolution"
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Statistics per grid point have the shape of the grid, which only the saved ones know."""
        for name in ("mean", "scale"):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape[:1] == self.mean.shape[:1]:
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Operator(nn.Module):
    """A map from functions to functions on the same grid: (batch, dim_in, *grid) to (batch, dim_out, *grid).

    A subclass defines `operate`, which works in normalised units, and `example_inputs`.

    Args:
        dim_in, dim_out: channels.
        normalise: of the inputs and of the outputs, each one of `none`, `channel`, `point`.

    Raises:
        ValueError: an unknown kind; in `forward`, fields with other channels or that are not floating point.
    """

    def __init__(self, dim_in: int, dim_out: int, *, normalise: Sequence[str] = ("none", "none")):
        super().__init__()
        check_sizes(dim_in=dim_in, dim_out=dim_out)
        if len(normalise) != 2 or not set(normalise) <= set(KINDS):
            raise ValueError(
                f"normalise={list(normalise)}: must be two of {', '.join(KINDS)}, for inputs and for outputs"
            )
        self.dim_in, self.dim_out = dim_in, dim_out
        kinds = zip((dim_in, dim_out), normalise, strict=True)
        made = [None if kind == "none" else Normaliser(dim, kind) for dim, kind in kinds]
        self.input_normaliser, self.output_normaliser = made

    @abstractmethod
    def operate(self, x: Tensor) -> Tensor:
        """The map itself, between normalised fields."""

    def check_grid(self, grid: Sequence[int]) -> None:
        """Raises ValueError, in `forward` too, where the model cannot work on a grid; a subclass says when."""

    @abstractmethod
    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random inputs of a grid that the model takes."""

    def fit_normalisers(self, x: Tensor, y: Tensor) -> None:
        """Takes the statistics of training fields (samples, channels, *grid); a kind `none` ignores them."""
        for normaliser, fields in ((self.input_normaliser, x), (self.output_normaliser, y)):
            if normaliser is not None:
                normaliser.fit(fields)

    def forward(self, x: Shaped[Tensor, "batch dim_in *grid"]) -> Float[Tensor, "batch dim_out *grid"]:
        """Fields in their own units to fields in their own units."""
        self._check(x)
        if self.input_normaliser is not None:
            x = self.input_normaliser(x)
        y = self.operate(x)
        return y if self.output_normaliser is None else self.output_normaliser(y, inverse=True)

    def _check(self, x: Tensor) -> None:
        name = type(self).__name__
        if not x.is_floating_point():
            raise ValueError(f"{name} wants floating-point fields, got {x.dtype}")
        if x.ndim < 3 or x.shape[1] != self.dim_in:
            raise ValueError(
                f"{name} wants fields (batch, {self.dim_in} channels, *grid), got the shape {tuple(x.shape)}"
            )
        self.check_grid(x.shape[2:])
