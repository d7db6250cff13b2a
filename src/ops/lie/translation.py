"""T(n): translations of n-dimensional space. Element and tangent vector (..., n); every map is the identity."""

import torch
from jaxtyping import Float
from torch import Tensor

from .layout import eye


def exp(tau: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """tau itself."""
    return tau


log = exp


def hat(tau: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch k k"]:
    """The (n+1) x (n+1) matrix `[[0, tau], [0, 0]]`."""
    return torch.nn.functional.pad(tau.unsqueeze(-1), (tau.shape[-1], 0, 0, 1))


def vee(w: Float[Tensor, "*batch k k"]) -> Float[Tensor, "*batch n"]:
    """Inverse of `hat`."""
    return w[..., :-1, -1]


def inverse(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """`-x`."""
    return -x


def compose(x: Float[Tensor, "*#batch n"], y: Float[Tensor, "*#batch n"]) -> Float[Tensor, "*batch n"]:
    """`x + y`."""
    return x + y


act = compose


def act_jacobians(
    x: Float[Tensor, "*#batch n"], p: Float[Tensor, "*#batch n"]
) -> tuple[Float[Tensor, "*batch n n"], Float[Tensor, "*batch n n"]]:
    """Derivatives of `x + p`: twice the identity."""
    unit = adjoint(x + p)
    return unit, unit


def adjoint(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
    """The identity."""
    return eye(x.shape[-1], x)


def small_adjoint(tau: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
    """Zero."""
    return torch.zeros_like(adjoint(tau))


left_jacobian = left_jacobian_inverse = right_jacobian = right_jacobian_inverse = adjoint
