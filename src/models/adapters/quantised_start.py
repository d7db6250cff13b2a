"""What adapters on a quantised base share: which layers can have one, and pairs that are fitted beside it."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from jaxtyping import Float
from torch import Tensor, nn

from ...ops.low_rank import truncated_svd
from ...ops.quantisation import BLOCK, KINDS, dequantise, quantise
from ..arguments import check_choice, check_sizes
from .layer import Adapter, AdapterLayer, check_rank, check_settings, scaling_of
from .lora import LoRALayer
from .pissa import ROUNDS
from .quantised import QuantisedLinear
from .site import Site

Split = tuple[
    Float[Tensor, "*layers out columns"],
    Float[Tensor, "*layers out rank"],
    Float[Tensor, "*layers rank columns"],
]  # Q, B, A with W ~ Q + B A


@dataclass(frozen=True)
class QuantisedStart(Adapter):
    """A pair that starts beside a quantised base, `W ~ Q + c B A`; `split` of the subclass says how.

    Args:
        rank: r.
        alpha: c = alpha / r; None is `rank`. Q and the product c B A do not depend on it.
        rslora: c = alpha / sqrt(r).
        bits: of the base, `nf4` or `int8`.
        rounds: T, how often the pair and Q are fitted to each other.
        block: number of weights that share a scale; even for `nf4`.
        iterations: rounds of the randomised decomposition; None for an exact one.

    Raises:
        ValueError: an argument out of range; at a layer, one that is not linear or that is quantised already.
    """

    rank: int = 8
    _: KW_ONLY
    alpha: float | None = None
    rslora: bool = False
    bits: str = "nf4"
    rounds: int = 5
    block: int = BLOCK
    iterations: int | None = ROUNDS

    def __post_init__(self) -> None:
        check_settings(self.rank, self.alpha, 0.0)
        check_quantisation(self.bits, self.block)
        check_sizes(rounds=self.rounds)

    def split(self, weights: Float[Tensor, "*layers out columns"]) -> Split:
        """Q, dense, and B and A of weights of one shape, float32 or float64; with `c` not yet taken out of B A."""
        raise NotImplementedError

    def build(self, site: Site) -> LoRALayer:
        check_quantisable(site)
        check_rank(site, self.rank)
        scaling = scaling_of(self.rank, self.alpha, self.rslora)
        return LoRALayer(site, self.rank, scaling=scaling, taken=True)

    def start(
        self, layers: Sequence[AdapterLayer], weights: Float[Tensor, "layers out columns"]
    ) -> Float[Tensor, "layers out columns"]:
        Q, B, A = self.split(weights)
        for index, layer in enumerate(layers):
            layer.set_initial(B[index], A[index])  # type: ignore[operator]
        return Q

    def base(self, site: Site, matrix: Tensor | None) -> QuantisedLinear:
        return quantised_layer(site, matrix, kind=self.bits, block=self.block)

    def quantised(
        self, weights: Float[Tensor, "*layers out columns"]
    ) -> Float[Tensor, "*layers out columns"]:
        """What the weights are after quantisation, each matrix on its own."""
        return dequantise(quantise(weights, self.bits, self.block, batch=weights.dim() - 2), weights.dtype)

    def fitted(
        self, weights: Float[Tensor, "*layers out columns"]
    ) -> tuple[Float[Tensor, "*layers out rank"], Float[Tensor, "*layers rank columns"]]:
        """(B, A): the principal part of weights, the singular values shared evenly."""
        U, s, Vh = truncated_svd(weights, self.rank, iterations=self.iterations)
        root = s.sqrt()
        return U * root.unsqueeze(-2), root.unsqueeze(-1) * Vh


def check_quantisation(bits: str, block: int) -> None:
    """ValueError for unknown bits or a block that does not suit them."""
    check_choice("bits", bits, KINDS)
    if block < 1 or (bits == "nf4" and block % 2):
        raise ValueError(f"block={block}: must be at least 1, and even for nf4")


def check_quantisable(site: Site) -> None:
    """ValueError, naming the layer, for all but linear layers (transposed ones too) that are not quantised yet."""
    if isinstance(site.module, QuantisedLinear):
        raise ValueError(
            f"{site.text} is quantised already: what its weight was before is not known any more"
        )
    if site.kind not in ("linear", "transposed"):
        raise ValueError(f"{site.text} is no linear layer; only these can be quantised")


def quantised_layer(
    site: Site, matrix: Float[Tensor, "out columns"] | None = None, *, kind: str = "nf4", block: int = BLOCK
) -> QuantisedLinear:
    """A quantised layer of `matrix` (None: the layer's own weight) and the layer's bias, frozen, on its device.

    Raises:
        ValueError: see `check_quantisable`; an unknown kind; weights that are not finite.
    """
    check_quantisable(site)
    bias: Tensor | None = getattr(site.module, "bias", None)
    with site.weight.device:
        layer = QuantisedLinear(site.dim_in, site.dim_out, kind=kind, block=block, bias=bias is not None)
    layer.hold(site.matrix() if matrix is None else matrix)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer.train(site.module.training)
