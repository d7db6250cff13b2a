"""Small matrices from their entries and blocks, batched."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def matrix(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """(..., m, n) of m rows of n entries, each (...)."""
    return torch.stack([entry for row in rows for entry in row], dim=-1).unflatten(
        -1, (len(rows), len(rows[0]))
    )


def eye(size: int, like: Tensor) -> Float[Tensor, "*batch n n"]:
    """The identity for each tangent vector of `like` (..., tangent)."""
    unit = torch.eye(size, dtype=like.dtype, device=like.device)
    return unit.expand(*like.shape[:-1], size, size)


def upper(
    a: Float[Tensor, "*batch m m"], b: Float[Tensor, "*batch m n"], d: Float[Tensor, "*batch n n"]
) -> Float[Tensor, "*batch k k"]:
    """`[[a, b], [0, d]]`."""
    return torch.cat([torch.cat([a, b], dim=-1), F.pad(d, (a.shape[-1], 0))], dim=-2)


def homogeneous(
    rotation: Float[Tensor, "*batch n n"], translation: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch k k"]:
    """`[[R, t], [0, 1]]`."""
    top = torch.cat([rotation, translation.unsqueeze(-1)], dim=-1)
    last = F.pad(torch.zeros_like(translation), (0, 1), value=1.0)
    return torch.cat([top, last.unsqueeze(-2)], dim=-2)


def parts(
    x: Float[Tensor, "*batch k k"],
) -> tuple[Float[Tensor, "*batch n n"], Float[Tensor, "*batch n"]]:
    """Rotation and translation of a homogeneous matrix."""
    return x[..., :-1, :-1], x[..., :-1, -1]


def apply(m: Float[Tensor, "*#batch m n"], v: Float[Tensor, "*#batch n"]) -> Float[Tensor, "*batch m"]:
    """Matrix times vector, with broadcasting."""
    return (m @ v.unsqueeze(-1)).squeeze(-1)


def cross(u: Float[Tensor, "*#batch 3"], v: Float[Tensor, "*#batch 3"]) -> Float[Tensor, "*batch 3"]:
    """`u x v`, with broadcasting."""
    return torch.linalg.cross(*torch.broadcast_tensors(u, v))


def block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    """(..., sum m, sum n) of blocks (..., m, n)."""
    width, left, rows = sum(block.shape[-1] for block in blocks), 0, []
    for block in blocks:
        rows.append(F.pad(block, (left, width - left - block.shape[-1])))
        left += block.shape[-1]
    return torch.cat(rows, dim=-2)
