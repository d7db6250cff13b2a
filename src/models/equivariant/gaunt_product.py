"""Enabling Efficient Equivariant Operations in the Fourier Basis via Gaunt Tensor Products (ICLR 2024), as modules.

Luo, Chen and Krishnapriyan, arXiv 2401.10216. A tensor product whose path weights are tied to the Gaunt coefficients
is the pointwise product of functions on the sphere,

    z_{l3} = w3[l3] sum_{l1, l2} G (w1[l1] x_{l1}) (w2[l2] y_{l2}),     G = |g(l1, l2, l3)| wigner_3j(l1, l2, l3),

with learned scalars per degree and channel; `ops.gaunt` computes it. The paper claims O(L^3) in place of the O(L^6) of
Clebsch-Gordan coefficients, by a convolution in the 2-D Fourier basis. What differs here: products with exact
quadrature grids are the default, which are faster at every degree in use, and the outputs are rescaled to unit
variance in closed form. Paths with l1 + l2 + l3 odd, the cross product among them, have g = 0 and do not exist.

Parities: an irrep (l, p) is natural where p = (-1)^l, else pseudo. Natural and pseudo parts are functions of their own;
the product of two of a sort is natural, that of different ones pseudo.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.gaunt import ROUTES, GauntPlan, powers_plan
from ..arguments import check_choice, check_sizes
from .channels import Channels, channelwise
from .gaunt_layers import (
    Channelwise,
    Full,
    FullyConnected,
    Planned,
    by_component,
    check_paths,
    even_paths,
    filled,
    of_degree,
    planned_powers,
    sign,
)
from .tensor_product import (
    IrrepsLike,
    Path,
    TensorProduct,
    allowed_paths,
    as_irreps,
    kinds,
    name_of,
    reached_kinds,
)

KINDS = ("channelwise", "full", "fully_connected")


class GauntTensorProduct(TensorProduct):
    """The Gaunt tensor product of features, see the module.

    Args:
        irreps_in1, irreps_in2: `16x0e + 16x1o`. Channelwise every irrep once, all with one multiplicity C; or C in
            the first and 1 in the second, which then multiplies every channel.
        irreps_out: None: all irreps that the product reaches (of `fully_connected` it must be given). For `full` it
            says which irreps are wanted; their multiplicities follow.
        kind: `channelwise` (weights w1, w2, w3); `full`, e3nn's `FullTensorProduct` on the even paths, without
            weights; `fully_connected`, linear maps per irrep around the channelwise product.
        route: see `ops.gaunt`; has no effect on `full`.
        paths: for `full` the (l1, p1, l2, p2, l3, p3) wanted. The other kinds tie all paths together: none but the
            complete set is accepted.
        channels: of the product within `fully_connected`; None: the largest multiplicity of the inputs.
        normalise: rescale the outputs to unit variance (`full` always does); else z is the plain product.

    Raises:
        ValueError: an unknown kind or route, irreps that do not match, a path that does not exist.
    """

    def __init__(
        self,
        irreps_in1: IrrepsLike,
        irreps_in2: IrrepsLike,
        irreps_out: IrrepsLike | None = None,
        *,
        kind: str = "channelwise",
        route: str = "auto",
        paths: Iterable[Sequence[int]] | None = None,
        channels: int | None = None,
        normalise: bool = True,
    ):
        check_choice("kind", kind, KINDS)
        check_choice("route", route, ROUTES)
        first, second = as_irreps(irreps_in1), as_irreps(irreps_in2)
        asked = None if paths is None else check_paths(paths, first, second)
        form = partial(Channelwise, route=route, normalise=normalise)
        if kind == "full":
            made = _full(first, second, irreps_out, asked)
        elif kind == "channelwise":
            made = _channelwise(first, second, irreps_out, form)
        else:
            made = _fully_connected(first, second, irreps_out, channels, form)
        if asked is not None and set(asked) != set(made.paths):
            raise ValueError(
                f"paths: kind {kind!r} ties its {len(made.paths)} paths together, {len(asked)} were asked"
            )
        super().__init__(first, second, made.irreps_out, made.paths)
        self.wanted = reached_kinds(first, second) if irreps_out is None else kinds(as_irreps(irreps_out))
        self.form = made

    @property
    def missing_paths(self) -> tuple[Path, ...]:
        """The paths that e3nn's product of these irreps has and this one has not: those of odd degree sum."""
        wanted = as_irreps([(1, kind) for kind in self.wanted])
        full = allowed_paths(self.irreps_in1, self.irreps_in2, wanted)
        return tuple(path for path in full if path not in set(self.paths))

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """The product of checked features."""
        return self.form(x, y)


def _reached(first: IrrepsLike, second: IrrepsLike) -> list[tuple[int, int]]:
    """The kinds that the even paths reach, by degree."""
    found = reached_kinds(first, second)
    paths = even_paths(first, second, as_irreps([(1, kind) for kind in found]))
    return [kind for kind in found if kind in {path[4:] for path in paths}]


def _channelwise(
    first: IrrepsLike, second: IrrepsLike, out: IrrepsLike | None, form: Callable[..., Channelwise]
) -> Channelwise:
    one, two = Channels(first), Channels(second)
    three = Channels([(one.channels, kind) for kind in _reached(first, second)] if out is None else out)
    channelwise(one, two, three)
    return form(one, two, three)


def _full(
    first: IrrepsLike, second: IrrepsLike, out: IrrepsLike | None, asked: Sequence[Path] | None
) -> Full:
    wanted = _reached(first, second) if out is None else kinds(as_irreps(out))
    if stray := [path for path in asked or () if out is not None and path[4:] not in wanted]:
        raise ValueError(f"paths: one into {name_of(stray[0][4:])}, which irreps_out {out} does not have")
    paths = even_paths(first, second, as_irreps([(1, kind) for kind in wanted])) if asked is None else asked
    if not paths:
        raise ValueError(f"no path of even degree sum from {first} and {second} into {out}")
    return Full(first, second, paths)


def _fully_connected(
    first: IrrepsLike,
    second: IrrepsLike,
    out: IrrepsLike | None,
    channels: int | None,
    form: Callable[..., Channelwise],
) -> FullyConnected:
    if out is None:
        raise ValueError("irreps_out is None: kind 'fully_connected' has no default for it")
    width: int = max(part.mul for part in (*first, *second)) if channels is None else channels
    check_sizes(channels=width)
    return FullyConnected(first, second, as_irreps(out), width, form)


class ManyBody(Planned):
    """z = sum_k W_k (f^k), k = 1 .. order: powers of a function on the sphere, with weights per degree and channel.

    All powers are taken on one grid (MACE's contraction of `order` equal inputs). With f of variance 1 at every point
    and f^k divided by the root of `1 3 .. (2k - 1)`, its variance for normal f, no power outweighs the others. Weights
    begin at 1 / sqrt(order).

    Args:
        irreps: `16x0e + 16x1o + 16x2e`, all natural, every irrep once, all with one multiplicity.
        order: the highest power.
        irreps_out: None: `irreps`.

    Raises:
        ValueError: an order below 1, pseudo irreps, an output degree above order L, irreps that do not match.
    """

    def __init__(self, irreps: IrrepsLike, order: int, *, irreps_out: IrrepsLike | None = None):
        super().__init__()
        check_sizes(order=order)
        first = Channels(irreps)
        out = first if irreps_out is None else Channels(irreps_out)
        channelwise(first, first, out)
        if pseudo := [kind for kind in (*first.kinds, *out.kinds) if sign(kind) < 0]:
            raise ValueError(
                f"irreps have {pseudo[0]} (degree, parity): powers are natural, of parity (-1)^degree"
            )
        self.layouts, self.order = (first, out), order
        self.irreps_in, self.irreps_out = first.irreps, out.irreps
        self.weight = nn.Parameter(torch.full((order, out.channels, len(out.kinds)), order**-0.5))
        self.make_plans(self.anchor.dtype, self.anchor.device)

    def make_plans(self, dtype: torch.dtype, device: torch.device) -> None:
        """One, for all powers."""
        degree, degree_out = (max(l for l, _ in layout.kinds) for layout in self.layouts)
        self.plan: GauntPlan = powers_plan(degree, degree_out, self.order, dtype=dtype, device=device)

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """Features in e3nn's order of `irreps` to those of `irreps_out`."""
        first, out = self.layouts
        if x.shape[-1] != first.channels * first.size:
            raise ValueError(
                f"the input has {x.shape[-1]} features, its irreps have {first.channels * first.size}"
            )
        unit = math.sqrt(4 * math.pi / first.size)
        f = filled(first, first.stack(x), 1, max(l for l, _ in first.kinds)) * unit
        found = planned_powers(f, self.order, self.plan)  # (..., C, order, components)
        parts = [of_degree(found, l) for l, _ in out.kinds]
        scales = [1 / (unit * math.sqrt(math.prod(range(1, 2 * k + 2, 2)))) for k in range(self.order)]
        weights = [by_component(w * scale, out.widths) for w, scale in zip(self.weight, scales, strict=True)]
        return out.flatten((torch.cat(parts, -1) * torch.stack(weights, 1)).sum(-2))
