"""FLoRA: adapters for weights of any order, as a small core with a thin factor for every axis.

Si, Wang, Yang, Xu, Li, Dai, Qiao, Yang, Shen, "Maintaining Structural Integrity in Parameter Spaces for Parameter
Efficient Fine-tuning", ICLR 2025, arXiv 2405.14739 (at first "FLoRA: Low-Rank Core Space for N-dimension"). The update
of a weight is a Tucker product:

    dW[o, i, u, v] = s sum_{a, b, c, d} G[a, b, c, d] P_in[i, a] P_out[o, b] P_1[u, c] P_2[v, d]

A convolution keeps its axes in place of being flattened to a matrix; a linear layer gets `s P_out G^T P_in^T`. The
paper claims better results than LoRA's at equal numbers of parameters, for weights with structure along the kernel.

What differs from the reference code: the update is applied as three thin layers where that is cheaper, and then never
formed; padding modes and groups of a convolution are those of its base; the factors can be merged. Mind in comparisons
that the factors start large (`kaiming_normal`: standard deviation `sqrt(0.5 / r)`, the fan-in is the *rank*) and that
s is 4 by default: at the same rate FLoRA takes larger steps than LoRA.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.tucker import mode_product, tucker_product
from ..arguments import check_choice
from .layer import Adapter, AdapterLayer, Pair, check_whole
from .site import Site

INITS = ("kaiming_normal", "normal", "kaiming_uniform")
SIGMA = 0.02  # of init = normal
POSITIONS = 1024  # outputs of a batch (samples x pixels, or tokens) that the choice of a form counts with


@dataclass(frozen=True)
class FLoRA(Adapter):
    """Tucker updates for linear layers, transposed or not, and convolutions of one to three axes.

    Args:
        rank: one number for every axis, cut at the axis' length; or one per axis in the order in, out, kernel axes,
            as (8, 8, 2, 2). In a grouped convolution the in-axis has in / groups channels, whose factor the groups
            share.
        scale: s, a constant (not alpha / r; for the variant with that, give the quotient).
        dropout: on the input of the update.
        init: of the factors; the core starts at zero, so that the first step changes the core alone.
            `kaiming_normal`: N(0, 0.5 / r_j); `normal`: N(0, 0.02^2); `kaiming_uniform`: that of linear layers,
            U(-1/sqrt(n), 1/sqrt(n)) with n = in for P_in and r_j for the others.

    Raises:
        ValueError: a rank below 1, a scale that is not positive, a dropout outside [0, 1), an unknown init; at a
            layer: an embedding, another number of ranks than axes, a rank above the length of its axis.
    """

    rank: int | Sequence[int] = 8
    _: KW_ONLY
    scale: float = 4.0
    dropout: float = 0.0
    init: str = "kaiming_normal"

    def __post_init__(self) -> None:
        if isinstance(self.rank, Sequence):
            object.__setattr__(self, "rank", tuple(self.rank))
        for rank in self.rank if isinstance(self.rank, tuple) else (self.rank,):
            check_whole(rank)
            if rank < 1:  # type: ignore[operator]
                raise ValueError(f"rank={self.rank}: every rank must be at least 1")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale={self.scale}: must be a positive number")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout}: must lie in [0, 1)")
        check_choice("init", self.init, INITS)

    def build(self, site: Site) -> "FLoRALayer":
        """The core and factors of a layer."""
        return FLoRALayer(site, self)

    def ranks(self, site: Site) -> dict[str, int]:
        """The rank of every axis of a layer, by the axis' name."""
        axes = axes_of(site)
        if isinstance(self.rank, int):
            return {axis: min(self.rank, length) for axis, length in axes.items()}
        if len(self.rank) != len(axes):
            raise ValueError(
                f"rank={self.rank} has {len(self.rank)} entries, {site.text} has the axes {', '.join(axes)}"
            )
        for (axis, length), rank in zip(axes.items(), self.rank, strict=True):
            if rank > length:
                raise ValueError(f"rank={rank} of axis '{axis}' is above its length {length} in {site.text}")
        return dict(zip(axes, self.rank, strict=True))


def axes_of(site: Site) -> dict[str, int]:
    """Names and lengths of the axes of a layer's weight, in FLoRA's order: in, out, kernel axes.

    Raises:
        ValueError: an embedding.
    """
    if site.kind == "embedding":
        raise ValueError(f"{site.text}: FLoRA adapts linear layers and convolutions, not embeddings")
    kernel = {f"kernel {j}": length for j, length in enumerate(site.kernel)}
    return {"in": site.dim_in // site.groups, "out": site.dim_out, **kernel}


class FLoRALayer(AdapterLayer):
    """Core (r_in, r_out, r_1, ..) and factors `factor_in` (in, r_in), `factor_out` (out, r_out), `factor_kernel`."""

    def __init__(self, site: Site, adapter: FLoRA):
        super().__init__(site)
        self.scale, self.dropout, self.init = adapter.scale, adapter.dropout, adapter.init
        axes, ranks = axes_of(site), adapter.ranks(site)
        dtype = torch.float64 if site.weight.dtype == torch.float64 else torch.float32

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=dtype))

        self.core = empty(*ranks.values())
        self.factor_in, self.factor_out, *kernel = (empty(axes[axis], ranks[axis]) for axis in axes)
        self.factor_kernel = nn.ParameterList(kernel)
        self.form = cheapest_form(site, ranks["in"], ranks["out"])
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the factors; the core is zero."""
        self.core.zero_()
        for factor in (self.factor_in, self.factor_out, *self.factor_kernel):
            length, rank = factor.shape
            if self.init == "kaiming_normal":
                factor.normal_(0, math.sqrt(0.5 / rank))
            elif self.init == "normal":
                factor.normal_(0, SIGMA)
            else:
                bound = 1 / math.sqrt(length if factor is self.factor_in else rank)
                factor.uniform_(-bound, bound)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """`y + dW x`, in the dtype of the factors; the result in y's."""
        x = F.dropout(x.to(self.core.dtype), self.dropout, self.training)
        return (y + getattr(self, f"_{self.form}")(x)).to(y.dtype)

    def small_core(self) -> Float[Tensor, "rank_in rank_out *kernel"]:
        """`s G` with the factors of the kernel axes multiplied in."""
        core = self.scale * self.core
        for j, factor in enumerate(self.factor_kernel):
            core = mode_product(core, factor, 2 + j)
        return core

    def update(self) -> Float[Tensor, "out in *kernel"]:
        """dW by axes: of a grouped convolution `in` is in / groups."""
        core = self.scale * self.core
        return tucker_product(core, [self.factor_in, self.factor_out, *self.factor_kernel]).movedim(1, 0)

    def delta(self) -> Float[Tensor, "out columns"]:
        """dW as a matrix."""
        return self.update().reshape(self.site.shape)

    def pair(self) -> Pair:
        """dW as a flattened LoRA: of a convolution B = P_out and A all the rest, of a linear layer A = P_in^T."""
        core = self.small_core()
        if self.site.kind != "conv":
            return self.factor_out @ core.mT, self.factor_in.mT
        A = mode_product(core, self.factor_in, 0).movedim(1, 0)
        return self.factor_out, A.flatten(1)

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """Core and factors are tagged `adapter`."""
        return {name: ("adapter",) for name, _ in self.named_parameters()}

    def _factored(self, x: Tensor) -> Tensor:
        """Three thin layers. A map of channels without bias commutes with every kind of padding."""
        core = self.small_core().movedim(1, 0)
        x = self.site.up(x, self.factor_in.mT)
        x = self.site.down(x, core.flatten(1))
        return self.site.up(x, self.factor_out)

    def _flattened(self, x: Tensor) -> Tensor:
        B, A = self.pair()
        return self.site.up(self.site.down(x, A), B)

    def _dense(self, x: Tensor) -> Tensor:
        if self.site.kind != "conv":
            return F.linear(x, self.update())
        return self.site.convolve(x, self.update(), groups=self.site.groups)


def cheapest_form(site: Site, rank_in: int, rank_out: int) -> str:
    """The form of the forward pass with the fewest multiplications for a batch with `POSITIONS` outputs.

    | form | layers | multiplications for n outputs, window w, stride t (products over the axes) |
    |---|---|---|
    | `factored` | to r_in, to r_out with the kernel, to out | `n (t in r_in + w r_in r_out + r_out out)` |
    | `flattened` | the two of `pair`, of rank r | `n (w in r + r out)` and `c r_in r_out` to form them |
    | `dense` | dW itself | `n w in out`, and `w in r out` more to form it |

    r is r_out and c is `w in` for a convolution, r_in and `out` for a linear layer. A grouped convolution is `dense`.
    """
    if site.groups > 1:
        return "dense"
    n, window, stride = POSITIONS, math.prod(site.kernel), 1
    rank, formed = rank_in, site.dim_out
    if site.kind == "conv":
        stride = math.prod(site.module.stride)  # type: ignore[arg-type]
        rank, formed = rank_out, window * site.dim_in
    columns, forming = window * site.dim_in, formed * rank_in * rank_out
    costs = {
        "factored": n
        * (stride * site.dim_in * rank_in + window * rank_in * rank_out + rank_out * site.dim_out),
        "flattened": n * rank * (columns + site.dim_out) + forming,
        "dense": n * columns * site.dim_out + forming + columns * rank * site.dim_out,
    }
    return min(costs, key=costs.__getitem__)
