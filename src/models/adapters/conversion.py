"""Any adapter as a plain low-rank pair on the *untouched* base, so that it loads wherever LoRA does.

What an adapter took out of the weight at the start (PiSSA, SORSA: `B0 A0`) is given back: with the pair (B, A) after
training the change against the original weight is

    B A - B0 A0 = [B, -B0] [A; A0],    of rank 2 r

(Meng, Wang, Zhang, "PiSSA", arXiv 2404.02948, appendix on the conversion).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.low_rank import recompress
from .dora import DoRALayer
from .inject import adapter_layers
from .layer import AdapterLayer


@dataclass(frozen=True)
class PlainPair:
    """`scaling * B A`, to be added to the original weight's matrix; with `magnitude` in the way of DoRA."""

    B: Float[Tensor, "out rank"]
    A: Float[Tensor, "rank columns"]
    scaling: float
    magnitude: Float[Tensor, " out"] | None = None

    @property
    def rank(self) -> int:
        return len(self.A)


@torch.no_grad()
def as_it_stands(layer: AdapterLayer) -> PlainPair:
    """The pair of a layer on the weight that its base holds now."""
    scaling = float(getattr(layer, "scaling", 1.0))
    B, A = layer.pair()
    return PlainPair(
        B / scaling, A.clone(), scaling, layer.magnitude if isinstance(layer, DoRALayer) else None
    )


@torch.no_grad()
def plain_pair(layer: AdapterLayer, *, shrink: bool = False) -> PlainPair:
    """The adapter of one layer as a pair on the original weight: rank r, or 2 r where something was taken out of it
    (at most the rank of the matrix).

    Args:
        shrink: cut the pair of rank 2 r to its numerical rank, by a QR of both factors and an SVD of the core.

    Raises:
        ValueError: the base was replaced (quantised), so that there is no exact pair.
    """
    layer.check_convertible()
    pair, initial = as_it_stands(layer), layer.initial_pair()
    if initial is None:
        return pair
    B, A = torch.cat([pair.B, -initial[0] / pair.scaling], 1), torch.cat([pair.A, initial[1]], 0)
    if shrink:
        B, A = recompress(B, A)
    elif len(A) > min(layer.site.shape):  # wider than the matrix: no reader takes such a pair
        B, A = recompress(B, A, rank=min(layer.site.shape))
    return PlainPair(B, A, pair.scaling)


def plain_pairs(model: nn.Module, name: str = "default", *, shrink: bool = False) -> dict[str, PlainPair]:
    """`plain_pair` of every layer of the adapter `name`, by path."""
    return {p: plain_pair(layer, shrink=shrink) for p, layer in adapter_layers(model, name).items()}


def combine(pairs: list[PlainPair], weights: list[float]) -> PlainPair:
    """The weighted sum of adapters of one layer, exactly: factors side by side, c = 1.

    Raises:
        ValueError: none, another number of weights than of pairs, or a magnitude (which is no sum).
    """
    if not pairs or len(pairs) != len(weights):
        raise ValueError(f"{len(pairs)} adapters and {len(weights)} weights: wants one weight for each")
    if any(pair.magnitude is not None for pair in pairs):
        raise ValueError("a DoRA adapter is not a sum: it cannot be combined with others")
    B = torch.cat([w * p.scaling * p.B for p, w in zip(pairs, weights, strict=True)], 1)
    return PlainPair(B, torch.cat([p.A for p in pairs], 0), 1.0)
