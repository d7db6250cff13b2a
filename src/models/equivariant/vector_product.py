"""The vector spherical tensor product: features as vector fields on the sphere, their cross product at every point.

Xie, Daigavane, Kotak and Smidt, "The Price of Freedom: Exploring Expressivity and Runtime Tradeoffs in Equivariant
Tensor Products", ICML 2025, arXiv 2506.13523. With the vector harmonics Y^{j l} (`eigenzoo.ops.vector_sphere`)

    f(r) = sum_{j l} w1_{j l} x^j . Y^{j l}(r),    g(r) = sum_{j l} w2_{j l} y^j . Y^{j l}(r),
    z^j = sum_l w3_{j l} integral (f x g) . Y^{j l},

by an exact quadrature: a product O(L^3) to O(L^4) as the Gaunt one is, about three times its cost, that has the paths
with an odd l1 + l2 + l3 (1 x 1 -> 1 is the cross product). The one path that it has not, 0 x 0 -> 0, is a product of
scalars beside it. What differs from the paper: polar and axial fields together, so that all parities are served, one
scalar per slot (j, l) and channel, which begins as a random sign (equal signs would cancel whole paths), and the
rescaling of every output to variance 1.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...ops.sphere import SphereGrid, sphere_grid
from ...ops.vector_sphere import cross_factor, slots, vector_harmonics
from ..constants import Constants, Places
from .channels import Channels, channelwise
from .clebsch_gordan import reached
from .tensor_product import IrrepsLike, Path, TensorProduct, allowed_paths, as_irreps, name_of

FIELDS = ("polar", "axial")
CHUNK_BYTES = 2**18


@dataclass(frozen=True)
class Slot:
    """A vector harmonic of degree j = `kind[0]` and order l in a field of one parity."""

    kind: tuple[int, int]
    order: int


class VectorSphericalProduct(TensorProduct):
    """The product of C channels with C channels or one, see the module.

    Args:
        irreps_in1, irreps_in2: `16x0e + 16x1o`, every irrep once, all with one multiplicity.
        irreps_out: None: all irreps that the product reaches.
        fields: `polar`, `axial` or both: as what the inputs are taken. With one of them outputs are axial fields.

    Raises:
        ValueError: irreps that do not match, fields that are none, an irrep that no path reaches.
    """

    def __init__(
        self,
        irreps_in1: IrrepsLike,
        irreps_in2: IrrepsLike,
        irreps_out: IrrepsLike | None = None,
        *,
        fields: Sequence[str] = FIELDS,
    ):
        if not fields or not set(fields) <= set(FIELDS):
            raise ValueError(f"fields is {list(fields)}, must be some of {', '.join(FIELDS)}")
        chosen = tuple(fields)
        first, second = Channels(irreps_in1), Channels(irreps_in2)
        out = Channels(_reached(first, second, chosen) if irreps_out is None else irreps_out)
        channelwise(first, second, out)
        paths = reached_paths((first, second, out), chosen)
        if missing := set(out.kinds) - {path[4:] for path in paths}:
            l, p = min(missing)
            raise ValueError(f"irreps_out: no path of this product reaches {name_of((l, p))}")
        super().__init__(first.irreps, second.irreps, out.irreps, paths)
        self.layouts, self.fields = (first, second, out), chosen
        grid = sphere_grid(_total_degree(self.layouts, chosen))
        self.first = _ToFields(first, chosen, grid)
        self.second = _ToFields(second, chosen, grid)
        self.out = _FromFields(out, _products(chosen), grid)
        scalars = [path for path in paths if path[0] == path[2] == 0]
        self.scalars = nn.Parameter(torch.ones(len(scalars), first.channels)) if scalars else None
        self.scalar_paths = scalars
        self.scales = Constants({"out": self._rescaling()})

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """The product of checked features; on the CPU over rows in chunks whose fields stay in the cache."""
        size = CHUNK_BYTES // (3 * self.first.points * self.layouts[0].channels * x.element_size())
        rows = x.shape[:-1].numel()
        if x.device.type != "cpu" or torch.compiler.is_compiling() or rows <= max(1, size):
            return self._whole(x, y)
        parts = zip(
            x.reshape(rows, -1).split(max(1, size)), y.reshape(rows, -1).split(max(1, size)), strict=True
        )
        return torch.cat([self._whole(*part) for part in parts]).unflatten(0, x.shape[:-1])

    def _whole(self, x: Tensor, y: Tensor) -> Tensor:
        first, second, out = self.layouts
        x, y = first.stack(x), second.stack(y)
        z = self.out(_cross(self.first(x), self.second(y)))
        return out.flatten((z + self._of_scalars(x, y)) * self.scales.get_buffer("out"))

    def _of_scalars(self, x: Tensor, y: Tensor) -> Tensor:
        """The paths 0 x 0 -> 0, in the places of their outputs."""
        first, second, out = self.layouts
        columns = [x.new_zeros(*x.shape[:-1], 1)] * out.size
        for weight, path in zip(
            self.scalars if self.scalars is not None else (), self.scalar_paths, strict=True
        ):
            place = out.offsets[path[4:]]
            term = x[..., first.slice(path[:2])] * y[..., second.slice(path[2:4])] * weight[:, None]
            columns[place] = columns[place] + term
        return torch.cat(columns, -1)

    def _rescaling(self) -> Tensor:
        """1 / standard deviation of the outputs, for inputs of independent components of variance 1.

        In the mean over the random signs with which the weights begin, sum of c^2 / (2 j + 1) over triples of slots.
        """
        out = self.layouts[2]
        variance = dict.fromkeys(out.kinds, 0.0)
        for path in self.paths:
            total = sum(factor**2 for factor in path_factors(path, self.layouts, self.fields))
            variance[path[4:]] += total / (2 * path[4] + 1) + (path in self.scalar_paths)
        values = [variance[kind] ** -0.5 for kind in out.kinds for _ in range(2 * kind[0] + 1)]
        return torch.tensor(values, dtype=torch.float64, device="cpu")


def field_slots(layout: Channels, field: str) -> list[Slot]:
    """The slots of a layout's irreps in a field: (-1)^(l + 1) is the parity in a polar one, (-1)^l in an axial one."""
    shift = 1 if field == "polar" else 0
    return [
        Slot(kind, order)
        for kind in layout.kinds
        for order in slots(kind[0])
        if (-1) ** (order + shift) == kind[1]
    ]


def reached_paths(layouts: Sequence[Channels], fields: Sequence[str]) -> tuple[Path, ...]:
    """The allowed paths that some cross product of slots contains, and 0 x 0 -> 0."""
    return tuple(
        path
        for path in allowed_paths(*(layout.irreps for layout in layouts))
        if path[::2] == (0, 0, 0) or any(path_factors(path, layouts, fields))
    )


def _reached(first: Channels, second: Channels, fields: Sequence[str]) -> IrrepsLike:
    """The irreps of the full product that some path reaches."""
    every = Channels(reached(first, second))
    kinds = {path[4:] for path in reached_paths((first, second, every), fields)}
    return as_irreps([(first.channels, kind) for kind in every.kinds if kind in kinds])


def path_factors(path: Path, layouts: Sequence[Channels], fields: Sequence[str]) -> Iterator[float]:
    """|c| of every triple of slots that a path may take."""
    kinds = (path[:2], path[2:4], path[4:])
    for names in _pairs(fields):
        chosen = [
            [slot.order for slot in field_slots(layout, name) if slot.kind == kind]
            for layout, name, kind in zip(layouts, names, kinds, strict=True)
        ]
        for l1, l2, l3 in itertools.product(*chosen):
            yield cross_factor((path[0], path[2], path[4]), (l1, l2, l3))


def _pairs(fields: Sequence[str]) -> list[tuple[str, str, str]]:
    """(first, second, their cross product) of fields."""
    return [(a, b, "axial" if a == b else "polar") for a in fields for b in fields]


def _products(fields: Sequence[str]) -> list[str]:
    return sorted({product for _, _, product in _pairs(fields)})


def _total_degree(layouts: Sequence[Channels], fields: Sequence[str]) -> int:
    kinds = (fields, fields, _products(fields))
    return sum(
        max((slot.order for field in names for slot in field_slots(layout, field)), default=0)
        for layout, names in zip(layouts, kinds, strict=True)
    )


def _cross(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cross products of fields (..., 3 points), all x before all y before all z, by the parity of the result."""
    found: dict[str, Tensor] = {}
    for one, f in first.items():
        for two, g in second.items():
            name = "axial" if one == two else "polar"
            (a, b, c), (d, e, h) = f.chunk(3, -1), g.chunk(3, -1)
            product = torch.cat([b * h - c * e, c * d - a * h, a * e - b * d], -1)
            found[name] = found[name] + product if name in found else product
    return found


class _Fields(nn.Module):
    """The slots of a layout in some fields, with a weight for each and channel."""

    def __init__(self, layout: Channels, fields: Sequence[str], grid: SphereGrid):
        super().__init__()
        self.points = len(grid.points)
        found = {field: field_slots(layout, field) for field in fields}
        self.slots = {field: chosen for field, chosen in found.items() if chosen}
        parts = {field: _tables(layout, chosen, grid) for field, chosen in self.slots.items()}
        self.tables = Constants(
            {f"{field}{i}": t for field, (tables, _) in parts.items() for i, t in enumerate(tables)}
        )
        self.places = nn.ModuleDict(
            {
                f"{field}{i}": Places(rows)
                for field, (_, places) in parts.items()
                for i, rows in enumerate(places)
            }
        )
        self.weights = nn.ParameterDict(
            {
                field: nn.Parameter(torch.randn(len(chosen), layout.channels).sign())
                for field, chosen in self.slots.items()
            }
        )

    def table(self, field: str, like: Tensor) -> Tensor:
        """What one unit of every component is as a field: (channels, components, 3 points)."""
        names = [name for name in self.places if name[:-1] == field]
        parts = [
            self.places[name](self.weights[field]).mT.unsqueeze(-1) * self.tables.table(name, like)
            for name in names
        ]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


class _ToFields(_Fields):
    """Features (..., C, components) to fields (..., C, 3 points)."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {field: _per_channel(x, self.table(field, x)) for field in self.slots}


class _FromFields(_Fields):
    """Fields (..., C, 3 points) to features (..., C, components)."""

    def __init__(self, layout: Channels, fields: Sequence[str], grid: SphereGrid):
        super().__init__(layout, fields, grid)
        self.quadrature = Constants({"weights": grid.weights.repeat(3)})

    def forward(self, fields: dict[str, Tensor]) -> Tensor | float:
        total = 0.0  # of scalars alone there may be no field to expand
        for field in filter(fields.__contains__, self.slots):
            f = fields[field]
            table = self.table(field, f) * self.quadrature.table("weights", f)
            total = total + _per_channel(f, table.mT)
        return total


def _per_channel(x: Tensor, tables: Tensor) -> Tensor:
    """(..., C, n) with a matrix (n, m) per channel to (..., C, m)."""
    if tables.shape[0] == 1:
        return x @ tables[0]
    return (x.movedim(-2, 0).flatten(1, -2) @ tables).unflatten(1, x.shape[:-2]).movedim(0, -2)


def _tables(
    layout: Channels, chosen: Sequence[Slot], grid: SphereGrid
) -> tuple[list[Tensor], list[list[int]]]:
    """Vector harmonics of the one or two slots that an irrep has in a field, (components, 3 points), zero where it has
    none, and the slot that belongs to each component (any where there is none).
    """
    tables, places = [], []
    for turn in range(2):
        of_turn = {}
        for index, slot in enumerate(chosen):
            earlier = sum(other.kind == slot.kind for other in chosen[:index])
            if earlier == turn:
                of_turn[slot.kind] = index
        if of_turn:
            table = torch.zeros(layout.size, 3 * len(grid.points), dtype=torch.float64, device="cpu")
            for kind, index in of_turn.items():
                field = vector_harmonics(kind[0], chosen[index].order, grid.points)
                table[layout.slice(kind)] = field.permute(1, 2, 0).flatten(1)
            tables.append(table)
            places.append([of_turn.get(kind, 0) for kind in layout.kinds for _ in range(2 * kind[0] + 1)])
    return tables, places
