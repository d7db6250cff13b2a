"""Elements of the groups that move space and permute nodes, and how tensors change under them.

A group is written `E(3)`, `SO(2)`, `S(n)` or as a product, `E(3) x S(n)`:

| name | moves x to |
|---|---|
| `O(d)`, `SO(d)` | R x with R^T R = I; SO: det R = 1 |
| `E(d)`, `SE(d)` | R x + t |
| `S(n)` | the same x at another node |

How a tensor changes is a `Rep`, or its name: a kind of the last axis (`scalar`, `pseudoscalar`, `vector`,
`pseudovector`, `point`, `matrix` on the last two axes, or irreps as in e3nn, `8x0e+4x1o`) and the axes of the nodes,
by default axis 1; `system ...` has none, `pair ...` has two, 1 and 2.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("scalar", "pseudoscalar", "vector", "pseudovector", "point", "matrix")
_GROUP = re.compile(r"(SO|O|SE|E)\((\d+)\)|S\((n)\)")
_IRREP = re.compile(r"(?:(\d+)x)?(\d+)([eo])")


@dataclass(frozen=True)
class Rep:
    """How a tensor changes: `kind` of its last axis (or axes), and the axes that a permutation of the nodes moves."""

    kind: str
    nodes: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            irreps(self.kind)


@dataclass(frozen=True)
class Group:
    """A product of a group of space (`linear` is O or SO, or None) and the permutations of the nodes."""

    linear: str | None
    dimension: int
    translates: bool
    permutes: bool


@dataclass(frozen=True)
class Element:
    """One element: R (d, d), t (d,), and a permutation of the nodes."""

    rotation: Tensor | None
    translation: Tensor | None
    permutation: Tensor | None


def parse_group(name: str) -> Group:
    """The group of that name.

    Raises:
        ValueError: a name that is none, two groups of space.
    """
    found = [_GROUP.fullmatch(part.strip()) for part in name.split(" x ")]
    spaces = [m for m in found if m and m[1]]
    if not all(found) or len(spaces) > 1 or (spaces and int(spaces[0][2]) < 1):
        raise ValueError(f"group is {name!r}, known are O(d), SO(d), E(d), SE(d), S(n) and 'E(3) x S(n)'")
    permutes = any(m and m[3] for m in found)
    if not spaces:
        return Group(None, 0, False, permutes)
    kind = spaces[0][1]
    return Group("SO" if kind.startswith("S") else "O", int(spaces[0][2]), kind.endswith("E"), permutes)


def parse_rep(name: "str | Rep") -> Rep:
    """The representation of that name.

    Raises:
        ValueError: neither a known kind nor irreps.
    """
    if isinstance(name, Rep):
        return name
    for word, nodes in (("system ", ()), ("pair ", (1, 2))):
        if name.startswith(word):
            return Rep(name.removeprefix(word), nodes)
    return Rep(name)


def irreps(text: str) -> list[tuple[int, int, int]]:
    """(multiplicity, degree, parity) of irreps that are written as in e3nn.

    Raises:
        ValueError: text that is none.
    """
    found = [_IRREP.fullmatch(part.strip()) for part in text.split("+")]
    if not all(found):
        raise ValueError(f"{text!r} is neither one of {', '.join(KINDS)} nor irreps such as 8x0e+4x1o")
    return [(int(m[1] or 1), int(m[2]), 1 if m[3] == "e" else -1) for m in found if m]


def random_orthogonal(dimension: int, generator: torch.Generator, *, proper: bool) -> Tensor:
    """A uniform rotation (`proper`) or orthogonal matrix (d, d), in float64: QR of a normal matrix, signs fixed."""
    normal = torch.randn(dimension, dimension, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(normal)
    q = q * r.diagonal().sign()
    if proper and torch.linalg.det(q) < 0:
        q = torch.cat([-q[:, :1], q[:, 1:]], 1)
    return q


def random_element(group: Group, nodes: int, generator: torch.Generator, *, improper: bool) -> Element:
    """A random element in float64; `improper`: with det R = -1 where the group has such."""
    rotation = translation = permutation = None
    if group.linear:
        rotation = random_orthogonal(group.dimension, generator, proper=True)
        if improper and group.linear == "O":
            rotation = torch.cat([-rotation[:, :1], rotation[:, 1:]], 1)
        if group.translates:
            translation = torch.randn(group.dimension, dtype=torch.float64, generator=generator)
    if group.permutes:
        permutation = torch.randperm(nodes, generator=generator)
    return Element(rotation, translation, permutation)


def act(element: Element, rep: Rep, tensor: Tensor) -> Tensor:
    """The tensor as the element moves it."""
    if element.permutation is not None:
        for axis in rep.nodes:
            tensor = tensor.index_select(axis, element.permutation.to(tensor.device))
    if element.rotation is None or rep.kind == "scalar":
        return tensor
    rotation = element.rotation.to(tensor)
    determinant = torch.linalg.det(element.rotation).sign().to(tensor)
    if rep.kind == "pseudoscalar":
        return tensor * determinant
    if rep.kind == "matrix":
        return rotation @ tensor @ rotation.mT
    if rep.kind not in KINDS:
        return tensor @ irreps_matrix(irreps(rep.kind), element.rotation).to(tensor).mT
    moved = tensor @ rotation.mT
    if rep.kind == "pseudovector":
        return moved * determinant
    return (
        moved
        if rep.kind == "vector" or element.translation is None
        else moved + element.translation.to(tensor)
    )


def irreps_matrix(parts: Sequence[tuple[int, int, int]], rotation: Tensor) -> Tensor:
    """D (dim, dim) of the irreps in the order of e3nn, for an orthogonal matrix (3, 3), in float64."""
    from .sphere import wigner_d

    determinant = torch.linalg.det(rotation).sign()
    blocks = []
    for multiplicity, degree, parity in parts:
        # the representation on functions of the sphere has the parity (-1)^l
        block = wigner_d(degree, rotation * determinant) * (determinant if parity < 0 else 1.0)
        blocks += [block] * multiplicity
    return torch.block_diag(*blocks)
