"""Composites `<G1, ..., Gm>`: states of several blocks, each with its own group and no interaction."""

from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from . import translation
from .generic import Group
from .layout import block_diagonal

Blocks = tuple[Any, ...]  # of tensors, or of tuples where a member is itself a composite


class Composite:
    """The composite of `members`, itself a `Group`: every operation is done block by block.

    An element is a tuple with one element of each member, a point a tuple with one point of each; tangent vectors are
    the members' one after the other, Jacobians block-diagonal.

    Args:
        members: group modules with a fixed dimension, further composites, or an int n for T(n):
            `Composite(se2, se2, 2)` is two poses and a point of the plane.

    Raises:
        ValueError: no members, n below 1, or a member that is neither; of the operations, a tangent vector of another
            dimension, an element or point with another number of blocks.
    """

    def __init__(self, *members: "ModuleType | Composite | int") -> None:
        if not members:
            raise ValueError("members is empty: a composite needs at least one group")
        self.members, self.dims = zip(*map(_member, members), strict=True)
        self.DIM: int = sum(self.dims)

    def exp(self, tau: Float[Tensor, "*batch n"]) -> Blocks:
        return tuple(group.exp(part) for group, part in self._split(tau))

    def log(self, x: Blocks) -> Float[Tensor, "*batch n"]:
        return torch.cat([group.log(part) for group, part in self._pairs(x)], dim=-1)

    def inverse(self, x: Blocks) -> Blocks:
        return tuple(group.inverse(part) for group, part in self._pairs(x))

    def compose(self, x: Blocks, y: Blocks) -> Blocks:
        return tuple(g.compose(a, b) for (g, a), (_, b) in zip(self._pairs(x), self._pairs(y), strict=True))

    def act(self, x: Blocks, p: Blocks) -> Blocks:
        return tuple(g.act(a, b) for (g, a), (_, b) in zip(self._pairs(x), self._pairs(p), strict=True))

    def act_jacobians(self, x: Blocks, p: Blocks) -> tuple[Tensor, Tensor]:
        """Derivatives of the acted-on points, one after the other, by the elements and by the points."""
        found = [g.act_jacobians(a, b) for (g, a), (_, b) in zip(self._pairs(x), self._pairs(p), strict=True)]
        return block_diagonal([by_x for by_x, _ in found]), block_diagonal([by_p for _, by_p in found])

    def adjoint(self, x: Blocks) -> Float[Tensor, "*batch n n"]:
        return block_diagonal([group.adjoint(part) for group, part in self._pairs(x)])

    def small_adjoint(self, tau: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
        return block_diagonal([group.small_adjoint(part) for group, part in self._split(tau)])

    def left_jacobian(self, tau: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
        return block_diagonal([group.left_jacobian(part) for group, part in self._split(tau)])

    def left_jacobian_inverse(self, tau: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
        return block_diagonal([group.left_jacobian_inverse(part) for group, part in self._split(tau)])

    def right_jacobian(self, tau: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
        return self.left_jacobian(-tau)

    def right_jacobian_inverse(self, tau: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
        return self.left_jacobian_inverse(-tau)

    def _split(self, tau: Tensor) -> list[tuple[Group, Tensor]]:
        if tau.shape[-1] != self.DIM:
            raise ValueError(f"tau has {tau.shape[-1]} numbers, the members have {self.DIM} dimensions")
        return list(zip(self.members, tau.split(self.dims, dim=-1), strict=True))

    def _pairs(self, x: Blocks) -> list[tuple[Group, Any]]:
        if len(x) != len(self.members):
            raise ValueError(
                f"there are {len(x)} blocks, one is needed for each of {len(self.members)} members"
            )
        return list(zip(self.members, x, strict=True))


def _member(member: "ModuleType | Composite | int") -> tuple[Group, int]:
    if isinstance(member, int):
        if member < 1:
            raise ValueError(f"members has {member}: the dimension of a translation must be at least 1")
        return translation, member
    if not isinstance(getattr(member, "DIM", None), int):
        raise ValueError(f"members has {member!r}: it must be so2, se2, so3, s3, se3, a Composite or an int")
    return member, member.DIM  # type: ignore[return-value]
