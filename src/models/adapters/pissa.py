"""PiSSA: a low-rank pair that starts as the principal part of the weight.

Meng, Wang and Zhang, "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models",
NeurIPS 2024, arXiv 2404.02948.

    W = U diag(s) V^T,    B = U_r diag(sqrt(s_r / c)),    A = diag(sqrt(s_r / c)) V_r^T,    W_res = W - c B A
    y = x W_res^T + b + c (x A^T) B^T

The function is unchanged at the start, but the gradients `dL/dA = c B^T G`, `dL/dB = c G A^T` are not zero, as that of
LoRA's A is. The paper claims faster and better fine-tuning than LoRA at the same rank and hyper-parameters. At one
small rate that is so; with the rate tuned for each method little of it remains.

Different here: the division by c keeps the split right for every alpha; W_res is computed from the factors as they are
stored, so that the sum is W to one rounding, also where the randomised decomposition (`iterations`, see
`ops.low_rank`) is only approximate; a rank above what the matrix has is an error, or clipped on request; convolutions
and embeddings are split too. Weight decay pulls the principal part of the weight to zero: keep it 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...ops.low_rank import truncated_svd
from .layer import Adapter, AdapterLayer, check_rank, check_settings, check_ungrouped, scaling_of
from .lora import LoRALayer
from .quantised import QuantisedLinear
from .site import Site

ROUNDS = 4  # of the randomised decomposition, by default


@dataclass(frozen=True)
class PiSSA(Adapter):
    """A pair that holds the largest singular triplets of the weight; the base keeps the rest.

    Args:
        rank: r.
        alpha: scale of the pair; None is `rank`, so that c = 1 (c = sqrt(r) with `rslora`).
        rslora: c = alpha / sqrt(r).
        iterations: rounds of a randomised decomposition; None for an exact one.
        oversample: of the randomised one, vectors per round beyond the rank.
        clip_rank: a layer of smaller rank takes all its triplets, with the same c; otherwise that is an error.
        minor: the smallest triplets instead, of an exact decomposition, as a control.
        dropout: must be 0: it would drop the principal part of the weight, and not only its change.

    Raises:
        ValueError: rank below 1, alpha not positive, dropout other than 0, iterations or oversample negative.
    """

    rank: int = 8
    alpha: float | None = None
    rslora: bool = False
    iterations: int | None = ROUNDS
    oversample: int = 8
    clip_rank: bool = False
    minor: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self.rank, self.alpha, self.dropout)
        check_decomposition("PiSSA", self.dropout, self.iterations, self.oversample)

    @property
    def scaling(self) -> float:
        """c."""
        return scaling_of(self.rank, self.alpha, self.rslora)

    def build(self, site: Site) -> LoRALayer:
        rank = split_rank(site, self.rank, clip=self.clip_rank, kind="PiSSA")
        return LoRALayer(site, rank, scaling=self.scaling, taken=True)

    @torch.no_grad()
    def start(
        self, layers: Sequence[AdapterLayer], weights: Float[Tensor, "layers out columns"]
    ) -> Float[Tensor, "layers out columns"]:
        rank: int = layers[0].rank  # type: ignore[assignment]
        if self.minor:
            U, s, Vh = truncated_svd(weights, min(weights.shape[-2:]))
            U, s, Vh = U[..., -rank:], s[..., -rank:], Vh[..., -rank:, :]
        else:
            U, s, Vh = truncated_svd(weights, rank, iterations=self.iterations, oversample=self.oversample)
        root = s.sqrt()
        for layer, B, A in zip(layers, U * root[:, None], root[..., None] * Vh, strict=True):
            layer.set_initial(B, A)  # type: ignore[operator]
        return without_pairs(layers, weights)


def without_pairs(
    layers: Sequence[AdapterLayer], weights: Float[Tensor, "layers out columns"]
) -> Float[Tensor, "layers out columns"]:
    """The weights less what the layers hold by now, as they hold it: rounding included. In the weights' own memory."""
    pairs = [layer.pair() for layer in layers]
    B, A = (torch.stack([pair[part] for pair in pairs]).to(weights) for part in (0, 1))
    return weights.baddbmm_(B, A, alpha=-1)


def split_rank(site: Site, rank: int, *, clip: bool, kind: str) -> int:
    """The rank that a layer gets.

    Raises:
        ValueError: a grouped convolution; a quantised weight; a rank above what the matrix has, unless clipped.
    """
    check_ungrouped(site, kind)
    if isinstance(site.module, QuantisedLinear) or not site.weight.is_floating_point():
        raise ValueError(f"{site.text} is quantised; {kind} splits the weight as it was before")
    if clip:
        return min(rank, *site.shape)
    check_rank(site, rank)
    return rank


def check_decomposition(kind: str, dropout: float, iterations: int | None, oversample: int) -> None:
    """ValueError for dropout, which would drop a part of the weight, and for negative numbers."""
    if dropout:
        raise ValueError(f"dropout={dropout}: must be 0, {kind}'s factors are a part of the weight")
    if (iterations or 0) < 0 or oversample < 0:
        raise ValueError(f"iterations={iterations}, oversample={oversample}: must not be negative")
