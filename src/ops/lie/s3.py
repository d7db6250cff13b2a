"""S^3: unit quaternions (..., 4), w, x, y, z, Hamilton's product. q and -q are one rotation.

The tangent vector (..., 3) is angle times axis, so that adjoint and Jacobians are those of SO(3).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from . import so3
from .coefficients import a, half_cos
from .layout import cross

DIM = 3

small_adjoint = so3.small_adjoint
left_jacobian, left_jacobian_inverse = so3.left_jacobian, so3.left_jacobian_inverse
right_jacobian, right_jacobian_inverse = so3.right_jacobian, so3.right_jacobian_inverse


def exp(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4"]:
    """`(cos(t/2), sin(t/2)/t tau)`, t the length of tau."""
    x = so3.squared(tau).unsqueeze(-1)
    return torch.cat([half_cos(x), 0.5 * a(x / 4) * tau], dim=-1)


def log(x: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3"]:
    """Angle (at most pi) times axis of the rotation: of q or -q, whichever has w >= 0."""
    return so3.quaternion_log(x)


def hat(tau: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4"]:
    """The pure quaternion `(0, tau/2)`."""
    return torch.nn.functional.pad(tau / 2, (1, 0))


def vee(w: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3"]:
    """Inverse of `hat`."""
    return 2 * w[..., 1:]


def to_matrix(x: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation matrix, an element of SO(3)."""
    return so3.from_quaternion(x)


def from_matrix(r: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """A unit quaternion, of either sign, of a rotation matrix."""
    return so3.to_quaternion(r)


def inverse(x: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """The conjugate `(w, -v)`."""
    return torch.cat([x[..., :1], -x[..., 1:]], dim=-1)


def compose(x: Float[Tensor, "*#batch 4"], y: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*batch 4"]:
    """`(w w' - v.v', w v' + w' v + v x v')`."""
    w, v, w2, v2 = x[..., :1], x[..., 1:], y[..., :1], y[..., 1:]
    real = w * w2 - (v * v2).sum(-1, keepdim=True)
    return torch.cat([real, w * v2 + w2 * v + cross(v, v2)], dim=-1)


def act(x: Float[Tensor, "*#batch 4"], p: Float[Tensor, "*#batch 3"]) -> Float[Tensor, "*batch 3"]:
    """`q p q^-1 = p + 2 w (v x p) + 2 v x (v x p)`."""
    w, v = x[..., :1], x[..., 1:]
    turned = 2 * cross(v, p)
    return p + w * turned + cross(v, turned)


def act_jacobians(
    x: Float[Tensor, "*#batch 4"], p: Float[Tensor, "*#batch 3"]
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3 3"]]:
    """Derivatives `-R [p]x` and `R` of the rotated point by the rotation and by p."""
    return so3.act_jacobians(to_matrix(x), p)


def adjoint(x: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """`R(q)`."""
    return to_matrix(x)


def random(
    shape: Sequence[int] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "*batch 4"]:
    """Quaternions (*shape, 4) with the Haar (uniform) distribution, by default on the device of the generator."""
    return so3.random_quaternion(shape, generator, dtype, device)
