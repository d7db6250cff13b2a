"""Representations of rotations by real numbers: maps to matrices, f, and right inverses, g, with f(g(R)) = R.

All are batched over leading axes, differentiable, and follow the type of their input; R acts on column vectors. Each
f gives a rotation for every finite input: degenerate ones, where no direction is defined, have a documented fallback
and a finite gradient. Each g raises ValueError for a matrix that is not a rotation, naming the first (not in compiled
graphs).

| name | numbers | continuous g | map |
|---|---|---|---|
| `6d` | 6 | yes | Gram-Schmidt on two columns |
| `5d` | 5 | yes | the same, one number less by a stereographic projection |
| `svd` | 9 | yes | the nearest rotation |
| `symmetric` | 10 | yes | the lowest eigenvector of a symmetric matrix as a quaternion |
| `quaternion`, `half_quaternion` | 4 | no | normalised; g has w >= 0, or z >= 0 |
| `axis_angle` | 4 | no | pi tanh x_0 about the normalised rest |
| `rotation_vector` | 3 | no | exponential |
| `euler` | 3 | no | R_x(e_0) R_z(e_2) R_y(e_1) |
| `hopf` | 3 | no | three angles of the quaternion's sphere |

The formulas of quaternions and rotation vectors are those of `ops.lie.so3`, which has rotations at random, too
(`so3.random`). SO(n) for n >= 2 has `gram_schmidt` (n = 2: the normalised cosine and sine), `reduced_gram_schmidt` and
`special_orthogonalise`.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ..lie.checks import check_rotation
from .angles import geodesic_distance
from .euler import ORDERS, angles_to_matrix, euler_to_matrix, matrix_to_angles, matrix_to_euler
from .gram_schmidt import columns_of, cross, gram_schmidt, reduced_columns_of, reduced_gram_schmidt
from .kinematics import OFFSETS, PARENTS, check_parents, forward_kinematics
from .projections import (
    matrix_to_svd,
    matrix_to_symmetric,
    special_orthogonalise,
    svd_to_matrix,
    symmetric_to_matrix,
)
from .quaternions import (
    axis_angle_to_matrix,
    hopf_to_matrix,
    matrix_to_axis_angle,
    matrix_to_half_quaternion,
    matrix_to_hopf,
    matrix_to_quaternion,
    matrix_to_rotation_vector,
    quaternion_to_matrix,
    rotation_vector_to_matrix,
)

__all__ = [
    "OFFSETS",
    "ORDERS",
    "PARENTS",
    "REPRESENTATIONS",
    "Representation",
    "angles_to_matrix",
    "axis_angle_to_matrix",
    "check_parents",
    "check_rotation",
    "columns_of",
    "convert",
    "cross",
    "euler_to_matrix",
    "forward_kinematics",
    "geodesic_distance",
    "get_representation",
    "gram_schmidt",
    "hopf_to_matrix",
    "matrix_to_angles",
    "matrix_to_axis_angle",
    "matrix_to_euler",
    "matrix_to_half_quaternion",
    "matrix_to_hopf",
    "matrix_to_quaternion",
    "matrix_to_rotation_vector",
    "matrix_to_svd",
    "matrix_to_symmetric",
    "quaternion_to_matrix",
    "reduced_columns_of",
    "reduced_gram_schmidt",
    "rotation_vector_to_matrix",
    "special_orthogonalise",
    "svd_to_matrix",
    "symmetric_to_matrix",
]


class Representation(NamedTuple):
    """D, f: (*batch, D) -> (*batch, 3, 3), and g back."""

    dim: int
    to_matrix: Callable[[Tensor], Tensor]
    from_matrix: Callable[[Tensor], Tensor]


REPRESENTATIONS: Mapping[str, Representation] = {
    "6d": Representation(6, gram_schmidt, columns_of),
    "5d": Representation(5, reduced_gram_schmidt, reduced_columns_of),
    "svd": Representation(9, svd_to_matrix, matrix_to_svd),
    "symmetric": Representation(10, symmetric_to_matrix, matrix_to_symmetric),
    "quaternion": Representation(4, quaternion_to_matrix, matrix_to_quaternion),
    "half_quaternion": Representation(4, quaternion_to_matrix, matrix_to_half_quaternion),
    "axis_angle": Representation(4, axis_angle_to_matrix, matrix_to_axis_angle),
    "rotation_vector": Representation(3, rotation_vector_to_matrix, matrix_to_rotation_vector),
    "euler": Representation(3, euler_to_matrix, matrix_to_euler),
    "hopf": Representation(3, hopf_to_matrix, matrix_to_hopf),
}


def get_representation(name: str) -> Representation:
    """The representation of that name. ValueError: unknown; names the known and the nearest."""
    if name not in REPRESENTATIONS:
        near = difflib.get_close_matches(str(name), REPRESENTATIONS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"representation is {name!r}, known are {', '.join(REPRESENTATIONS)}{hint}")
    return REPRESENTATIONS[name]


def convert(x: Float[Tensor, "*batch numbers"], source: str, target: str) -> Float[Tensor, "*batch others"]:
    """The numbers of one representation in another, through the matrix: `g_target(f_source(x))`."""
    return get_representation(target).from_matrix(get_representation(source).to_matrix(x))
