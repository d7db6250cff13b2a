"""State estimation on Lie groups: the error-state Kalman filter and Gauss-Newton smoothing (Solà et al., part V).

A covariance (..., n, n) is that of a right perturbation: the state is `X Exp(tau)` with `tau ~ N(0, P)`. All functions
run any number of filters or problems at once along the leading axes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .generic import Element, Group, act_inverse, jacobians_act_inverse, jacobians_plus, minus, plus


def predict(
    group: Group,
    x: Element,
    covariance: Float[Tensor, "*batch n n"],
    control: Float[Tensor, "*#batch n"],
    control_covariance: Float[Tensor, "*#batch n n"],
) -> tuple[Any, Float[Tensor, "*batch n n"]]:
    """The state after a motion: `X (+) u` and `F P F^T + G U G^T`, with `F = Ad_{Exp u}^-1` and `G = Jr(u)`."""
    f, g = jacobians_plus(group, control)
    return plus(group, x, control), f @ covariance @ f.mT + g @ control_covariance @ g.mT


def update(
    group: Group,
    x: Element,
    covariance: Float[Tensor, "*batch n n"],
    innovation: Float[Tensor, "*batch m"],
    jacobian: Float[Tensor, "*batch m n"],
    noise: Float[Tensor, "*#batch m m"],
) -> tuple[Any, Float[Tensor, "*batch n n"]]:
    """The state after a measurement y of e(X), with `innovation = y - e` and `jacobian = H = De/DX`.

    `Z = H P H^T + R`, `K = P H^T Z^-1`, `X (+) K (y - e)` and `P - K Z K^T`.
    """
    hp = jacobian @ covariance
    factor = torch.linalg.cholesky(hp @ jacobian.mT + noise)
    gain = torch.cholesky_solve(hp, factor).mT
    half = gain @ factor
    return plus(group, x, (gain @ innovation.unsqueeze(-1)).squeeze(-1)), covariance - half @ half.mT


def observe(
    group: Group,
    x: Element,
    covariance: Float[Tensor, "*batch n n"],
    beacon: Float[Tensor, "*#batch m"],
    measured: Float[Tensor, "*batch m"],
    noise: Float[Tensor, "*#batch m m"],
) -> tuple[Any, Float[Tensor, "*batch n n"]]:
    """`update` of a pose by the position of a known beacon as seen from it, `e = X^-1 . beacon`."""
    seen, jacobian = act_inverse(group, x, beacon), jacobians_act_inverse(group, x, beacon)[0]
    return update(group, x, covariance, measured - seen, jacobian, noise)


def squared_error(
    group: Group, true: Element, x: Element, covariance: Float[Tensor, "*batch n n"]
) -> Float[Tensor, "*batch"]:
    """Normalised estimation error squared (NEES), `tau^T P^-1 tau` with `tau = X_true (-) X`; its mean is n."""
    tau = minus(group, true, x).unsqueeze(-1)
    return (tau * torch.linalg.solve(covariance, tau)).sum((-2, -1))


class Solution(NamedTuple):
    """What `gauss_newton` found: the states, steps taken, which problems converged, final weighted residuals."""

    x: Any
    iterations: Int[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]
    residual: Float[Tensor, "*batch m"]


def gauss_newton(
    group: Group,
    x: Element,
    linearise: Callable[[Any], tuple[Tensor, Tensor]],
    *,
    iterations: int = 20,
    tolerance: float = 1e-6,
) -> Solution:
    """The X with the least `|r(X)|^2`: `X <- X (+) tau`, `tau = -J^+ r`, until `|tau| < tolerance`.

    Args:
        x: starting states, with any number of leading axes; each problem stops on its own.
        linearise: X -> residuals (..., m), divided by their standard deviations, and their Jacobian (..., m, n).
    """
    residual, jacobian = linearise(x)
    converged = residual.new_zeros(residual.shape[:-1], dtype=torch.bool)
    steps = torch.zeros_like(converged, dtype=torch.int64)
    for _ in range(iterations):
        tau = -(torch.linalg.pinv(jacobian) @ residual.unsqueeze(-1)).squeeze(-1)
        x = plus(group, x, torch.where(converged.unsqueeze(-1), 0, tau))
        steps = steps + ~converged
        converged = converged | (tau.norm(dim=-1) < tolerance)
        residual, jacobian = linearise(x)
        if not torch.compiler.is_compiling() and converged.all():
            break
    return Solution(x, steps, converged, residual)
