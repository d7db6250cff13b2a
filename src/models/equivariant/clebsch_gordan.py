"""The Clebsch-Gordan tensor product, channel by channel, with one weight per path and channel.

    z^{l3}_c = sum over paths (l1, l2) of  w_{path, c} sqrt((2 l3 + 1) / P_{l3})  w3j(l1, l2, l3) : x^{l1}_c y^{l2}_c

with P_{l3} the number of paths into l3, so that inputs of independent components of variance 1 give such outputs at
w = 1: what e3nn's `TensorProduct` computes with `irrep_normalization="component"`, `path_normalization="element"`.
It has every path that equivariance allows, O(L^6) operations when all degrees to L meet.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...ops.angular import wigner_3j
from ..arguments import check_choice
from ..constants import Constants, Places
from .channels import Channels, channelwise
from .tensor_product import IrrepsLike, Path, TensorProduct, allowed_paths, as_irreps, name_of, reached_kinds

BACKENDS = ("dense", "e3nn")


class ClebschGordanProduct(TensorProduct):
    """The product of C channels with C channels or one, see the module.

    Args:
        irreps_in1, irreps_in2: `16x0e + 16x1o`, every irrep once, all with one multiplicity.
        irreps_out: None: all irreps that the product reaches.
        paths: (l1, p1, l2, p2, l3, p3); None: all that are allowed.
        backend: `dense` (our own, by matrix products) or `e3nn` (its `TensorProduct`); the same function.

    Raises:
        ValueError: irreps that do not match, a path that equivariance does not allow.
    """

    def __init__(
        self,
        irreps_in1: IrrepsLike,
        irreps_in2: IrrepsLike,
        irreps_out: IrrepsLike | None = None,
        *,
        paths: Sequence[Path] | None = None,
        backend: str = "dense",
    ):
        check_choice("backend", backend, BACKENDS)
        first, second = Channels(irreps_in1), Channels(irreps_in2)
        out = Channels(reached(first, second) if irreps_out is None else irreps_out)
        channelwise(first, second, out)
        chosen = chosen_paths(first, second, out, paths)
        super().__init__(first.irreps, second.irreps, out.irreps, chosen)
        self.layouts = (first, second, out)
        self.weight = nn.Parameter(torch.ones(len(chosen), first.channels))
        shared = second.channels == 1 < first.channels
        self.backend = _Wrapped(self) if backend == "e3nn" else (_Shared if shared else _Pairwise)(self)

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """The product of checked features."""
        return self.backend(x, y, self.weight)


def reached(first: Channels, second: Channels) -> IrrepsLike:
    """C of every irrep in the product of two layouts, by degree."""
    return as_irreps([(first.channels, kind) for kind in reached_kinds(first.irreps, second.irreps)])


def chosen_paths(
    first: Channels, second: Channels, out: Channels, paths: Sequence[Path] | None
) -> tuple[Path, ...]:
    """The paths asked for, or all.

    Raises:
        ValueError: a path that is not between these irreps or that equivariance does not allow; none at all; an irrep
            of the output that none reaches.
    """
    allowed = allowed_paths(first.irreps, second.irreps, out.irreps)
    wanted = allowed if paths is None else tuple(tuple(path) for path in paths)
    if wrong := [path for path in wanted if path not in allowed]:
        raise ValueError(f"path {wrong[0]}: not between {first.irreps} and {second.irreps} into {out.irreps}")
    if not wanted:
        raise ValueError(f"no path from {first.irreps} and {second.irreps} into {out.irreps}")
    if lost := [kind for kind in out.kinds if kind not in {path[4:] for path in allowed}]:
        raise ValueError(
            f"irreps_out has {name_of(lost[0])}, which no path from {first.irreps} and {second.irreps} reaches"
        )
    return wanted  # pyright: ignore[reportReturnType]


def path_scale(path: Path, paths: Sequence[Path]) -> float:
    """sqrt((2 l3 + 1) / P_{l3}) of a path among all."""
    into = sum(other[4:] == path[4:] for other in paths)
    return ((2 * path[4] + 1) / into) ** 0.5


class _Shared(nn.Module):
    """For a y that all channels share: y with the table of coefficients, then x, two matrix products for all paths."""

    def __init__(self, owner: ClebschGordanProduct):
        super().__init__()
        first, second, _ = self.layouts = owner.layouts
        columns = sum(2 * path[4] + 1 for path in owner.paths)
        table = torch.zeros(second.size, first.size, columns, dtype=torch.float64, device="cpu")
        start = 0
        for path in owner.paths:
            width = 2 * path[4] + 1
            block = path_scale(path, owner.paths) * wigner_3j(path[0], path[2], path[4])
            places = (second.slice(path[2:4]), first.slice(path[:2]), slice(start, start + width))
            table[places] = block.transpose(0, 1)
            start += width
        self.tables = Constants({"couplings": table})
        self.gather = _Gather(owner)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        first, second, _ = self.layouts
        x, y = first.stack(x), second.stack(y).squeeze(-2)
        table = self.tables.get_buffer("couplings")
        partial = (y @ table.flatten(1)).unflatten(-1, table.shape[1:])  # (..., in1, columns)
        return self.gather(x @ partial, weight)


class _Pairwise(nn.Module):
    """For channels of their own in both inputs: x^{l1} y^{l2}, one matrix product for every pair of irreps.

    The tables of all pairs together have (sum (2l + 1)^2)^2 entries where one of all paths would have (L + 1)^4 times
    as many columns as there are paths.
    """

    def __init__(self, owner: ClebschGordanProduct):
        super().__init__()
        self.layouts = owner.layouts
        self.pairs = list(dict.fromkeys(path[:4] for path in owner.paths))
        tables = {str(i): self._table(owner, pair) for i, pair in enumerate(self.pairs)}
        self.tables = Constants({f"couplings{i}": table for i, table in tables.items()})
        ordered = [path for pair in self.pairs for path in owner.paths if path[:4] == pair]
        self.gather = _Gather(owner, ordered)

    @staticmethod
    def _table(owner: ClebschGordanProduct, pair: tuple[int, ...]) -> Tensor:
        """(components of both, columns of the paths of a pair)."""
        blocks = [
            path_scale(path, owner.paths) * wigner_3j(path[0], path[2], path[4])
            for path in owner.paths
            if path[:4] == pair
        ]
        return torch.cat(blocks, -1).flatten(0, 1)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        first, second, _ = self.layouts
        x, y = first.stack(x), second.stack(y)
        terms = []
        for index, pair in enumerate(self.pairs):
            outer = x[..., first.slice(pair[:2]), None] * y[..., None, second.slice(pair[2:])]
            terms.append(outer.flatten(-2) @ self.tables.get_buffer(f"couplings{index}"))
        return self.gather(torch.cat(terms, -1), weight)


class _Gather(nn.Module):
    """The outputs of all paths times their weights, summed into the irreps that go out.

    Args:
        owner: the product.
        paths: in the order of the columns; None: the owner's.
    """

    def __init__(self, owner: ClebschGordanProduct, paths: Sequence[Path] | None = None):
        super().__init__()
        self.out = owner.layouts[2]
        of_path, of_component = [], []
        for path in owner.paths if paths is None else paths:
            of_path += [owner.paths.index(path)] * (2 * path[4] + 1)
            of_component += list(range(self.out.size))[self.out.slice(path[4:])]
        assemble = torch.zeros(len(of_path), self.out.size, dtype=torch.float64, device="cpu")
        assemble[range(len(of_path)), of_component] = 1
        self.tables = Constants({"assemble": assemble})
        self.of_path = Places(of_path)

    def forward(self, terms: Tensor, weight: Tensor) -> Tensor:
        """(..., C, columns) to features."""
        return self.out.flatten((terms * self.of_path(weight).mT) @ self.tables.get_buffer("assemble"))


class _Wrapped(nn.Module):
    """e3nn's own module with the same weights. Its tables keep the precision in which it is made."""

    def __init__(self, owner: ClebschGordanProduct):
        super().__init__()
        from e3nn import o3

        first, second = owner.layouts[:2]
        mode = "uvu" if second.channels == 1 < first.channels else "uuu"
        where = [{kind: i for i, kind in enumerate(layout.kinds)} for layout in owner.layouts]
        instructions = [
            (where[0][path[:2]], where[1][path[2:4]], where[2][path[4:]], mode, True) for path in owner.paths
        ]
        self.module = o3.TensorProduct(
            owner.irreps_in1, owner.irreps_in2, owner.irreps_out, instructions,
            irrep_normalization="component", path_normalization="element",
            internal_weights=False, shared_weights=True,
        )  # fmt: skip
        for part in self.module.modules():
            # tables follow from the irreps, so that both backends have one state dict
            part._non_persistent_buffers_set.update(part._buffers)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return self.module(x, y, weight.flatten())
