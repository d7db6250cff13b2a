"""DoRA: weight-decomposed low-rank adaptation.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024, arXiv 2402.09353.

    y = x [diag(m / ||V||) V]^T + b,    V = W + c B A

with ||V|| (out,) the norm of every row of V, treated as a constant in the backward pass, and the magnitude m (out,),
which starts at ||W||. So the direction and the length of every output's weights are learnt apart.

The forward pass needs no dense product: with g = m / ||V||

    y = g (base(x) + c lora(x)) + (1 - g) b
    ||V||^2 = ||W||^2 + 2 c sum_r (W A^T * B) + c^2 sum_r (B (A A^T) * B),

the first term kept from the start. Where dropout acts, the direction sees the dropped input too.

The paper's claim: better results than LoRA's at equal rank, by training that moves length and direction as full
fine-tuning does. What differs here: this form, with the norms from thin products alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.precision import without_autocast
from .layer import AdapterLayer, check_rank, check_ungrouped
from .lora import LoRA, LoRALayer
from .site import Site


@dataclass(frozen=True)
class DoRA(LoRA):
    """LoRA on the direction of a weight, with a trained magnitude per output.

    Args and errors: those of `LoRA`, whose `init` may be `kaiming` or `gaussian` here.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init not in ("kaiming", "gaussian"):
            raise ValueError(f"init={self.init!r}: DoRA starts from 'kaiming' or 'gaussian'")

    def build(self, site: Site) -> "DoRALayer":
        check_ungrouped(site, "DoRA")
        check_rank(site, self.rank)
        layer = DoRALayer(site, self.rank, scaling=self.scaling, dropout=self.dropout)
        layer.draw(self.init)
        return layer

    def start(self, layers: Sequence[AdapterLayer], weights: Float[Tensor, "layers out columns"]) -> None:
        """The magnitudes are the norms of the rows."""
        for layer, weight in zip(layers, weights, strict=True):
            layer.measure(weight)  # type: ignore[operator]


class DoRALayer(LoRALayer):
    """A, B as in `LoRALayer`, and `magnitude` (out,)."""

    additive = False

    squared_norms: Tensor
    _norms: Tensor

    def __init__(self, site: Site, rank: int, *, scaling: float = 1.0, dropout: float = 0.0):
        super().__init__(site, rank, scaling=scaling, dropout=dropout)
        self.magnitude = nn.Parameter(torch.ones_like(self.B[:, 0]))
        self.register_buffer("squared_norms", torch.ones_like(self.B[:, 0].detach()))
        self.register_buffer("_norms", torch.ones_like(self.squared_norms[:, None]), persistent=False)

    @torch.no_grad()
    def measure(self, weight: Float[Tensor, "out columns"]) -> None:
        """Takes the magnitude from the weight."""
        norms = torch.linalg.vector_norm(weight, dim=1)
        self.magnitude.copy_(norms)
        self.squared_norms.copy_(norms.square())

    @torch.no_grad()
    def norms(self) -> Float[Tensor, " out"]:
        """||V|| per output, without a dense product, float32 or float64 also under autocast."""
        W = self.site.matrix()
        A, B = self.A.to(W), self.B.to(W)
        # The compiler's reading of a product of a tensor and a number fails where no gradient is taken; not this one.
        B = torch.add(torch.zeros_like(B), B, alpha=self.scaling)
        with without_autocast(W.device):
            cross = (W @ A.mT * B).sum(1)
            square = (B @ (A @ A.mT) * B).sum(1)
        return (self.squared_norms + cross + cross + square).clamp(min=0).sqrt()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shape = (-1, *(1 for _ in self.site.kernel))
        gain = (self.magnitude / self.norms()).reshape(shape)
        if self.dropout and self.training and self.site.kind != "embedding":
            x = F.dropout(x, self.dropout)
            plain = self._base(x)
            return (y - plain + gain * self._lora(x, plain)).to(y.dtype)
        bias = getattr(self.site.module, "bias", None)
        if bias is None:
            return (gain * self._lora(x, y)).to(y.dtype)
        return torch.addcmul((1 - gain) * bias.reshape(shape), gain, self._lora(x, y)).to(y.dtype)

    def _lora(self, x: Tensor, y: Tensor) -> Tensor:
        """y + c lora(x)."""
        return self.site.add_up(y, self.site.down(x, self.A), self.B, self.scaling)

    def _base(self, x: Tensor) -> Tensor:
        """The base without its bias, on another input."""
        weight = self.site.as_weight(self.site.weight) if self.site.kind == "transposed" else self.site.weight
        if self.site.is_quantised:  # its weight is float32 whatever it is multiplied by
            weight = weight.to(x.dtype)
        return self.site.convolve(x, weight) if self.site.kind == "conv" else F.linear(x, weight)

    def merged(self, weight: Float[Tensor, "out columns"]) -> Float[Tensor, "out columns"]:
        direction = weight + self.delta()
        self._norms = torch.linalg.vector_norm(direction, dim=1, keepdim=True).detach()
        return self.magnitude[:, None] / self._norms * direction

    def unmerged(self, weight: Float[Tensor, "out columns"]) -> Float[Tensor, "out columns"]:
        """With the norms of the merge: they cannot be read off the merged weight, whose rows have the length m."""
        return weight * (self._norms / self.magnitude[:, None]) - self.delta()
