"""Scalar functions of the squared angle that all groups are built from.

With `x = t^2`, and their Taylor series in x:

    a = sin t / t                          = sum (-x)^k / (2k+1)!
    b = (1 - cos t) / t^2                  = sum (-x)^k / (2k+2)!
    c = (t - sin t) / t^3                  = sum (-x)^k / (2k+3)!
    d = (t^2 + 2 cos t - 2) / (2 t^4)      = sum (-x)^k / (2k+4)!
    e = (2t - 3 sin t + t cos t) / (2 t^5) = sum (k+1) (-x)^k / (2k+5)!
    g = (1 - (t/2) cot(t/2)) / t^2         = (c - 2d) / (2b)

All but g, which has its first pole at `t = 2 pi`, are entire, so that no norm and no division by zero occurs at x = 0.
They are shape-preserving and differentiable any number of times: below `x = 4` c, d and e are their series, whose
terms fall from the first on and of which 12 are exact to rounding, with `a = 1 - x c` and `b = 1/2 - x d`; above, none
of the closed forms cancels badly, and they are evaluated at arguments made safe beforehand (a `where` on the result
alone would leave NaN gradients at 0).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

SWITCH = 4.0  # of x, between series and closed form
TERMS = 12  # 4^12 / 25! = 1e-18
LOG_SWITCH = 64.0  # w^2 over s, above which atan is a series
LOG_TERMS = 9  # 64^-9 / 19 = 3e-18

C, D = (tuple((-1) ** k / math.factorial(2 * k + n) for k in range(TERMS)) for n in (3, 4))
E = tuple((k + 1) * (-1) ** k / math.factorial(2 * k + 5) for k in range(TERMS))
ARCTAN = tuple(2 * (-1) ** k / (2 * k + 1) for k in range(LOG_TERMS))


def evaluate(x: Float[Tensor, "*batch"], names: str) -> tuple[Float[Tensor, "*batch"], ...]:
    """The functions of `names`, such as `"abc"`, at `x = t^2`; cheaper than one by one."""
    small = x < SWITCH
    near, far = _near(torch.where(small, x, 0), names), _far(torch.where(small, SWITCH, x), names)
    return tuple(torch.where(small, near[name], far[name]) for name in names)


def a(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """`sin t / t` at `x = t^2`."""
    return evaluate(x, "a")[0]


def b(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """`(1 - cos t) / t^2` at `x = t^2`."""
    return evaluate(x, "b")[0]


def c(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """`(t - sin t) / t^3` at `x = t^2`."""
    return evaluate(x, "c")[0]


def d(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """`(t^2 + 2 cos t - 2) / (2 t^4)` at `x = t^2`."""
    return evaluate(x, "d")[0]


def e(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """`(2t - 3 sin t + t cos t) / (2 t^5)` at `x = t^2`; it is `-dc/dx`."""
    return evaluate(x, "e")[0]


def g(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """`(1 - (t/2) cot(t/2)) / t^2` at `x = t^2`, for t below 2 pi."""
    return evaluate(x, "g")[0]


def half_cos(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """`cos(t/2)` at `x = t^2`, differentiable at 0."""
    return 1 - x / 4 * b(x / 4)


def angle_ratio(s: Float[Tensor, "*batch"], w: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """`2 atan2(n, w) / n` at `s = n^2`, for w >= 0: angle over |v| of a unit quaternion (w, v).

    For small n it is `2/w - 2 n^2 / (3 w^3) + ...`; at w = 0, a half turn, it is `pi`.
    """
    small = LOG_SWITCH * s < w.square()
    w_near = torch.where(small, w, 1)
    series = _horner(ARCTAN, torch.where(small, s, 0) / w_near.square()) / w_near
    n = torch.where(small, 1, s).sqrt()
    return torch.where(small, series, 2 * torch.atan2(n, w) / n)


def _near(x: Tensor, names: str) -> dict[str, Tensor]:
    """By the series of c, d and e; the others follow from these without cancellation."""
    found: dict[str, Tensor] = {}
    if set(names) & set("acg"):
        found["c"] = _horner(C, x)
        found["a"] = 1 - x * found["c"]
    if set(names) & set("bdg"):
        found["d"] = _horner(D, x)
        found["b"] = 0.5 - x * found["d"]
    if "e" in names:
        found["e"] = _horner(E, x)
    if "g" in names:
        found["g"] = (found["c"] - 2 * found["d"]) / (2 * found["b"])
    return found


def _far(x: Tensor, names: str) -> dict[str, Tensor]:
    """By the closed forms, for t of at least 2."""
    t, found = x.sqrt(), {}
    if set(names) & set("ace"):
        found["a"] = torch.sin(t) / t
        found["c"] = (1 - found["a"]) / x
    if set(names) & set("bde"):
        cos = torch.cos(t)
        found["b"] = (1 - cos) / x
        found["d"] = (0.5 - found["b"]) / x
    if "e" in names:
        found["e"] = (3 * found["c"] - found["b"]) / (2 * x)
    if "g" in names:
        half = t / 2
        # not the tangent, whose pole at t = pi the second derivative would feel
        found["g"] = (1 - half * torch.cos(half) / torch.sin(half)) / x
    return found


def _horner(series: tuple[float, ...], x: Tensor) -> Tensor:
    total = torch.full_like(x, series[-1])
    for term in reversed(series[:-1]):
        total = total * x + term
    return total
