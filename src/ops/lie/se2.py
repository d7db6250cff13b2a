"""SE(2): rigid motions of the plane. Element (..., 3, 3): `[[R, t], [0, 1]]`; tangent vector (..., 3): (rho, theta)."""

import torch
from jaxtyping import Float
from torch import Tensor

from . import so2
from .coefficients import evaluate, g
from .layout import apply, homogeneous, matrix, parts

DIM = 3


def exp(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`R(theta)` and `V(theta) rho`, with `V = [[a, -theta b], [theta b, a]]` at `x = theta^2`."""
    rho, theta = tau[..., :2], tau[..., 2:]
    return homogeneous(so2.matrix(so2.exp(theta)), apply(_v(theta[..., 0]), rho))


def log(x: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """`(V^-1 t, theta)`, the angle in [-pi, pi]."""
    r, t = parts(x)
    theta = so2.log(so2.from_matrix(r))
    return torch.cat([apply(_v_inverse(theta[..., 0]), t), theta], dim=-1)


def hat(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`[[0, -theta, rho_1], [theta, 0, rho_2], [0, 0, 0]]`."""
    rho_1, rho_2, theta = tau.unbind(-1)
    zero = torch.zeros_like(theta)
    return matrix([[zero, -theta, rho_1], [theta, zero, rho_2], [zero, zero, zero]])


def vee(w: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Inverse of `hat`."""
    return torch.stack([w[..., 0, 2], w[..., 1, 2], w[..., 1, 0]], dim=-1)


def from_parts(
    rotation: Float[Tensor, "*batch 2"], translation: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch 3 3"]:
    """The element of a rotation (cos, sin) and a translation."""
    return homogeneous(so2.matrix(rotation), translation)


def to_parts(x: Float[Tensor, "*batch 3 3"]) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch 2"]]:
    """Rotation (cos, sin) and translation."""
    return so2.from_matrix(parts(x)[0]), parts(x)[1]


def inverse(x: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`(R^T, -R^T t)`."""
    r, t = parts(x)
    return homogeneous(r.mT, -apply(r.mT, t))


def compose(x: Float[Tensor, "*#batch 3 3"], y: Float[Tensor, "*#batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The matrix product."""
    return x @ y


def act(x: Float[Tensor, "*#batch 3 3"], p: Float[Tensor, "*#batch 2"]) -> Float[Tensor, "*batch 2"]:
    """`R p + t`."""
    r, t = parts(x)
    return apply(r, p) + t


def act_jacobians(
    x: Float[Tensor, "*#batch 3 3"], p: Float[Tensor, "*#batch 2"]
) -> tuple[Float[Tensor, "*batch 2 3"], Float[Tensor, "*batch 2 2"]]:
    """Derivatives `[R, R K p]` and `R` of `R p + t` by the motion and by p."""
    turned = apply(parts(x)[0], so2.turn(p)).unsqueeze(-1)
    r = parts(x)[0].expand(*turned.shape[:-2], 2, 2)
    return torch.cat([r, turned], dim=-1), r


def adjoint(x: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`[[R, (t_y, -t_x)^T], [0, 1]]`."""
    r, t = parts(x)
    return homogeneous(r, -so2.turn(t))


def small_adjoint(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`[[theta K, (rho_2, -rho_1)^T], [0, 0]]`."""
    rho_1, rho_2, theta = tau.unbind(-1)
    zero = torch.zeros_like(theta)
    return matrix([[zero, -theta, rho_2], [theta, zero, -rho_1], [zero, zero, zero]])


def left_jacobian(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`[[V, q], [0, 1]]`, `q = (theta c rho_1 + b rho_2, theta c rho_2 - b rho_1)`."""
    return homogeneous(_v(tau[..., 2]), _q(tau))


def left_jacobian_inverse(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`[[V^-1, -V^-1 q], [0, 1]]`, for angles below 2 pi."""
    v = _v_inverse(tau[..., 2])
    return homogeneous(v, -apply(v, _q(tau)))


def right_jacobian(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`Jr(tau) = Jl(-tau)`."""
    return left_jacobian(-tau)


def right_jacobian_inverse(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """`Jr^-1(tau) = Jl^-1(-tau)`."""
    return left_jacobian_inverse(-tau)


def _v(theta: Tensor) -> Tensor:
    a, b = evaluate(theta.square(), "ab")
    return _turning(a, theta * b)


def _v_inverse(theta: Tensor) -> Tensor:
    x = theta.square()
    return _turning(1 - x * g(x), -theta / 2)


def _turning(even: Tensor, odd: Tensor) -> Tensor:
    return matrix([[even, -odd], [odd, even]])


def _q(tau: Tensor) -> Tensor:
    rho, theta = tau[..., :2], tau[..., 2:]
    b, c = evaluate(theta.square(), "bc")
    return theta * c * rho - b * so2.turn(rho)
