"""What holds in every Lie group, written once over its basic functions; perturbations are on the right.

The first argument of each function is the group: one of the modules `so2`, `se2`, `so3`, `s3`, `se3`, `translation`,
or a `Composite`. A Jacobian block (..., out, in) maps a local perturbation of the argument to one of the result,
`D f / D X = lim Log(f(X)^-1 f(X Exp(d))) / d`.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from .layout import eye

Element = Tensor | tuple[Any, ...]


@runtime_checkable
class Group(Protocol):
    """The basic functions of a group; a tangent vector is (..., n), a Jacobian (..., n, n)."""

    def exp(self, tau: Tensor, /) -> Any: ...
    def log(self, x: Any, /) -> Tensor: ...
    def inverse(self, x: Any, /) -> Any: ...
    def compose(self, x: Any, y: Any, /) -> Any: ...
    def act(self, x: Any, p: Any, /) -> Any: ...
    def act_jacobians(self, x: Any, p: Any, /) -> tuple[Tensor, Tensor]: ...
    def adjoint(self, x: Any, /) -> Tensor: ...
    def small_adjoint(self, tau: Tensor, /) -> Tensor: ...
    def left_jacobian(self, tau: Tensor, /) -> Tensor: ...
    def left_jacobian_inverse(self, tau: Tensor, /) -> Tensor: ...
    def right_jacobian(self, tau: Tensor, /) -> Tensor: ...
    def right_jacobian_inverse(self, tau: Tensor, /) -> Tensor: ...


def plus(group: Group, x: Element, tau: Float[Tensor, "*batch n"]) -> Any:
    """`X (+) tau = X Exp(tau)`."""
    return group.compose(x, group.exp(tau))


def minus(group: Group, y: Element, x: Element) -> Float[Tensor, "*batch n"]:
    """`Y (-) X = Log(X^-1 Y)`."""
    return group.log(between(group, x, y))


def between(group: Group, x: Element, y: Element) -> Any:
    """`X^-1 Y`: Y as seen from X."""
    return group.compose(group.inverse(x), y)


def act_inverse(group: Group, x: Element, p: Element) -> Any:
    """`X^-1 . p`: the point p as seen from X."""
    return group.act(group.inverse(x), p)


def interpolate(group: Group, x: Element, y: Element, s: float | Float[Tensor, "*#batch"]) -> Any:
    """`X (+) s (Y (-) X)`: X at s = 0, Y at s = 1, with constant velocity between."""
    s = s.unsqueeze(-1) if isinstance(s, Tensor) else s
    return plus(group, x, s * minus(group, y, x))


def mean(group: Group, x: Element, *, iterations: int = 50) -> Any:
    """The mean over the first axis, the M with `mean_i (X_i (-) M) = 0`, by `M <- M (+) mean_i (X_i (-) M)`.

    It starts at the first element and ends when a step is at rounding level; while compiling, where values are
    unknown, after `iterations`.

    Raises:
        ValueError: no elements, or no convergence in `iterations` (the elements are too far apart).
    """
    count = _count(x)
    if count == 0:
        raise ValueError("x has no elements along its first axis: their mean is undefined")
    found = _first(x)
    size = step = torch.zeros(())
    for _ in range(iterations):
        tau = minus(group, x, found)
        step, size = tau.mean(0), tau.abs().amax()
        found = plus(group, found, step)
        if not torch.compiler.is_compiling() and _at_rounding(step, size):
            return found
    if torch.compiler.is_compiling():
        return found
    raise ValueError(
        f"the mean of {count} elements did not converge in {iterations} iterations: its last step is "
        f"{float(step.detach().abs().amax()):.3g}, the farthest element {float(size.detach()):.3g} away"
    )


def _count(x: Element) -> int:
    return _count(x[0]) if isinstance(x, tuple) else len(x)


def _first(x: Element) -> Element:
    return tuple(map(_first, x)) if isinstance(x, tuple) else x[0]


def _at_rounding(step: Tensor, size: Tensor) -> bool:
    return bool(step.detach().abs().amax() <= 16 * torch.finfo(step.dtype).eps * (1 + size.detach()))


def jacobian_exp(group: Group, tau: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
    """Of `Exp(tau)`: `Jr(tau)`."""
    return group.right_jacobian(tau)


def jacobian_log(group: Group, x: Element) -> Float[Tensor, "*batch n n"]:
    """Of `Log(X)`: `Jr^-1(Log X)`."""
    return group.right_jacobian_inverse(group.log(x))


def jacobian_inverse(group: Group, x: Element) -> Float[Tensor, "*batch n n"]:
    """Of `X^-1`: `-Ad_X`."""
    return -group.adjoint(x)


def jacobians_compose(
    group: Group, x: Element, y: Element
) -> tuple[Float[Tensor, "*batch n n"], Float[Tensor, "*batch n n"]]:
    """Of `X Y` by X and by Y: `Ad_Y^-1` and `I`."""
    by_x = group.adjoint(group.inverse(y))
    return by_x, eye(by_x.shape[-1], by_x[..., 0])


def jacobians_between(
    group: Group, x: Element, y: Element
) -> tuple[Float[Tensor, "*batch n n"], Float[Tensor, "*batch n n"]]:
    """Of `X^-1 Y` by X and by Y: `-Ad_{Y^-1 X}` and `I`."""
    by_x = -group.adjoint(between(group, y, x))
    return by_x, eye(by_x.shape[-1], by_x[..., 0])


def jacobians_plus(
    group: Group, tau: Float[Tensor, "*batch n"]
) -> tuple[Float[Tensor, "*batch n n"], Float[Tensor, "*batch n n"]]:
    """Of `X (+) tau` by X and by tau: `Ad_{Exp tau}^-1` and `Jr(tau)`, whatever X is."""
    return group.adjoint(group.exp(-tau)), group.right_jacobian(tau)


def jacobians_minus(
    group: Group, y: Element, x: Element
) -> tuple[Float[Tensor, "*batch n n"], Float[Tensor, "*batch n n"]]:
    """Of `tau = Y (-) X` by Y and by X: `Jr^-1(tau)` and `-Jl^-1(tau)`."""
    tau = minus(group, y, x)
    return group.right_jacobian_inverse(tau), -group.left_jacobian_inverse(tau)


def jacobians_act_inverse(
    group: Group, x: Element, p: Element
) -> tuple[Float[Tensor, "*batch m n"], Float[Tensor, "*batch m m"]]:
    """Of `e = X^-1 . p` by X and by p; on SE(3) `[-I, [e]x]` and `R^T`."""
    by_inverse, by_p = group.act_jacobians(group.inverse(x), p)
    return by_inverse @ jacobian_inverse(group, x), by_p


def covariance_to_left(
    group: Group, x: Element, covariance: Float[Tensor, "*batch n n"]
) -> Float[Tensor, "*batch n n"]:
    """`Ad_X P Ad_X^T`: the covariance P of right perturbations of X as that of left ones, `Exp(tau) X`."""
    adjoint = group.adjoint(x)
    return adjoint @ covariance @ adjoint.mT
