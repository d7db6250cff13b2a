"""The Gaunt product: the pointwise product of two functions on the sphere, in coefficients.

    z_{l3 m3} = sum G[l1 m1, l2 m2, l3 m3] x_{l1 m1} y_{l2 m2},   G = integral of Y_{l1 m1} Y_{l2 m2} Y_{l3 m3},

x of degrees 0 .. L1, y of 0 .. L2, z of 0 .. L3 <= L1 + L2 (orthonormal real harmonics, see `sphere`). The routes are
equal to rounding:

    grid        z = ((x A1) (y A2)) P on the least quadrature grid that is exact
    separable   the same grid; the degrees are summed first, order by order, then the orders: O(L^3)
    fourier     harmonics as polynomials in e^{i theta} and e^{i phi}, theta on the full circle; convolution by FFT
    dense       z = (x (x) y) G with the whole tensor
    auto        grid where L1 + L2 + L3 is below 16, else separable (measured on a CPU)

The first two are the trilinear form `sum_p w_p f_p g_p h_p` of values on the grid, and so are their derivatives with
the roles exchanged: derivatives of any order are products again. They keep no values on the grid for the backward
pass, and on the CPU run over rows in chunks that stay in the cache.
"""

import functools
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .angular import gaunt as gaunt_coefficients
from .angular import triangle
from .gaunt_forms import (
    Dense,
    Fourier,
    Separable,
    cast,
    dense_transform,
    fourier_product,
    fourier_tables,
    separable_transform,
    trilinear,
)
from .precision import without_autocast
from .sphere import check_degree, components, degree_of, exact_sizes, sphere_grid

ROUTES = ("auto", "grid", "separable", "fourier", "dense")
SEPARABLE = 16  # L1 + L2 + L3 from which on this route is the faster one


class GauntPlan(NamedTuple):
    """The tables of a product of degrees 0 .. L1 and 0 .. L2 to 0 .. L3 along one route; from `gaunt_plan`."""

    route: str
    degrees: tuple[int, int, int]
    tables: tuple[Dense | Separable, ...] | Fourier | Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Of the tables: at least float32."""
        return _a_table(self).dtype

    @property
    def device(self) -> torch.device:
        """Of the tables."""
        return _a_table(self).device


def _a_table(plan: GauntPlan) -> Tensor:
    tables = plan.tables
    while not isinstance(tables, Tensor):
        tables = tables[0]
    return tables


def gaunt_product(
    x: Float[Tensor, "*batch components1"],
    y: Float[Tensor, "*batch2 components2"],
    degree_out: int | None = None,
    *,
    route: str = "auto",
    plan: GauntPlan | None = None,
) -> Float[Tensor, "*batch3 components3"]:
    """The Gaunt product of x (..., (L1 + 1)^2) and y (..., (L2 + 1)^2), (..., (L3 + 1)^2); leading axes broadcast.

    Differentiable, any number of times. Half precision is computed in float32.

    Args:
        degree_out: L3; None: L1 + L2.
        route: see the module.
        plan: tables from `gaunt_plan` in place of `degree_out` and `route`; compiled code should bring its own.

    Raises:
        ValueError: sizes that are not (L + 1)^2, an output degree above L1 + L2, an unknown route, another plan.
    """
    degrees = degree_of(x.shape[-1]), degree_of(y.shape[-1])
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    if plan is None:
        degree_out = sum(degrees) if degree_out is None else degree_out
        plan = gaunt_plan(*degrees, degree_out, route=route, dtype=dtype, device=x.device)
    if plan.degrees[:2] != degrees:
        raise ValueError(f"a plan for degrees {plan.degrees[:2]}, the inputs have {degrees}")
    with without_autocast(x.device):
        result = _product(x.to(plan.dtype), y.to(plan.dtype), plan)
    return result.to(torch.promote_types(x.dtype, y.dtype))


def gaunt_plan(
    l1: int,
    l2: int,
    l3: int,
    *,
    route: str = "auto",
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    n_th: int | None = None,
    n_ph: int | None = None,
    allow_aliasing: bool = False,
) -> GauntPlan:
    """The tables of a product, cached; not to be written to.

    Args:
        dtype: below float32 the tables are float32.
        n_th, n_ph: numbers of nodes and angles of the grid, of the routes `grid` and `separable`; None: the least that
            are exact, `floor((l1 + l2 + l3) / 2) + 1` and `l1 + l2 + l3 + 1`.
        allow_aliasing: accept smaller grids, whose result is not equivariant.

    Raises:
        ValueError: a negative degree, l3 above l1 + l2, an unknown route, a grid that aliases.
    """
    for name, degree in (("l1", l1), ("l2", l2), ("l3", l3)):
        check_degree(degree, name)
    if l3 > l1 + l2:
        raise ValueError(f"degree {l3} of the output: the product of degrees {l1} and {l2} ends at {l1 + l2}")
    if route not in ROUTES:
        raise ValueError(f"route is {route!r}, known are {', '.join(ROUTES)}")
    route = resolve(route, l1 + l2 + l3)
    for name, size, least in zip(("n_th", "n_ph"), (n_th, n_ph), exact_sizes(l1 + l2 + l3), strict=True):
        if size is not None and size < least and not allow_aliasing:
            raise ValueError(f"{name}={size}: below {least} the product of degrees {l1}, {l2}, {l3} aliases")
    dtype = torch.promote_types(dtype, torch.float32)
    return _cached_plan((l1, l2, l3), route, dtype, torch.device(device), n_th, n_ph)


def resolve(route: str, total: int) -> str:
    """The route that `auto` means for L1 + L2 + L3 = `total`."""
    if route != "auto":
        return route
    return "grid" if total < SEPARABLE else "separable"


@functools.lru_cache(maxsize=512)
def _cached_plan(
    degrees: tuple[int, int, int],
    route: str,
    dtype: torch.dtype,
    device: torch.device,
    n_th: int | None,
    n_ph: int | None,
) -> GauntPlan:
    if route == "dense":
        return GauntPlan(route, degrees, _dense_tensor(*degrees).to(device, dtype))
    if route == "fourier":
        points = 2 * (degrees[0] + degrees[1]) + 2  # even, and of more than the 2 (l1 + l2) + 1 coefficients
        return GauntPlan(route, degrees, cast(fourier_tables(*degrees, points), dtype, device))
    transform = dense_transform if route == "grid" else separable_transform
    grid = sphere_grid(sum(degrees), n_th, n_ph)
    made = [transform(degree, grid, weighted=i == 2) for i, degree in enumerate(degrees)]
    return GauntPlan(route, degrees, tuple(cast(t, dtype, device) for t in made))


def _dense_tensor(l1: int, l2: int, l3: int) -> Tensor:
    """G (components1, components2, components3) in closed form, float64."""
    sizes = components(l1), components(l2), components(l3)
    result = torch.zeros(sizes, dtype=torch.float64, device="cpu")
    spans = [slice(n * n, (n + 1) ** 2) for n in range(max(l1, l2, l3) + 1)]
    for a in range(l1 + 1):
        for b in range(l2 + 1):
            for c in range(l3 + 1):
                if triangle(a, b, c) and (a + b + c) % 2 == 0:
                    result[spans[a], spans[b], spans[c]] = gaunt_coefficients(a, b, c)
    return result


def _product(x: Tensor, y: Tensor, plan: GauntPlan) -> Tensor:
    """Of inputs in the plan's dtype."""
    batch = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    if plan.route in ("grid", "separable"):
        x, y, channels = _rows(x, y, batch)
        result = trilinear(x, y, plan.tables, channels)  # type: ignore[arg-type]
    elif plan.route == "fourier":
        x, y = (t.expand(*batch, -1).reshape(batch.numel(), t.shape[-1]) for t in (x, y))
        result = fourier_product(x, y, plan.tables)  # type: ignore[arg-type]
    else:
        outer = (x.unsqueeze(-1) * y.unsqueeze(-2)).flatten(-2)
        result = outer @ plan.tables.flatten(0, 1)  # type: ignore[union-attr]
    return result.reshape(*batch, components(plan.degrees[2]))


def _rows(x: Tensor, y: Tensor, batch: torch.Size) -> tuple[Tensor, Tensor, int]:
    """As (rows, channels, components), with channels = 1 where an input has the same for all of the last axis."""
    if not batch or (x.dim() == y.dim() and x.shape[-2] == y.shape[-2]):
        x, y = (t.expand(*batch, -1).reshape(batch.numel(), 1, t.shape[-1]) for t in (x, y))
        return x, y, 1
    x, y = (t.unsqueeze(0) if t.dim() == 1 else t for t in (x, y))
    x, y = (t.expand(*batch[:-1], *t.shape[-2:]).reshape(batch[:-1].numel(), *t.shape[-2:]) for t in (x, y))
    return x, y, batch[-1]


def powers(
    x: Float[Tensor, "*batch components"], degree_out: int, order: int, *, plan: GauntPlan | None = None
) -> Float[Tensor, "*batch order components3"]:
    """The Gaunt powers x, x x, .., x^order (pointwise on the sphere) up to `degree_out`, (..., order, components).

    All on one grid, exact for `order` L + `degree_out`: `f = x A`, then `f^k P`.

    Raises:
        ValueError: an order below 1, a degree_out above `order` L.
    """
    if plan is None:
        dtype = torch.promote_types(x.dtype, torch.float32)
        plan = powers_plan(degree_of(x.shape[-1]), degree_out, order, dtype=dtype, device=x.device)
    first, second = _of_powers(plan)
    with without_autocast(x.device):
        values = [first.values(x.to(plan.dtype).reshape(x.shape[:-1].numel(), x.shape[-1]))]
        while len(values) < order:
            values.append(values[-1] * values[0])
        result = second.adjoint(torch.stack(values, 1).flatten(0, 1))
    return result.reshape(*x.shape[:-1], order, components(plan.degrees[2])).to(x.dtype)


def _of_powers(plan: GauntPlan) -> tuple[Dense, Dense]:
    """The two transforms of a plan from `powers_plan`.

    Raises:
        ValueError: a plan of another kind.
    """
    match plan.tables:
        case (Dense() as first, Dense() as second):
            return first, second
    raise ValueError(f"a plan of the route {plan.route!r} for a product: powers want one from powers_plan")


def powers_plan(
    degree: int,
    degree_out: int,
    order: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> GauntPlan:
    """The tables of `powers`, cached; not to be written to."""
    check_degree(degree)
    check_degree(degree_out, "degree_out")
    if order < 1:
        raise ValueError(f"order is {order}, it must be at least 1")
    if degree_out > order * degree:
        raise ValueError(
            f"degree_out is {degree_out}: power {order} of degree {degree} ends at {order * degree}"
        )
    dtype = torch.promote_types(dtype, torch.float32)
    return _cached_powers(degree, degree_out, order, dtype, torch.device(device))


@functools.lru_cache(maxsize=256)
def _cached_powers(
    degree: int, degree_out: int, order: int, dtype: torch.dtype, device: torch.device
) -> GauntPlan:
    grid = sphere_grid(order * degree + degree_out)
    made = (dense_transform(degree, grid), dense_transform(degree_out, grid, weighted=True))
    tables = tuple(cast(t, dtype, device) for t in made)
    return GauntPlan("grid", (degree, degree, degree_out), tables)
