"""SORSA: the principal singular triplets of a weight as three trainable factors.

Cao, "SORSA: Singular Values and Orthonormal Regularized Singular Vectors Adaptation of Large Language Models", 2024,
arXiv 2409.00055.

    W_res = W - c U diag(s) V^T,    y = x W_res^T + b + c ((x V) * s) U^T

U (out, r), s (r,) and V (in, r) start as the largest triplets of W, and all are trained. A regulariser holds U and V
near orthonormal, so that scale lives in s: `optim.OrthonormalAdamW`, which finds the factors by their tags
`orthonormal_columns` and `orthonormal_rows`. The paper claims faster convergence than LoRA and PiSSA and a smaller
change of the weight's singular structure.

Different here: s is divided by c, as PiSSA's pair is (the reference leaves a part 1 - c of the principal part in the
residual; equal at c = 1, the only published value). Nothing dense is formed in the forward pass. s may become negative
or unordered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.low_rank import truncated_svd
from .layer import Adapter, AdapterLayer, Pair, check_settings, scaling_of
from .pissa import ROUNDS, check_decomposition, split_rank, without_pairs
from .site import Site


@dataclass(frozen=True)
class SORSA(Adapter):
    """Three factors that hold the largest singular triplets of the weight; the base keeps the rest.

    The regulariser is a part of the optimiser: `optim.OrthonormalAdamW(model, gamma=...)`.

    Args:
        rank: r.
        alpha: c = alpha / r; None is `rank`, so that c = 1.
        iterations, oversample, clip_rank, dropout: as in `PiSSA`.

    Raises:
        ValueError: rank below 1, alpha not positive, dropout other than 0, iterations or oversample negative.
    """

    rank: int = 8
    alpha: float | None = None
    iterations: int | None = ROUNDS
    oversample: int = 8
    clip_rank: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self.rank, self.alpha, self.dropout)
        check_decomposition("SORSA", self.dropout, self.iterations, self.oversample)

    @property
    def scaling(self) -> float:
        """c."""
        return scaling_of(self.rank, self.alpha, rslora=False)

    def build(self, site: Site) -> "SORSALayer":
        rank = split_rank(site, self.rank, clip=self.clip_rank, kind="SORSA")
        return SORSALayer(site, rank, scaling=self.scaling)

    @torch.no_grad()
    def start(
        self, layers: Sequence[AdapterLayer], weights: Float[Tensor, "layers out columns"]
    ) -> Float[Tensor, "layers out columns"]:
        rank: int = layers[0].rank  # type: ignore[assignment]
        factors = truncated_svd(weights, rank, iterations=self.iterations, oversample=self.oversample)
        for layer, U, s, Vh in zip(layers, *factors, strict=True):
            layer.set_initial(U, s, Vh)  # type: ignore[operator]
        return without_pairs(layers, weights)


class SORSALayer(AdapterLayer):
    """`y + c ((x V) * s) U^T`, factored; parameters U (out, rank), s (rank,) and Vh = V^T (rank, columns), float32.

    They are zero until `start`, and kept as they began in the buffers U0, s0 and Vh0.
    """

    replaces_weight = True
    U: nn.Parameter
    s: nn.Parameter
    Vh: nn.Parameter
    U0: Tensor
    s0: Tensor
    Vh0: Tensor

    def __init__(self, site: Site, rank: int, *, scaling: float = 1.0):
        super().__init__(site)
        dtype = torch.float64 if site.weight.dtype == torch.float64 else torch.float32
        self.rank, self.scaling = rank, scaling
        shapes = {"U": (site.dim_out, rank), "s": (rank,), "Vh": (rank, site.columns)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape, dtype=dtype)))
            self.register_buffer(f"{name}0", torch.zeros(shape, dtype=dtype))

    @torch.no_grad()
    def set_initial(
        self, U: Float[Tensor, "out rank"], s: Float[Tensor, " rank"], Vh: Float[Tensor, "rank columns"]
    ) -> None:
        """Factors that came out of the weight itself; they are kept, so that the change alone can be exported."""
        for name, value in {"U": U, "s": s / self.scaling, "Vh": Vh}.items():
            getattr(self, name).copy_(value)
            getattr(self, f"{name}0").copy_(getattr(self, name))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = self.site.down(x, self.Vh)
        return self.site.add_up(y, hidden, self.U * self.s, self.scaling).to(y.dtype)

    def pair(self) -> Pair:
        return self.scaling * self.U * self.s, self.Vh

    def initial_pair(self) -> Pair:
        return self.scaling * self.U0 * self.s0, self.Vh0

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """All are tagged `adapter`; the vectors also `orthonormal_columns` and `orthonormal_rows`."""
        return {
            "U": ("adapter", "orthonormal_columns"),
            "s": ("adapter",),
            "Vh": ("adapter", "orthonormal_rows"),
        }

    def extra_repr(self) -> str:
        return f"rank={self.rank}, scaling={self.scaling:g}"
