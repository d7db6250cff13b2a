"""What bilinear equivariant products of features share: their irreps, their paths, the paths that they lack.

Irreps are those of e3nn: `16x0e + 16x1o` lists features by multiplicity, degree and parity, in this order in memory.
A path (l1, p1, l2, p2, l3, p3) couples degree l1 of the first input and l2 of the second into degree l3; it exists
where |l1 - l2| <= l3 <= l1 + l2 and p3 = p1 p2.
"""

from collections.abc import Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

IrrepsLike = Any  # an `o3.Irreps`, or what makes one: "16x0e + 16x1o"
Kind = tuple[int, int]  # degree and parity
Path = tuple[int, int, int, int, int, int]


class TensorProduct(nn.Module):
    """A bilinear map of features `irreps_in1` and `irreps_in2` to `irreps_out`, equivariant under O(3).

    Subclasses write `product`.

    Attributes:
        irreps_in1, irreps_in2, irreps_out: `o3.Irreps`.
        paths: the (l1, p1, l2, p2, l3, p3) that the product has.
    """

    def __init__(
        self, irreps_in1: IrrepsLike, irreps_in2: IrrepsLike, irreps_out: IrrepsLike, paths: Iterable[Path]
    ):
        super().__init__()
        self.irreps_in1, self.irreps_in2, self.irreps_out = map(
            as_irreps, (irreps_in1, irreps_in2, irreps_out)
        )
        self.paths: tuple[Path, ...] = tuple(paths)
        self._sizes = (self.irreps_in1.dim, self.irreps_in2.dim)

    @property
    def missing_paths(self) -> tuple[Path, ...]:
        """The paths between these irreps that the full product has, as e3nn's modules do, and this one has not."""
        full = allowed_paths(self.irreps_in1, self.irreps_in2, self.irreps_out)
        return tuple(path for path in full if path not in set(self.paths))

    def forward(
        self, x: Float[Tensor, "*batch dim1"], y: Float[Tensor, "*batch dim2"]
    ) -> Float[Tensor, "*batch dim"]:
        """The product of features of equal leading axes.

        Raises:
            ValueError: features of another size than the irreps have, or leading axes that differ.
        """
        for name, features, size in zip(("first", "second"), (x, y), self._sizes, strict=True):
            if features.shape[-1] != size:
                raise ValueError(
                    f"the {name} input has {features.shape[-1]} features, its irreps have {size}"
                )
        if x.shape[:-1] != y.shape[:-1]:
            raise ValueError(
                f"the inputs have the leading axes {tuple(x.shape[:-1])} and {tuple(y.shape[:-1])}, they must be equal"
            )
        return self.product(x, y)

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """The product of checked features."""
        raise NotImplementedError


def as_irreps(irreps: IrrepsLike) -> Any:
    """An `o3.Irreps` of what may be a text.

    Raises:
        ValueError: what e3nn cannot read.
    """
    from e3nn import o3

    try:
        return o3.Irreps(irreps)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"irreps {irreps!r}: not of the form '16x0e + 16x1o'") from error


def kinds(irreps: IrrepsLike) -> list[Kind]:
    """The (degree, parity) that irreps have, in order, each once."""
    return list(dict.fromkeys((part.ir.l, part.ir.p) for part in irreps if part.mul))


def reached_kinds(irreps_in1: IrrepsLike, irreps_in2: IrrepsLike) -> list[Kind]:
    """The (l3, p3) in the product of irreps by any path; by degree, even parity first."""
    found = {
        (l3, p1 * p2)
        for l1, p1 in kinds(irreps_in1)
        for l2, p2 in kinds(irreps_in2)
        for l3 in range(abs(l1 - l2), l1 + l2 + 1)
    }
    return sorted(found, key=lambda kind: (kind[0], -kind[1]))


def name_of(kind: Kind) -> str:
    """As e3nn writes it: `1o`."""
    return f"{kind[0]}{'e' if kind[1] == 1 else 'o'}"


def allowed_paths(irreps_in1: IrrepsLike, irreps_in2: IrrepsLike, irreps_out: IrrepsLike) -> tuple[Path, ...]:
    """All (l1, p1, l2, p2, l3, p3) between irreps that equivariance allows."""
    return tuple(
        (l1, p1, l2, p2, l3, p3)
        for l1, p1 in kinds(irreps_in1)
        for l2, p2 in kinds(irreps_in2)
        for l3, p3 in kinds(irreps_out)
        if abs(l1 - l2) <= l3 <= l1 + l2 and p3 == p1 * p2
    )
