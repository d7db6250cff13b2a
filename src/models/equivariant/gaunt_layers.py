"""The three forms of the Gaunt tensor product on features: channel by channel, all pairs apart, fully connected."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...ops.angular import gaunt_factor, triangle
from ...ops.gaunt import GauntPlan, gaunt_plan, gaunt_product, powers, powers_plan
from ...ops.sphere import sphere_grid, spherical_harmonics
from ..constants import Constants
from .channels import Channels
from .irreps_layers import join_degrees, split_degrees
from .tensor_product import IrrepsLike, Kind, Path, allowed_paths, as_irreps, kinds, name_of

SIGNS = (1, -1)


def sign(kind: Kind) -> int:
    """1 for a natural irrep, p = (-1)^l, else -1."""
    return kind[1] * (-1) ** kind[0]


def even_paths(irreps_in1: IrrepsLike, irreps_in2: IrrepsLike, irreps_out: IrrepsLike) -> tuple[Path, ...]:
    """The paths that have Gaunt coefficients: those of even l1 + l2 + l3."""
    return tuple(
        path for path in allowed_paths(irreps_in1, irreps_in2, irreps_out) if sum(path[::2]) % 2 == 0
    )


def check_paths(
    paths: Iterable[Sequence[int]], irreps_in1: IrrepsLike, irreps_in2: IrrepsLike
) -> tuple[Path, ...]:
    """The paths as tuples.

    Raises:
        ValueError: the first that equivariance or the Gaunt coefficients do not allow, and why.
    """
    checked = []
    for path in paths:
        if len(path) != 6:
            raise ValueError(f"path {tuple(path)}: must be (l1, p1, l2, p2, l3, p3)")
        if reason := _fault(path, irreps_in1, irreps_in2):
            names = [name_of((path[i], path[i + 1])) for i in (0, 2, 4)]
            raise ValueError(f"path {names[0]} x {names[1]} -> {names[2]}: {reason}")
        checked.append(tuple(path))
    return tuple(dict.fromkeys(checked))


def _fault(path: Sequence[int], irreps_in1: IrrepsLike, irreps_in2: IrrepsLike) -> str | None:
    l1, p1, l2, p2, l3, p3 = path
    for which, irreps, kind in (("irreps_in1", irreps_in1, (l1, p1)), ("irreps_in2", irreps_in2, (l2, p2))):
        if kind not in kinds(irreps):
            return f"{which} {irreps} has no {name_of(kind)}"
    if p3 != p1 * p2:
        return f"the product has the parity {p1 * p2}, not {p3}"
    if not triangle(l1, l2, l3):
        return f"the product has the degrees {abs(l1 - l2)} to {l1 + l2} only"
    if (l1 + l2 + l3) % 2:
        return "l1 + l2 + l3 is odd, and such a path has no Gaunt coefficient"
    return None


class Planned(nn.Module):
    """A module whose tables are made anew where it goes to another dtype or device: they are always exact."""

    anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def make_plans(self, dtype: torch.dtype, device: torch.device) -> None:
        """Sets what the forward pass needs in this dtype (or float32, if larger) on this device."""
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> "Planned":
        super()._apply(fn, recurse)
        self.make_plans(self.anchor.dtype, self.anchor.device)
        return self


class Channelwise(Planned):
    """z = w3 scale sum over the pairs of sorts (w1 x) (w2 y), channel by channel; the weights begin at 1.

    Args:
        normalise: scale = 1 / sqrt(sum over l1, l2 of g^2 / (2 l3 + 1)), so that inputs of independent components of
            variance 1 give such outputs; else 1.

    Raises:
        ValueError: an irrep of `out` that no path reaches.
    """

    def __init__(self, first: Channels, second: Channels, out: Channels, *, route: str, normalise: bool):
        super().__init__()
        self.layouts, self.route, self.irreps_out = (first, second, out), route, out.irreps
        self.paths = even_paths(first.irreps, second.irreps, out.irreps)
        into = {kind: sum(_variance(path) for path in self.paths if path[4:] == kind) for kind in out.kinds}
        if lost := [kind for kind in out.kinds if not into[kind]]:
            raise ValueError(
                f"irreps_out has {name_of(lost[0])}, which no path of even degree sum from {first.irreps} and "
                f"{second.irreps} reaches"
            )
        scale = [(1 / math.sqrt(into[kind]) if normalise else 1.0) for kind in out.kinds]
        self.scale = Constants({"scale": torch.tensor(scale, dtype=torch.float64, device="cpu")})
        # of every channel, where the second input has one for all: w2 then makes C of it
        shapes = [(first.channels, len(layout.kinds)) for layout in self.layouts]
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(shape)) for shape in shapes])
        self.make_plans(self.anchor.dtype, self.anchor.device)

    def make_plans(self, dtype: torch.dtype, device: torch.device) -> None:
        """One per pair of sorts that both inputs have and whose product the output wants."""
        tops = [{s: max((l for l, p in layout.kinds if sign((l, p)) == s), default=-1) for s in SIGNS}
                for layout in self.layouts]  # fmt: skip
        self.plans: dict[tuple[int, int], GauntPlan] = {}
        for s in SIGNS:
            for t in SIGNS:
                l1, l2, l3 = tops[0][s], tops[1][t], tops[2][s * t]
                if min(l1, l2, l3) >= 0:
                    l3 = min(l3, l1 + l2)
                    self.plans[s, t] = gaunt_plan(l1, l2, l3, route=self.route, dtype=dtype, device=device)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(..., dim1) and (..., dim2) to (..., dim)."""
        first, second, out = self.layouts
        w1, w2, w3 = self.weights
        f, g = self._parts(first, first.stack(x), w1), self._parts(second, second.stack(y), w2)
        sums: dict[int, Tensor] = {}
        for (s, t), plan in self.plans.items():
            product = _planned_product(f[s], g[t], plan)
            sums[s * t] = _longer_sum(sums[s * t], product) if s * t in sums else product
        parts = [of_degree(sums[sign(kind)], kind[0]) for kind in out.kinds]
        result = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return out.flatten(result * by_component(w3 * self.scale.table("scale", result), out.widths))

    @staticmethod
    def _parts(layout: Channels, x: Tensor, weight: Tensor) -> dict[int, Tensor]:
        """The natural and the pseudo function of features (..., C, components), degrees that lack filled with zeros."""
        x = x * by_component(weight, layout.widths)
        parts = {}
        for s in SIGNS:
            degrees = [l for l, p in layout.kinds if sign((l, p)) == s]
            if degrees:
                parts[s] = filled(layout, x, s, max(degrees))
        return parts


def _variance(path: Path) -> float:
    """Of the components of a path's output, for inputs of variance 1."""
    l1, l2, l3 = path[::2]
    return gaunt_factor(l1, l2, l3) ** 2 / (2 * l3 + 1)


def by_component(weight: Tensor, widths: Sequence[int]) -> Tensor:
    """One number per irrep, (..., irreps), as one per component, (..., components)."""
    parts = [weight[..., i : i + 1].expand(*weight.shape[:-1], width) for i, width in enumerate(widths)]
    return torch.cat(parts, -1)


def filled(layout: Channels, x: Tensor, s: int, degree: int) -> Tensor:
    """The part of sort `s` of features (..., C, components), degrees that lack up to `degree` filled with zeros."""
    wanted = [(l, s * (-1) ** l) for l in range(degree + 1)]
    if wanted == layout.kinds:
        return x
    missing = [
        x.new_zeros(*x.shape[:-1], 2 * l + 1) if (l, p) not in layout.offsets else None for l, p in wanted
    ]
    return torch.cat(
        [x[..., layout.slice(k)] if m is None else m for k, m in zip(wanted, missing, strict=True)], -1
    )


def _planned_product(x: Tensor, y: Tensor, plan: GauntPlan) -> Tensor:
    """With the plan, or a cached one of the dtype of the inputs where that is another."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if plan.dtype != dtype or plan.device != x.device:
        plan = gaunt_plan(*plan.degrees, route=plan.route, dtype=dtype, device=x.device)
    return gaunt_product(x, y, plan=plan)


def planned_powers(x: Tensor, order: int, plan: GauntPlan) -> Tensor:
    """`powers` with the plan, or a cached one of the dtype of the input where that is another."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if plan.dtype != dtype or plan.device != x.device:
        degree, _, degree_out = plan.degrees
        plan = powers_plan(degree, degree_out, order, dtype=dtype, device=x.device)
    return powers(x, plan.degrees[2], order, plan=plan)


def _longer_sum(x: Tensor, y: Tensor) -> Tensor:
    """x + y, the shorter one continued with zeros: the two products may end at different degrees."""
    size = max(x.shape[-1], y.shape[-1])
    x, y = (nn.functional.pad(t, (0, size - t.shape[-1])) for t in (x, y))
    return x + y


def of_degree(x: Tensor, degree: int) -> Tensor:
    """The components of one degree of (..., (L + 1)^2)."""
    return x[..., degree * degree : (degree + 1) ** 2]


class Full(nn.Module):
    """Every path of every pair of irreps apart, all channels with all: e3nn's `FullTensorProduct` on the even paths.

    Outputs are `mul1 mul2 x l3`, sorted as e3nn sorts them and in its normalisation: inputs of independent components
    of variance 1 give such outputs.
    """

    def __init__(self, irreps_in1: IrrepsLike, irreps_in2: IrrepsLike, paths: Sequence[Path]):
        super().__init__()
        self.parts, self.paths = (_shapes(irreps_in1), _shapes(irreps_in2)), tuple(paths)
        self.blocks: list[tuple[int, int, tuple[int, ...]]] = []
        found, tables = [], {}
        for i, a in enumerate(irreps_in1):
            for j, b in enumerate(irreps_in2):
                pair = (a.ir.l, a.ir.p, b.ir.l, b.ir.p)
                degrees = tuple(l for l in range(a.ir.l + b.ir.l + 1) if (*pair, l, a.ir.p * b.ir.p) in paths)
                if degrees and a.mul and b.mul:
                    self.blocks.append((i, j, degrees))
                    found += [(a.mul * b.mul, (l, a.ir.p * b.ir.p)) for l in degrees]
                    tables |= _pair_tables(a.ir.l, b.ir.l, degrees)
        ordered = as_irreps(found).sort()
        self.irreps_out, self.order = ordered.irreps, ordered.inv
        self.tables = Constants(tables)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(..., dim1) and (..., dim2) to (..., dim)."""
        batch = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
        dtype = torch.promote_types(x.dtype, y.dtype)
        xs, ys = (_irreps(t.to(torch.promote_types(t.dtype, torch.float32)), irreps)
                  for t, irreps in zip((x, y), self.parts, strict=True))  # fmt: skip
        outputs = []
        for i, j, degrees in self.blocks:
            outputs += self._block(xs[i], ys[j], degrees)
        parts = [outputs[k].expand(*batch, *outputs[k].shape[-3:]).flatten(-3) for k in self.order]
        return torch.cat(parts, -1).to(dtype)

    def _block(self, x: Tensor, y: Tensor, degrees: Sequence[int]) -> Sequence[Tensor]:
        """(..., mul1, 2 l1 + 1) and (..., mul2, 2 l2 + 1) to (..., mul1, mul2, 2 l3 + 1) for every l3."""
        name = _pair_name(x.shape[-1] // 2, y.shape[-1] // 2, degrees)
        f = x @ self.tables.table(f"first{name}", x)
        g = y @ self.tables.table(f"second{name}", y)
        z = (f.unsqueeze(-2) * g.unsqueeze(-3)) @ self.tables.table(f"back{name}", x)
        return z.split([2 * l + 1 for l in degrees], -1)


def _shapes(irreps: IrrepsLike) -> list[tuple[int, Kind]]:
    """(multiplicity, (l, p)) of each: plain numbers, which compiled code can read."""
    return [(part.mul, (part.ir.l, part.ir.p)) for part in irreps]


def _irreps(x: Tensor, shapes: Sequence[tuple[int, Kind]]) -> list[Tensor]:
    """(..., mul, 2 l + 1) for each."""
    return split_degrees(x, [mul for mul, _ in shapes], [l for _, (l, _) in shapes])


def _pair_name(l1: int, l2: int, degrees: Sequence[int]) -> str:
    return "_".join(map(str, ("", l1, l2, *degrees)))


def _pair_tables(l1: int, l2: int, degrees: Sequence[int]) -> dict[str, Tensor]:
    """One pair of degrees on the grid that is exact for it: there and back with sqrt(2 l3 + 1) / |g|."""
    grid = sphere_grid(2 * (l1 + l2))
    values = spherical_harmonics(l1 + l2, grid.points)
    back = [
        of_degree(values, l) * (math.sqrt(2 * l + 1) / gaunt_factor(l1, l2, l)) * grid.weights[:, None]
        for l in degrees
    ]
    tables = {
        "first": of_degree(values, l1).mT,
        "second": of_degree(values, l2).mT,
        "back": torch.cat(back, -1),
    }
    return {name + _pair_name(l1, l2, degrees): table for name, table in tables.items()}


class PerIrrep(nn.Module):
    """Linear maps over the channels of each irrep, between any irreps; from normal weights of variance 1 / channels.

    Irreps that do not come in are zero.
    """

    def __init__(self, irreps_in: IrrepsLike, irreps_out: IrrepsLike):
        super().__init__()
        self.irreps_in, self.irreps_out = as_irreps(irreps_in), as_irreps(irreps_out)
        self.shapes_in = _shapes(self.irreps_in)
        self.kinds = [kind for _, kind in _shapes(self.irreps_out)]
        sizes = {kind: sum(mul for mul, other in self.shapes_in if other == kind) for kind in self.kinds}
        dims = [(mul, sizes[kind]) for mul, kind in _shapes(self.irreps_out)]
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(o, i) / max(i, 1) ** 0.5) for o, i in dims])

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) to (..., dim_out)."""
        grouped: dict[Kind, list[Tensor]] = {}
        for part, (_, kind) in zip(_irreps(x, self.shapes_in), self.shapes_in, strict=True):
            grouped.setdefault(kind, []).append(part)
        outputs = []
        for weight, kind in zip(self.weights, self.kinds, strict=True):
            found = grouped.get(kind) or [x.new_zeros(*x.shape[:-1], 0, 2 * kind[0] + 1)]
            outputs.append(weight @ torch.cat(found, -2))
        return join_degrees(outputs)


class FullyConnected(nn.Module):
    """Linear maps of both inputs to C channels, the channelwise product, a linear map of its output."""

    def __init__(
        self, irreps_in1: IrrepsLike, irreps_in2: IrrepsLike, irreps_out: IrrepsLike, channels: int, form: Any
    ):
        super().__init__()
        inner = [
            Channels([(channels, kind) for kind in kinds(i)]) for i in (irreps_in1, irreps_in2, irreps_out)
        ]
        self.first, self.second = PerIrrep(irreps_in1, inner[0].irreps), PerIrrep(irreps_in2, inner[1].irreps)
        self.middle: Channelwise = form(*inner)
        self.last = PerIrrep(inner[2].irreps, irreps_out)
        self.irreps_out, self.paths = self.last.irreps_out, self.middle.paths

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(..., dim1) and (..., dim2) to (..., dim)."""
        return self.last(self.middle(self.first(x), self.second(y)))
