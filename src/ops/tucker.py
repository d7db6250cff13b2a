"""Tucker products: a core with one thin matrix per axis, and the decomposition of a tensor into them.

    X[k_1 .. k_n] = sum_{r_1 .. r_n} G[r_1 .. r_n] prod_j P_j[k_j, r_j]

De Lathauwer, De Moor and Vandewalle, "A multilinear singular value decomposition", SIAM Journal on Matrix Analysis and
Applications 21 (2000).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def unfolding(x: Float[Tensor, "*shape"], axis: int) -> Float[Tensor, "length rest"]:
    """The matrix whose rows are the slices of x along `axis`; the other axes keep their order."""
    return x.movedim(axis, 0).flatten(1) if x.ndim > 1 else x.unsqueeze(1)


def mode_product(
    x: Float[Tensor, "*shape"], matrix: Float[Tensor, "rows columns"], axis: int
) -> Float[Tensor, "*result"]:
    """`x ×_axis matrix`: every fibre of x along `axis` (of length `columns`) is multiplied by the matrix."""
    return (x.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)


def tucker_product(
    core: Float[Tensor, "*ranks"], factors: Sequence[Float[Tensor, "_ _"]]
) -> Float[Tensor, "*shape"]:
    """The tensor of core and factors, the last axis contracted first: put long axes first where speed matters.

    Raises:
        ValueError: another number of factors than axes.
    """
    if len(factors) != core.ndim:
        raise ValueError(f"{len(factors)} factors for a core of {core.ndim} axes: one per axis is needed")
    for axis in reversed(range(core.ndim)):
        core = mode_product(core, factors[axis], axis)
    return core


def hosvd(
    x: Float[Tensor, "*shape"], ranks: Sequence[int]
) -> tuple[Float[Tensor, "*ranks"], list[Float[Tensor, "_ _"]]]:
    """Core and factors with orthonormal columns: the leading left singular vectors of every unfolding.

    Exact where each rank is at least that of the unfolding; otherwise within sqrt(n) of the best error.

    Raises:
        ValueError: another number of ranks than axes, or a rank outside 1 .. the axis' length.
    """
    if len(ranks) != x.ndim:
        raise ValueError(f"{len(ranks)} ranks for a tensor of {x.ndim} axes: one per axis is needed")
    for axis, (rank, length) in enumerate(zip(ranks, x.shape, strict=True)):
        if not 1 <= rank <= length:
            raise ValueError(f"ranks[{axis}]={rank}: must be in 1 .. {length}, the length of the axis")
    factors = [_leading_vectors(unfolding(x, axis), rank) for axis, rank in enumerate(ranks)]
    for axis, factor in enumerate(factors):
        x = mode_product(x, factor.mT, axis)
    return x, factors


def _leading_vectors(matrix: Float[Tensor, "rows columns"], rank: int) -> Float[Tensor, "rows rank"]:
    """Left singular vectors, through a QR of the transpose: unfoldings are short and wide."""
    triangle = torch.linalg.qr(matrix.mT, mode="r").R.mT
    return torch.linalg.svd(triangle, full_matrices=True).U[:, :rank]
