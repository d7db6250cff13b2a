"""SO(2): rotations of the plane. Element (..., 2): cos, sin; tangent vector (..., 1): the angle."""

import torch
from jaxtyping import Float
from torch import Tensor

from .layout import apply, eye
from .layout import matrix as from_rows

DIM = 1


def exp(tau: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch 2"]:
    """`(cos, sin)` of the angle."""
    return torch.cat([tau.cos(), tau.sin()], dim=-1)


def log(x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 1"]:
    """The angle, in [-pi, pi]."""
    return torch.atan2(x[..., 1:], x[..., :1])


def hat(tau: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch 2 2"]:
    """`[[0, -theta], [theta, 0]]`, whose matrix exponential is `matrix(exp(theta))`."""
    theta = tau[..., 0]
    zero = torch.zeros_like(theta)
    return from_rows([[zero, -theta], [theta, zero]])


def vee(w: Float[Tensor, "*batch 2 2"]) -> Float[Tensor, "*batch 1"]:
    """Inverse of `hat`."""
    return w[..., 1, :1]


def matrix(x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2 2"]:
    """The rotation matrix."""
    cos, sin = x.unbind(-1)
    return from_rows([[cos, -sin], [sin, cos]])


def from_matrix(r: Float[Tensor, "*batch 2 2"]) -> Float[Tensor, "*batch 2"]:
    """The element of a rotation matrix: its first column."""
    return r[..., 0]


def inverse(x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """`(cos, -sin)`."""
    return torch.stack([x[..., 0], -x[..., 1]], dim=-1)


def compose(x: Float[Tensor, "*#batch 2"], y: Float[Tensor, "*#batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Product of unit complex numbers."""
    (c, s), (c2, s2) = x.unbind(-1), y.unbind(-1)
    return torch.stack([c * c2 - s * s2, s * c2 + c * s2], dim=-1)


def act(x: Float[Tensor, "*#batch 2"], p: Float[Tensor, "*#batch 2"]) -> Float[Tensor, "*batch 2"]:
    """`R p`."""
    return compose(x, p)


def act_jacobians(
    x: Float[Tensor, "*#batch 2"], p: Float[Tensor, "*#batch 2"]
) -> tuple[Float[Tensor, "*batch 2 1"], Float[Tensor, "*batch 2 2"]]:
    """Derivatives `R K p` and `R` of `R p` by the rotation and by p."""
    r = matrix(x)
    return apply(r, turn(p)).unsqueeze(-1), r


def turn(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """`K p = (-p_y, p_x)`: a quarter turn."""
    return torch.stack([-p[..., 1], p[..., 0]], dim=-1)


def adjoint(x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 1 1"]:
    """1: the group is commutative."""
    return eye(1, x)


def small_adjoint(tau: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch 1 1"]:
    """0: the group is commutative."""
    return torch.zeros_like(tau).unsqueeze(-1)


def left_jacobian(tau: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch 1 1"]:
    """1."""
    return eye(1, tau)


left_jacobian_inverse = right_jacobian = right_jacobian_inverse = left_jacobian
