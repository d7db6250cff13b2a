"""log I_v and log K_v where neither expansion holds: v <= 12.7, x <= 30, in float64.

    I_v(x) = (x/2)^v / Gamma(v+1) sum_k (x^2/4)^k / (k! (v+1)_k),  its terms all positive, by Horner's rule;
    K_v(x) = h/2 sum_j exp(-x cosh(j h) + v j h),  j over the whole numbers (`trapezoid`),

or Rothwell's integral on (0, 1] by Simpson's rule (`rothwell`), all in logarithms, with n = 8, beta = 2n / (2v+1):

    K_v(x) = sqrt(pi) e^-x / (Gamma(v+1/2) (2x)^v) int_0^1 beta e^-u^beta (2x + u^beta)^(v-1/2) u^(n-1)
             + e^(-1/u) u^(-2v-1) (2xu + 1)^(v-1/2) du.

The trapezoidal sum converges geometrically. Its nodes reach where the terms are below e^-40 of the largest, which
grows as log(1/x); below x = 1e-8 the two leading powers are exact to rounding instead:

    K_v(x) = (Gamma(v) (x/2)^-v + Gamma(-v) (x/2)^v) / 2.

Points come in groups of like arguments and in chunks, so that memory stays small and a group has no more terms than it
needs.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

LARGEST = 30.0  # argument
EDGES = (1e-8, 1e-3, 0.03, 0.1, 0.3, 0.8, 2.0, 6.0)  # of the groups
CHUNK, NODES = 20_000, 100_000  # points, points times nodes, at a time
GPU_MORE = 64  # times as many on a GPU
STEP, PANELS, ROTHWELL_N = 0.15, 600, 8
EULER = 0.5772156649015329
Form = Callable[[Tensor, Tensor, float, float], Tensor]


def log_series(v: Tensor, x: Tensor) -> Tensor:
    """log I_v(x) by its power series."""
    return _by_groups(_series, v, x, lambda low: CHUNK)


def series_ratio(v: Tensor, x: Tensor) -> Tensor:
    """I_(v+1) / I_v by the series of both."""
    return _by_groups(_series_ratio, v, x, lambda low: CHUNK)


def log_trapezoid(v: Tensor, x: Tensor) -> Tensor:
    """log K_v(x) by the trapezoidal rule, and by the leading powers below x = 1e-8."""
    return _by_groups(_trapezoid, v, x, lambda low: NODES // len(_nodes(low)) if low else CHUNK)


def log_rothwell(v: Tensor, x: Tensor) -> Tensor:
    """log K_v(x) by Rothwell's integral: errors to 4e-9 of max(1, |log K|), and wrong for tiny x."""
    return _by_groups(_rothwell, v, x, lambda low: NODES // PANELS)


def _by_groups(form: Form, v: Tensor, x: Tensor, chunk: Callable[[float], int]) -> Tensor:
    """`form(v, x, low, high)` of the points with low <= x < high, so many at a time."""
    found, group = torch.empty_like(x), torch.bucketize(x, x.new_tensor(EDGES), right=True)
    more = GPU_MORE if x.is_cuda else 1
    for number, (low, high) in enumerate(zip((0.0, *EDGES), (*EDGES, LARGEST), strict=True)):
        indices = (group == number).nonzero().squeeze(-1)
        for part in indices.split(more * chunk(low)) if len(indices) else ():
            found[part] = form(v[part], x[part], low, high)
    return found


def _power_sum(v: Tensor, y: Tensor, high: float) -> Tensor:
    """`sum_(k >= 1) y^k / (k! (v+1)_k)`, y = x^2/4 with x <= high."""
    total = torch.zeros_like(y)
    for k in range(math.ceil(12 + 6.5 * math.sqrt(high)), 0, -1):
        total = total.add_(1).mul_(y).div_((v + k).mul_(k))
    return total


def _series(v: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    half = x / 2
    total = _power_sum(v, half * half, high).log1p_()
    return total.add_(half.log_().mul_(v)).sub_(torch.lgamma(v + 1))


def _series_ratio(v: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    half = x / 2
    y, following = half * half, v + 1
    upper, lower = _power_sum(following, y, high), _power_sum(v, y, high)
    return half.div_(following).mul_(upper.add_(1)).div_(lower.add_(1))


@cache
def _nodes(low: float) -> tuple[float, ...]:
    """All t with terms above e^-40 of the largest for any v <= 12.7 and x >= low."""
    ahead, behind = (math.ceil(math.acosh(reach / low + 1) / STEP) for reach in (7 * 12.7 + 40, 40))
    return tuple(STEP * j for j in range(-behind, ahead + 1))


def _trapezoid(v: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    if not low:
        return _leading(v, x)
    t = x.new_tensor(_nodes(low))
    v, x = v.unsqueeze(-1), x.unsqueeze(-1)
    peak = torch.asinh(v / x).mul_(v).sub_(torch.hypot(v, x))
    exponents = (v * t).sub_(torch.addcmul(peak, x, t.cosh()))
    return exponents.exp_().sum(-1).mul_(STEP / 2).log_().add_(peak.squeeze(-1))


def _leading(v: Tensor, x: Tensor) -> Tensor:
    """`log(Gamma(v) s^v + Gamma(-v) s^-v) - log 2`, s = 2/x; for v < 1/2 as `e^a sinh(v log s + b) / v`.

    With lgamma(1 +- v) = a +- b: a even and b odd in v, by their Taylor series about v = 0.
    """
    log_s = math.log(2) - x.log()
    large = v.clamp_min(0.5)
    small = v.clamp_max(0.5)
    square, even, odd = small * small, torch.zeros_like(v), torch.zeros_like(v)
    for k in range(50, 1, -2):
        even = even.add_(zeta(k) / k).mul_(square)
        odd = odd.add_(zeta(k + 1) / (k + 1)).mul_(square)
    slope = log_s - odd.add_(EULER)
    angle = small * slope
    near = even.add_(angle).add_(_log_sinhc_exp(angle)).add_(slope.log())
    first = torch.lgamma(large) + large * log_s - math.log(2)
    return torch.where(v < 0.5, near, first.add_(_second_power(large, log_s)))


def _second_power(v: Tensor, log_s: Tensor) -> Tensor:
    """log1p of the second power over the first, for v in [1/2, 1); 0 from 1 on, where it is below rounding."""
    inside = v < 0.99
    u = torch.where(inside, v, 0.5)
    ratio = (torch.lgamma(1 - u) - torch.lgamma(1 + u) - 2 * u * log_s).exp_()
    return torch.where(inside, ratio.neg_().log1p_(), 0.0)


def _log_sinhc_exp(angle: Tensor) -> Tensor:
    """`log(sinh(a) e^-a / a)`, a >= 0."""
    double = 2 * angle
    tiny = double < 1e-8
    safe = torch.where(tiny, 1.0, double)
    return torch.where(tiny, -angle, (-torch.expm1(-safe) / safe).log())


@cache
def zeta(s: int) -> float:
    """Riemann's zeta function of a whole number from 2 on, by its sum and Euler and Maclaurin's remainder."""
    n = 100
    head = math.fsum(k**-s for k in range(1, n))
    return (
        head
        + n ** (1 - s) / (s - 1)
        + n**-s / 2
        + s * n ** (-s - 1) / 12
        - s * (s + 1) * (s + 2) * n ** (-s - 3) / 720
    )


def _rothwell(v: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    j = torch.arange(1, PANELS + 1, dtype=x.dtype, device=x.device)
    u, weights = j / PANELS, torch.where(j % 2 == 1, 4.0, 2.0)
    log_u = u.log()
    log_weights = torch.where(j == PANELS, 1.0, weights).log()
    power = v.unsqueeze(-1) - 0.5
    x = x.unsqueeze(-1)
    beta = 2 * ROTHWELL_N / (2 * v.unsqueeze(-1) + 1)
    ub = torch.exp(beta * log_u)
    first = beta.log() - ub + power * torch.log(2 * x + ub) + (ROTHWELL_N - 1) * log_u
    second = -1 / u - (2 * power + 2) * log_u + power * torch.log1p(2 * x * u)
    total = torch.logsumexp(torch.cat([first + log_weights, second + log_weights], -1), -1)
    x = x.squeeze(-1)
    return (
        0.5 * math.log(math.pi)
        - torch.lgamma(v + 0.5)
        - v * torch.log(2 * x)
        - x
        + total
        - math.log(3 * PANELS)
    )
