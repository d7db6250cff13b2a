"""LoRA: low-rank adaptation, with rank-stabilised scaling.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685; Kalajdzievski, "A Rank
Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023, arXiv 2312.03732.

    y = x W^T + b + c (dropout(x) A^T) B^T,    c = alpha / r   (rsLoRA: alpha / sqrt(r))

with W (out, in) frozen, A (r, in), B (out, r). For a convolution A takes the base's kernel, stride, padding and
dilation, and B is 1 x 1; for an embedding (num, dim) the pair stands for the transposed table.

Starts (`init`), named as in peft's `init_lora_weights`:

| name | A | B | base |
|---|---|---|---|
| `kaiming` | uniform within 1 / sqrt(columns) | 0 | kept |
| `gaussian` | normal, standard deviation 1 / r | 0 | kept |
| either, embedding | 0 | standard normal | kept |
| `orthogonal` | normal by the odd rows of a random orthogonal matrix, / 10 | by the even ones: B A = 0 | kept |
| `olora` | R of a QR of W, first r rows | Q, first r columns | W - c B A |

`olora`: Buyukakyuz, "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models", 2024, arXiv 2406.01775.

The papers' claims: LoRA is as good as training all weights, with a small part of the parameters and no cost at
inference; the scale alpha / r makes updates shrink with the rank, alpha / sqrt(r) does not.

Different here: one rule for all kinds of layers, grouped convolutions are refused, A keeps the dilation and the padding
mode of its convolution, and merging computes in float32 whatever the dtype of the weight.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_choice
from .layer import Adapter, AdapterLayer, Pair, check_rank, check_settings, check_ungrouped, scaling_of
from .site import Site

INITS = ("kaiming", "gaussian", "orthogonal", "olora")


@dataclass(frozen=True)
class LoRA(Adapter):
    """A low-rank pair beside a frozen weight: `inject(model, LoRA(rank=8), targets=["q", "v"])`.

    Args:
        rank: r.
        alpha: scale of the update; None is `rank`, so that c = 1 (c = sqrt(r) with `rslora`).
        dropout: on the adapter's input, 0 to 1.
        rslora: c = alpha / sqrt(r).
        init: how the pair starts, see the module's table.

    Raises:
        ValueError: rank below 1, alpha not positive, dropout outside [0, 1), an unknown start, an odd rank with
            `orthogonal`.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    rslora: bool = False
    init: str = "kaiming"

    def __post_init__(self) -> None:
        check_settings(self.rank, self.alpha, self.dropout)
        check_choice("init", self.init, INITS)
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"rank={self.rank}: must be even with init='orthogonal'")

    @property
    def scaling(self) -> float:
        """c."""
        return scaling_of(self.rank, self.alpha, self.rslora)

    def build(self, site: Site) -> "LoRALayer":
        check_ungrouped(site, "LoRA")
        check_rank(site, self.rank)
        if self.init == "olora" and site.is_quantised:
            raise ValueError(f"{site.text} is quantised; olora splits the weight as it was before")
        layer = LoRALayer(
            site, self.rank, scaling=self.scaling, dropout=self.dropout, taken=self.init == "olora"
        )
        layer.draw(self.init)
        return layer

    def start(
        self, layers: Sequence[AdapterLayer], weights: Float[Tensor, "layers out columns"]
    ) -> Float[Tensor, "layers out columns"] | None:
        """`olora` alone depends on the weight."""
        if self.init != "olora":
            return None
        Q, R = torch.linalg.qr(weights)
        kept = weights.clone()
        for index, layer in enumerate(layers):
            layer.set_initial(Q[index, :, : self.rank], R[index, : self.rank])  # type: ignore[operator]
            kept[index] -= layer.delta()
        return kept


class LoRALayer(AdapterLayer):
    """`y + c (dropout(x) A^T) B^T`, factored; the parameters are A (rank, columns) and B (out, rank), float32.

    The branch is computed in the factors' dtype, and the sum is rounded once, to that of the base's output. A layer
    whose factors were `taken` out of the weight keeps them as they began, in the buffers A0 and B0.
    """

    A0: Tensor
    B0: Tensor

    def __init__(
        self, site: Site, rank: int, *, scaling: float = 1.0, dropout: float = 0.0, taken: bool = False
    ):
        super().__init__(site)
        dtype = torch.float64 if site.weight.dtype == torch.float64 else torch.float32
        self.rank, self.scaling, self.dropout = rank, scaling, dropout
        self.A = nn.Parameter(torch.zeros(rank, site.columns, dtype=dtype))
        self.B = nn.Parameter(torch.zeros(site.dim_out, rank, dtype=dtype))
        self.replaces_weight = taken
        if taken:
            self.register_buffer("A0", torch.zeros_like(self.A.detach()))
            self.register_buffer("B0", torch.zeros_like(self.B.detach()))

    @torch.no_grad()
    def draw(self, init: str) -> None:
        """Random factors with B A = 0, from torch's generator."""
        if init == "orthogonal":
            half = self.rank // 2
            rows = torch.linalg.qr(torch.randn(self.rank, self.rank))[0]
            self.A.copy_((torch.randn(self.A.shape[1], half) @ rows[0::2]).mT / 10)
            self.B.copy_(torch.randn(len(self.B), half) @ rows[1::2] / 10)
        elif self.site.kind == "embedding":
            self.B.normal_()
        elif init == "gaussian":
            self.A.normal_(std=1 / self.rank)
        elif init == "kaiming":
            bound = 1 / math.sqrt(self.A.shape[1])
            self.A.uniform_(-bound, bound)

    @torch.no_grad()
    def set_initial(self, B: Float[Tensor, "out rank"], A: Float[Tensor, "rank columns"]) -> None:
        """Factors that came out of the weight itself; they are kept, so that the change alone can be exported."""
        root = math.sqrt(self.scaling)
        self.B.copy_(B / root)
        self.A.copy_(A / root)
        self.B0.copy_(self.B)
        self.A0.copy_(self.A)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.dropout and self.training and self.site.kind != "embedding":
            x = F.dropout(x.to(self.A.dtype), self.dropout)
        return self.site.add_up(y, self.site.down(x, self.A), self.B, self.scaling).to(y.dtype)

    def pair(self) -> Pair:
        return self.scaling * self.B, self.A

    def initial_pair(self) -> Pair | None:
        return (self.scaling * self.B0, self.A0) if self.replaces_weight else None

    def extra_repr(self) -> str:
        return f"rank={self.rank}, scaling={self.scaling:g}" + f", dropout={self.dropout}" * (
            self.dropout > 0
        )
