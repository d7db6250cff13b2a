"""Unit quaternions (w, x, y, z), and the maps with at most four numbers that pass through them.

None of them has a continuous right inverse (Zhou et al. 2019, arXiv 1812.07035, section 3): a network that regresses
these numbers makes large errors near some rotations. A rotation vector is angle times axis, in radians; the code
released with the paper takes its length for half the angle.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..lie import so3
from ..lie.checks import check_rotation
from .vectors import arctan2, arctanh, check_last, length, unit


def quaternion_to_matrix(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation `v -> q v q*/|q|^2`. A quaternion shorter than 1e-8 gives the identity, without gradient."""
    check_last("the quaternion", q, 4)
    q, present = unit(q)
    return so3.from_quaternion(torch.where(present, q, torch.eye(4, dtype=q.dtype, device=q.device)[0]))


def matrix_to_quaternion(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """The unit quaternion with w >= 0 (with w = 0: either), from the longest row of `4 q q^T`.

    Accurate at all angles; it jumps where w changes sign, at rotations by pi. ValueError: not a rotation.
    """
    check_rotation(matrix)
    q = so3.to_quaternion(matrix)
    return torch.where(q[..., :1] < 0, -q, q)


def matrix_to_half_quaternion(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """The unit quaternion with z >= 0, the half of the sphere that the paper's `half quaternion` takes.

    Its map to matrices is that of the quaternion. ValueError: not a rotation.
    """
    check_rotation(matrix)
    q = so3.to_quaternion(matrix)
    return torch.where(q[..., 3:] < 0, -q, q)


def rotation_vector_to_matrix(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`exp [v]x`, the rotation by |v| radians about v; |v|^2 must be finite."""
    check_last("the rotation vector", vector, 3)
    return so3.exp(vector)


def matrix_to_rotation_vector(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Angle times axis, the angle in [0, pi]. Accurate near 0 and pi. ValueError: not a rotation."""
    check_rotation(matrix)
    return so3.log(matrix)


def axis_angle_to_matrix(x: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation by `pi tanh(x_0)` about `x_1 .. x_3`; an axis shorter than 1e-8 is replaced by (1, 0, 0)."""
    check_last("the axis and angle", x, 4)
    axis, present = unit(x[..., 1:])
    axis = torch.where(present, axis, torch.eye(3, dtype=x.dtype, device=x.device)[0])
    half = torch.tanh(x[..., :1]) * (math.pi / 2)
    return quaternion_to_matrix(torch.cat([half.cos(), half.sin() * axis], -1))


def matrix_to_axis_angle(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """`(atanh(t / pi), axis)`, t in [0, pi] (at pi: limited by the type). ValueError: not a rotation."""
    vector = matrix_to_rotation_vector(matrix)
    axis, present = unit(vector, shortest=1e-30)
    axis = torch.where(present, axis, torch.eye(3, dtype=axis.dtype, device=axis.device)[0])
    return torch.cat([arctanh(length(vector) / math.pi), axis], -1)


def hopf_to_matrix(x: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Hopf coordinates `t = pi/2 (1 + tanh x_0)`, `p = pi (1 + tanh x_1)`, `s = pi (1 + tanh x_2)`.

    q = (cos t/2 cos s/2, cos t/2 sin s/2, sin t/2 cos(p + s/2), sin t/2 sin(p + s/2)).
    """
    check_last("the Hopf coordinates", x, 3)
    t, p, s = (1 + torch.tanh(x)).unbind(-1)
    t, p, s = t * (math.pi / 4), p * math.pi, s * (math.pi / 2)
    parts = [t.cos() * s.cos(), t.cos() * s.sin(), t.sin() * (p + s).cos(), t.sin() * (p + s).sin()]
    return quaternion_to_matrix(torch.stack(parts, -1))


def matrix_to_hopf(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """The coordinates with all angles in their intervals. ValueError: not a rotation."""
    check_rotation(matrix)
    q = so3.to_quaternion(matrix)
    w, x, y, z = torch.where(q[..., 1:2] < 0, -q, q).unbind(-1)
    t = 2 * torch.atan2(length(torch.stack([y, z], -1)), length(torch.stack([w, x], -1))).squeeze(-1)
    half = arctan2(x, w)
    p = torch.remainder(arctan2(z, y) - half, 2 * math.pi)
    return arctanh(torch.stack([t * (2 / math.pi), p / math.pi, half * (2 / math.pi)], -1) - 1)
