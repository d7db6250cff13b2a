"""Three angles about the axes, in any of the twelve orders."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .quaternions import matrix_to_quaternion
from .vectors import arctan2, check_last, length

ORDERS = ("xyx", "xyz", "xzx", "xzy", "yxy", "yxz", "yzx", "yzy", "zxy", "zxz", "zyx", "zyz")


def angles_to_matrix(angles: Float[Tensor, "*batch 3"], order: str) -> Float[Tensor, "*batch 3 3"]:
    """`R_i(angles_0) R_j(angles_1) R_k(angles_2)` for the order "ijk", radians. ValueError: an unknown order."""
    _check_order(order)
    check_last("the angles", angles, 3)
    first, second, third = (_about(axis, angle) for axis, angle in zip(order, angles.unbind(-1), strict=True))
    return first @ second @ third


def _about(axis: str, angle: Tensor) -> Tensor:
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = {
        "x": [one, zero, zero, zero, cosine, -sine, zero, sine, cosine],
        "y": [cosine, zero, sine, zero, one, zero, -sine, zero, cosine],
        "z": [cosine, -sine, zero, sine, cosine, zero, zero, zero, one],
    }
    return torch.stack(rows[axis], -1).unflatten(-1, (3, 3))


def matrix_to_angles(matrix: Float[Tensor, "*batch 3 3"], order: str) -> Float[Tensor, "*batch 3"]:
    """The right inverse: outer angles in [-pi, pi], the middle one in [-pi/2, pi/2], for orders "iji" in [0, pi].

    Bernardes, Viollet, "Quaternion to Euler angles conversion", PLoS ONE 17(11), 2022. Where the outer angles are not
    determined (gimbal lock) one of the solutions.

    Raises:
        ValueError: an unknown order, a matrix that is not a rotation.
    """
    _check_order(order)
    q = matrix_to_quaternion(matrix)
    i, j, k = ("xyz".index(axis) for axis in reversed(order))
    proper = i == k
    k = 3 - i - j if proper else k
    sign = (i - j) * (j - k) * (k - i) // 2
    w, *vector = q.unbind(-1)
    a, b, c, d = w, vector[i], vector[j], vector[k] * sign
    if not proper:
        a, b, c, d = a - c, b + d, c + a, d - b
    middle = 2 * arctan2(_hypot(c, d), _hypot(a, b))
    half_sum, half_difference = arctan2(b, a), arctan2(d, c)
    last, first = half_sum - half_difference, half_sum + half_difference
    if not proper:
        first, middle = first * sign, middle - math.pi / 2
    return torch.stack([_wrapped(first), middle, _wrapped(last)], -1)


def _hypot(x: Tensor, y: Tensor) -> Tensor:
    return length(torch.stack([x, y], -1)).squeeze(-1)


def _wrapped(angle: Tensor) -> Tensor:
    return angle - 2 * math.pi * torch.round(angle.detach() / (2 * math.pi))


def _check_order(order: str) -> None:
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}, known are {', '.join(ORDERS)}")


def euler_to_matrix(angles: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`R_x(e_0) R_z(e_2) R_y(e_1)`, the order of the code released with arXiv 1812.07035; e_i is about axis i."""
    check_last("the angles", angles, 3)
    return angles_to_matrix(_swapped(angles), "xzy")


def matrix_to_euler(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """The right inverse of `euler_to_matrix`. ValueError: not a rotation."""
    return _swapped(matrix_to_angles(matrix, "xzy"))


def _swapped(angles: Tensor) -> Tensor:
    first, second, third = angles.unbind(-1)  # not by a list of indices, which would be copied to the device
    return torch.stack([first, third, second], -1)
