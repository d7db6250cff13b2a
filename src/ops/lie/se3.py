"""SE(3): rigid motions of space. Element (..., 4, 4): `[[R, t], [0, 1]]`; tangent vector (..., 6): (rho, theta).

W is `[theta]x` and V is `[rho]x`; products of the two are written out with `W V = rho theta^T - (rho.theta) I`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from . import so3
from .coefficients import evaluate
from .layout import apply, homogeneous, parts, upper

DIM = 6


def exp(tau: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """`(Exp(theta), Jl(theta) rho)`."""
    rho, theta = tau[..., :3], tau[..., 3:]
    x = so3.squared(theta)
    a, b, c = evaluate(x, "abc")
    left_jacobian = so3.combine(theta, a, b, c)
    return homogeneous(so3.combine(theta, 1 - x * b, a, b), apply(left_jacobian, rho))


def log(x: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6"]:
    """`(Jl^-1(theta) t, theta)`, the angle at most pi."""
    r, t = parts(x)
    theta = so3.log(r)
    return torch.cat([apply(so3.left_jacobian_inverse(theta), t), theta], dim=-1)


def hat(tau: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """`[[[theta]x, rho], [0, 0]]`."""
    top = torch.cat([so3.hat(tau[..., 3:]), tau[..., :3].unsqueeze(-1)], dim=-1)
    return F.pad(top, (0, 0, 0, 1))


def vee(w: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6"]:
    """Inverse of `hat`."""
    return torch.cat([w[..., :3, 3], so3.vee(w[..., :3, :3])], dim=-1)


def from_parts(
    rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """The element of a rotation matrix and a translation."""
    return homogeneous(rotation, translation)


def to_parts(
    x: Float[Tensor, "*batch 4 4"],
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """Rotation matrix and translation."""
    return parts(x)


def inverse(x: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """`(R^T, -R^T t)`."""
    r, t = parts(x)
    return homogeneous(r.mT, -apply(r.mT, t))


def compose(x: Float[Tensor, "*#batch 4 4"], y: Float[Tensor, "*#batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """The matrix product."""
    return x @ y


def act(x: Float[Tensor, "*#batch 4 4"], p: Float[Tensor, "*#batch 3"]) -> Float[Tensor, "*batch 3"]:
    """`R p + t`."""
    r, t = parts(x)
    return apply(r, p) + t


def act_jacobians(
    x: Float[Tensor, "*#batch 4 4"], p: Float[Tensor, "*#batch 3"]
) -> tuple[Float[Tensor, "*batch 3 6"], Float[Tensor, "*batch 3 3"]]:
    """Derivatives `[R, -R [p]x]` and `R` of `R p + t` by the motion and by p."""
    by_rotation, r = so3.act_jacobians(parts(x)[0], p)
    return torch.cat([r, by_rotation], dim=-1), r


def adjoint(x: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6 6"]:
    """`[[R, [t]x R], [0, R]]`."""
    r, t = parts(x)
    return upper(r, so3.hat(t) @ r, r)


def small_adjoint(tau: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 6 6"]:
    """`[[W, V], [0, W]]`."""
    w, v = so3.hat(tau[..., 3:]), so3.hat(tau[..., :3])
    return upper(w, v, w)


def left_jacobian(tau: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 6 6"]:
    """`[[Jl(theta), Q], [0, Jl(theta)]]`."""
    found = evaluate(so3.squared(tau[..., 3:]), "abcde")
    j = so3.combine(tau[..., 3:], *found[:3])
    return upper(j, coupling(tau, *found[1:]), j)


def left_jacobian_inverse(tau: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 6 6"]:
    """`[[J^-1, -J^-1 Q J^-1], [0, J^-1]]` with `J = Jl(theta)`, for angles below 2 pi."""
    x = so3.squared(tau[..., 3:])
    *found, g = evaluate(x, "bcdeg")
    j = so3.combine(tau[..., 3:], 1 - x * g, torch.full_like(x, -0.5), g)
    return upper(j, -j @ coupling(tau, *found) @ j, j)


def right_jacobian(tau: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 6 6"]:
    """`Jr(tau) = Jl(-tau)`."""
    return left_jacobian(-tau)


def right_jacobian_inverse(tau: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 6 6"]:
    """`Jr^-1(tau) = Jl^-1(-tau)`."""
    return left_jacobian_inverse(-tau)


def coupling(
    tau: Float[Tensor, "*batch 6"],
    b: Float[Tensor, "*batch"],
    c: Float[Tensor, "*batch"],
    d: Float[Tensor, "*batch"],
    e: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 3 3"]:
    """`Q`, the translation part of the left Jacobian, with the coefficients at `x = theta.theta`.

        Q = V/2 + c (WV + VW + WVW) + d (WWV + VWW - 3 WVW) + e (WVWW + WWVW)
          = b V + c (rho theta^T + theta rho^T) + s ((2d - c) W - 2e theta theta^T + 2 (x e - c) I)

    with `s = rho . theta`, by `WVW = -s W` and `WWV + VWW = -x V - s W`: the derivative of `Jl(theta)` along rho.
    """
    rho, theta = tau[..., :3], tau[..., 3:]
    x, s = so3.squared(theta), (rho * theta).sum(-1)
    turning = so3.combine(theta, 2 * s * (x * e - c), s * (2 * d - c), -2 * s * e)
    outer = (c.unsqueeze(-1) * theta).unsqueeze(-1) * rho.unsqueeze(-2)
    return turning + outer + outer.mT + so3.hat(b.unsqueeze(-1) * rho)
