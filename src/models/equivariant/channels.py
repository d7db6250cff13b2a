"""Irreps with the same multiplicity C for each: from e3nn's order in memory to (..., C, components) and back."""

from typing import Any

import torch
from torch import Tensor

from .irreps_layers import join_degrees, split_degrees
from .tensor_product import IrrepsLike, Kind, as_irreps


class Channels:
    """The layout of `C x l_1 p_1 + C x l_2 p_2 + ...`; `offsets` say where the components of each (l, p) begin.

    Raises:
        ValueError: multiplicities that differ, or an irrep that occurs twice.
    """

    def __init__(self, irreps: IrrepsLike):
        self.irreps: Any = as_irreps(irreps)
        multiplicities = {part.mul for part in self.irreps}
        self.kinds: list[Kind] = [(part.ir.l, part.ir.p) for part in self.irreps]
        if len(multiplicities) != 1 or 0 in multiplicities or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(
                f"irreps {self.irreps}: a channelwise product wants every irrep once and all with one multiplicity"
            )
        self.channels = next(iter(multiplicities))
        self.widths = [2 * degree + 1 for degree, _ in self.kinds]
        self.size = sum(self.widths)
        starts = [sum(self.widths[:i]) for i in range(len(self.widths))]
        self.offsets = dict(zip(self.kinds, starts, strict=True))

    def slice(self, kind: Kind) -> slice:
        """Where the components of (l, p) lie."""
        return slice(self.offsets[kind], self.offsets[kind] + 2 * kind[0] + 1)

    def stack(self, x: Tensor) -> Tensor:
        """(..., C x components) in e3nn's order to (..., C, components)."""
        if self.channels == 1:
            return x.unsqueeze(-2)
        degrees = [degree for degree, _ in self.kinds]
        return torch.cat(split_degrees(x, [self.channels] * len(degrees), degrees), -1)

    def flatten(self, x: Tensor) -> Tensor:
        """The inverse of `stack`."""
        if self.channels == 1:
            return x.squeeze(-2)
        return join_degrees(x.split(self.widths, -1))


def channelwise(first: Channels, second: Channels, out: Channels) -> None:
    """Raise ValueError unless a product channel by channel can be between these; the second may have one channel."""
    if second.channels not in (1, first.channels) or out.channels != first.channels:
        raise ValueError(
            f"channels {first.channels} and {second.channels} to {out.channels}: a channelwise product wants equal "
            "numbers, or 1 in the second input"
        )
