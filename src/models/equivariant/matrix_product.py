"""The matrix tensor product: features as matrices on a sum of representations, multiplied as matrices.

Xie et al., "The Price of Freedom", ICML 2025, arXiv 2506.13523, after the fused tensor layers of e3x (Unke and Maennel
2024, arXiv 2401.07595). On V = D_0 + D_1 + ... + D_J, J = ceil((L1 + L2) / 2), of dimension N = (J + 1)^2

    X_{ab} = sum_l w1_l sqrt(2 l + 1) w3j(a, b, l) . x^l,      z^l = w3_l sum_{ab} w3j(a, b, l) : (X Y)_{ab},

one scalar per degree and channel on each side. The product is not commutative: it has the paths with an odd
l1 + l2 + l3 too. It knows nothing of parity: **equivariant under SO(3) only**. O(L^6) operations, all of them in matrix
products.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...ops.angular import triangle, wigner_3j
from ..constants import Constants, Places
from .channels import Channels, channelwise
from .tensor_product import IrrepsLike, Path, TensorProduct, as_irreps


class MatrixProduct(TensorProduct):
    """The product of C channels with C channels or one, see the module; `paths` are those of SO(3).

    Args:
        irreps_in1, irreps_in2: `16x0e + 16x1e`, every degree once, all with one multiplicity; parities are ignored.
        irreps_out: None: all degrees that the product reaches, with the parity e.

    Raises:
        ValueError: irreps that do not match, a degree that occurs with both parities or that no path reaches.
    """

    def __init__(self, irreps_in1: IrrepsLike, irreps_in2: IrrepsLike, irreps_out: IrrepsLike | None = None):
        first, second = Channels(irreps_in1), Channels(irreps_in2)
        highest = (_degrees(first)[-1], _degrees(second)[-1])
        size = -(-sum(highest) // 2)
        if irreps_out is None:
            irreps_out = as_irreps([(first.channels, (l, 1)) for l in range(sum(highest) + 1)])
        out = Channels(irreps_out)
        channelwise(first, second, out)
        _degrees(out)
        bases = [_embedding(layout, size) for layout in (first, second, out)]
        scales, paths = _couplings((first, second, out), bases)
        if missing := [kind[0] for kind in out.kinds if kind not in {path[4:] for path in paths}]:
            raise ValueError(
                f"irreps_out: degree {missing[0]} is not in the product of {first.irreps}, {second.irreps}"
            )
        super().__init__(first.irreps, second.irreps, out.irreps, paths)
        self.layouts = (first, second, out)
        self.tables = Constants(
            {"first": bases[0], "second": bases[1], "out": bases[2] * scales[:, None, None]}
        )
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.ones(len(layout.kinds), layout.channels)) for layout in self.layouts]
        )
        self.places = nn.ModuleList(
            Places([i for i, width in enumerate(layout.widths) for _ in range(width)])
            for layout in self.layouts
        )

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """The product of checked features."""
        first, second, out = self.layouts
        a = self._matrices("first", first.stack(x) * self._spread(0))
        b = self._matrices("second", second.stack(y) * self._spread(1))
        table = self.tables.table("out", a)
        return out.flatten((a @ b).flatten(-2) @ table.flatten(1).mT * self._spread(2))

    def _matrices(self, name: str, x: Tensor) -> Tensor:
        table = self.tables.table(name, x)
        return (x @ table.flatten(1)).unflatten(-1, table.shape[1:])

    def _spread(self, index: int) -> Tensor:
        """Weights of an input or the output, (channels, components)."""
        return self.places[index](self.weights[index]).mT


def _degrees(layout: Channels) -> list[int]:
    degrees = sorted(degree for degree, _ in layout.kinds)
    if len(set(degrees)) < len(degrees):
        raise ValueError(
            f"irreps {layout.irreps}: a matrix product knows no parity, every degree may occur once"
        )
    return degrees


def _embedding(layout: Channels, size: int) -> Tensor:
    """E (components, N, N) with X = sum_k E_k x_k, in float64."""
    starts = [a * a for a in range(size + 2)]
    table = torch.zeros(layout.size, starts[-1], starts[-1], dtype=torch.float64, device="cpu")
    for kind in layout.kinds:
        degree = kind[0]
        for a in range(size + 1):
            for b in range(size + 1):
                if triangle(a, b, degree):
                    block = (2 * degree + 1) ** 0.5 * wigner_3j(a, b, degree).permute(2, 0, 1)
                    table[layout.slice(kind), starts[a] : starts[a + 1], starts[b] : starts[b + 1]] = block
    return table


def _couplings(layouts: Sequence[Channels], bases: Sequence[Tensor]) -> tuple[Tensor, tuple[Path, ...]]:
    """1 / standard deviation of every output component at weights 1, and the paths that are not zero."""
    first, second, out = layouts
    products = torch.einsum("iab,jbc->ijac", bases[0], bases[1]).flatten(2)
    table = products @ bases[2].flatten(1).mT
    paths, variance = [], torch.zeros(out.size, dtype=torch.float64, device="cpu")
    for k1 in first.kinds:
        for k2 in second.kinds:
            for k3 in out.kinds:
                block = table[first.slice(k1), second.slice(k2), out.slice(k3)]
                if (power := float(block.square().sum())) > 1e-18:
                    paths.append((*k1, *k2, *k3))
                    variance[out.slice(k3)] += power / (2 * k3[0] + 1)
    return variance.rsqrt(), tuple(paths)
