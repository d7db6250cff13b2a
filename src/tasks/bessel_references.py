"""Logarithms of Bessel functions in 60-digit arithmetic by mpmath, to measure `ops.bessel` against.

I by its power series, all of whose terms are positive, with any exponent:

    I_v(x) = (x/2)^v / Gamma(v+1) sum_k (x^2/4)^k / (k! (v+1)_k);

K by the trapezoidal rule for `1/2 int exp(-x cosh t + v t) dt` about the peak asinh(v/x), with the step min(0.33 /
sqrt(hypot(v, x)), 0.05), cut at e^-150. mpmath's own `besselk` is not used: it is wrong or gives up for some large
orders and arguments. `wronskian` is the check that both are right.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

DIGITS = 60
_CUT = 150


def load_mpmath(digits: int = DIGITS) -> Any:
    """The package `mpmath`, at so many digits.

    Raises:
        ModuleNotFoundError: it is not there; says how to get it.
    """
    try:
        import mpmath
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "references of Bessel functions need the package mpmath: pip install mpmath"
        ) from missing
    mpmath.mp.dps = digits
    return mpmath


def exact_log_iv(order: Any, x: float) -> Any:
    """log I_v(x) as an mpf of 60 digits, x > 0, v >= 0 (a float or an mpf)."""
    mp = load_mpmath()
    v, half = mp.mpf(order), mp.mpf(x) / 2
    square, term, total, k = half * half, mp.mpf(1), mp.mpf(1), 0
    tiny = mp.mpf(10) ** -(DIGITS + 5)
    while term > tiny * total or k * (k + v) < square:
        k += 1
        term *= square / (k * (k + v))
        total += term
    return v * mp.log(half) - mp.loggamma(v + 1) + mp.log(total)


def exact_log_kv(order: Any, x: float) -> Any:
    """log K_v(x) as an mpf of 60 digits, x > 0, v >= 0 (a float or an mpf)."""
    mp = load_mpmath()
    v, argument = mp.mpf(order), mp.mpf(x)
    step = mp.mpf(min(0.33 / math.sqrt(math.hypot(order, x)), 0.05))
    centre = mp.asinh(v / argument)
    peak = v * centre - argument * mp.cosh(centre)
    total = mp.mpf(1)
    for forward in (1, -1):
        k = 1
        while True:
            t = centre + forward * k * step
            exponent = v * t - argument * mp.cosh(t) - peak
            if exponent < -_CUT:
                break
            total += mp.exp(exponent)
            k += 1
    return peak + mp.log(total * step / 2)


def wronskian(order: float, x: float) -> float:
    """|log(x (I_v K_{v+1} + I_{v+1} K_v))| of the references, which is 0."""
    mp = load_mpmath()
    orders = mp.mpf(order), mp.mpf(order) + 1
    first, second = (mp.exp(exact_log_iv(v, x) + exact_log_kv(u, x)) for v, u in (orders, orders[::-1]))
    return float(abs(mp.log(x * (first + second))))


def references(
    orders: Sequence[float], arguments: Sequence[float]
) -> dict[str, tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]]:
    """`i` and `k`: log I and log K as pairs of float64 (nearest, rest), to 32 digits."""
    exact = {"i": exact_log_iv, "k": exact_log_kv}
    return {
        name: _pair([function(v, x) for v, x in zip(orders, arguments, strict=True)])
        for name, function in exact.items()
    }


def _pair(values: Sequence[Any]) -> tuple[Tensor, Tensor]:
    high = [float(value) for value in values]
    low = [float(value - nearest) for value, nearest in zip(values, high, strict=True)]
    return torch.tensor(high, dtype=torch.float64), torch.tensor(low, dtype=torch.float64)


def draw_points(points: int, seed: int) -> tuple[Float64[Tensor, " points"], Float64[Tensor, " points"]]:
    """Orders and arguments, log-uniform in [1e-2, 1e4]; 15 in 100 of them in [1e-2, 12.69] x [1e-2, 19.69]."""
    generator = np.random.default_rng(seed)
    inner = 3 * points // 20
    drawn = []
    for bound in (12.69, 19.69):
        top = np.concatenate([np.full(inner, bound), np.full(points - inner, 1e4)])
        drawn.append(torch.from_numpy(np.exp(generator.uniform(np.log(1e-2), np.log(top)))))
    return drawn[0], drawn[1]
