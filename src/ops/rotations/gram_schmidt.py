"""Rotations of n dimensions from n - 1 columns by Gram-Schmidt, and with up to n - 2 numbers less.

Zhou, Barnes, Lu, Yang, Li, "On the Continuity of Rotation Representations in Neural Networks", CVPR 2019, arXiv
1812.07035, sections 4.1 and 4.2. Numbers are those of the first n - 1 *columns*, one column after the other, R acting
on column vectors; libraries that orthogonalise the first two rows give the transposed matrix for the same six numbers.
"""

import functools
import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..lie.checks import check_rotation
from .vectors import SHORTEST, check_last, length, unit

PARALLEL = 8.0  # in units of the type's resolution: a shorter rest of a unit column is rounding noise


def gram_schmidt(x: Float[Tensor, "*batch numbers"], n: int = 3) -> Float[Tensor, "*batch n n"]:
    """The map f from n(n-1) numbers, the columns a_1, .., a_(n-1), to SO(n).

    `b_i = N(a_i - sum_(j<i) (b_j . a_i) b_j)`, N(v) = v/|v|, and b_n the generalised cross product of the others.

    A column that is shorter than 1e-8, or that depends on its predecessors up to rounding, has no direction: b_i is
    then built from the axis that its predecessors cover least, which is a constant to the gradient. The result is a
    rotation for every finite input.

    Raises:
        ValueError: n below 2, or another number of numbers.
    """
    if n < 2:
        raise ValueError(f"n={n}: must be at least 2")
    check_last("the representation", x, n * (n - 1))
    columns = x.unflatten(-1, (n - 1, n)).unbind(-2)
    first, present = unit(columns[0])
    axes = torch.eye(n, dtype=x.dtype, device=x.device)
    basis = torch.where(present, first, axes[0]).unsqueeze(-1)
    for column in columns[1:]:
        basis = torch.cat([basis, _next(column, basis, axes).unsqueeze(-1)], -1)
    return torch.cat([basis, cross(basis).unsqueeze(-1)], -1)


def _next(column: Tensor, basis: Tensor, axes: Tensor) -> Tensor:
    """The part of the column that is perpendicular to the basis, as a unit vector, or the fallback."""
    rest = _perpendicular(unit(column)[0], basis)
    absent = length(rest.detach()) <= PARALLEL * torch.finfo(column.dtype).eps
    spare = axes[basis.detach().square().sum(-1).argmin(-1)]
    rest = unit(torch.where(absent, _perpendicular(spare, basis.detach()), rest))[0]
    # Once more: of a short rest, rounding has left a part along the basis.
    return unit(_perpendicular(rest, basis))[0]


def _perpendicular(v: Tensor, basis: Tensor) -> Tensor:
    return v - (basis @ (basis.mT @ v.unsqueeze(-1))).squeeze(-1)


def cross(columns: Float[Tensor, "*batch n n-1"]) -> Float[Tensor, "*batch n"]:
    """The generalised cross product: v with `det[columns, w] = v . w` for every w.

    By exterior products, polynomials in the entries, so that the derivative exists everywhere.
    """
    n = columns.shape[-2]
    if n == 3:
        return torch.linalg.cross(columns[..., 0], columns[..., 1])
    form = columns[..., 0]
    for degree in range(2, n):
        before, factor, sign = _wedge(n, degree)
        signs = torch.tensor(sign, dtype=form.dtype, device=form.device)
        form = (form[..., before] * columns[..., degree - 1][..., factor] * signs).sum(-1)
    # The subset without axis i stands, in order, at the place n - 1 - i.
    odd = torch.arange(n - 1, -1, -1, device=form.device) % 2
    return form.flip(-1) * (1 - 2 * odd)


@functools.lru_cache
def _wedge(n: int, degree: int) -> tuple[list[list[int]], list[list[int]], list[list[float]]]:
    """Of every subset of `degree` axes, its terms: the place of the subset without one axis, that axis, the sign."""
    place = {subset: number for number, subset in enumerate(itertools.combinations(range(n), degree - 1))}
    subsets = list(itertools.combinations(range(n), degree))
    before = [[place[s[:p] + s[p + 1 :]] for p in range(degree)] for s in subsets]
    sign = [[(-1.0) ** (degree - 1 - p) for p in range(degree)] for _ in subsets]
    return before, [list(s) for s in subsets], sign


def columns_of(matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch numbers"]:
    """The right inverse g of `gram_schmidt`: the matrix without its last column. ValueError: not a rotation."""
    check_rotation(matrix, None)
    return matrix[..., :-1].mT.flatten(-2)


def reduced_gram_schmidt(
    x: Float[Tensor, "*batch numbers"], n: int = 3, steps: int = 1
) -> Float[Tensor, "*batch n n"]:
    """The map f from n(n-1) - k numbers to SO(n), k = `steps` <= n - 2; n = 3, k = 1 is the 5-D representation.

    Step j stores column a_(j+2) and the component r_j = n-1-j of the first column in n numbers: the point
    `(a_1[r_j], a_(j+2))`, whose norm lies in [1, sqrt 2], is moved to the sphere and projected from (1, 0, .., 0),
    which it never comes near. The numbers are the first n - k components of a_1, the k projected columns (each divided
    by sqrt 2 + 1, in row r_j by sqrt 2), the columns that are left. For n = 3 these are the numbers of the paper's
    released code; the choice of components for n > 3 is ours.

    A projected column shorter than 1e-8 counts as a missing one, see `gram_schmidt`.

    Raises:
        ValueError: steps out of 1 .. n - 2, or another number of numbers.
    """
    _check_steps(n, steps)
    check_last("the representation", x, n * (n - 1) - steps)
    kept = n - steps
    projected = x[..., kept : kept + n * steps].unflatten(-1, (steps, n)) * _scales(x, n, steps)
    direction, present = unit(projected)
    far = torch.where(present, length(projected), SHORTEST)
    component = ((far - far.reciprocal()) / 2).squeeze(-1)
    columns = [x[..., :kept], component.flip(-1), direction.flatten(-2), x[..., kept + n * steps :]]
    return gram_schmidt(torch.cat(columns, -1), n)


def reduced_columns_of(
    matrix: Float[Tensor, "*batch n n"], steps: int = 1
) -> Float[Tensor, "*batch numbers"]:
    """The right inverse g of `reduced_gram_schmidt`. ValueError: not a rotation, steps out of 1 .. n - 2."""
    check_rotation(matrix, None)
    n = matrix.shape[-1]
    _check_steps(n, steps)
    columns, kept = matrix[..., :-1].mT, n - steps
    point = torch.cat([columns[..., 0, kept:].flip(-1).unsqueeze(-1), columns[..., 1 : steps + 1, :]], -1)
    point = point * point.square().sum(-1, keepdim=True).rsqrt()
    projected = point[..., 1:] / (1 - point[..., :1]) / _scales(matrix, n, steps)
    rest = columns[..., steps + 1 :, :].flatten(-2)
    return torch.cat([columns[..., 0, :kept], projected.flatten(-2), rest], -1)


def _check_steps(n: int, steps: int) -> None:
    if not 1 <= steps <= n - 2:
        raise ValueError(f"steps={steps}: must be in 1 .. n - 2, n={n}")


def _scales(like: Tensor, n: int, steps: int) -> Tensor:
    """What a projected column is multiplied by, (steps, n)."""
    row = torch.arange(n, device=like.device)
    return math.sqrt(2) + (row != n - 1 - row[:steps, None]).to(like.dtype)
