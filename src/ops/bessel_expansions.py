"""The expansions of log I_v and log K_v for large arguments (mu_K) and, uniformly, for large orders (U_K), in float64.

With m = 4 v^2 and the upper sign for K,

    mu_K:  I ~ e^x / sqrt(2 pi x) S,  K ~ sqrt(pi / (2x)) e^-x S,  S = sum_k c_k,
           c_0 = 1, c_k = +- c_(k-1) (m - (2k-1)^2) / (8 k x);

with h = sqrt(v^2 + x^2), y = (v/h)^2, q = x / (v + h),

    U_K:   log I = -log(2 pi h)/2 + h + v log q + log S(1/h),  log K = log(pi/(2h))/2 - h - v log q + log S(-1/h),
           S(w) = sum_k w^k p_k(y),

which is the usual form with z = x/v, t = v/h: v eta = h + v log q, sqrt(1 + z^2) = h/v, and u_k(t) = t^k p_k(t^2), with
u_0 = 1, u_(k+1) = t^2 (1 - t^2) u_k' / 2 + 1/8 int_0^t (1 - 5 s^2) u_k ds. In this form nothing overflows or cancels
where v / x is very large or small.

The ratios I_(v+1) / I_v and K_(v+1) / K_v are those of the derivatives' expansions, without a difference of logarithms.
Functions take `sign`, +1 for I and -1 for K. They own their intermediate tensors and work in place on them.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

SMALL, SHIFT = 1e-150, 500  # arguments below are scaled by 2^500 before they are divided
HALF_LOG_2PI, HALF_LOG_HALF_PI = 0.5 * math.log(2 * math.pi), 0.5 * math.log(0.5 * math.pi)


@cache
def uniform_coefficients(terms: int) -> tuple[tuple[Fraction, ...], ...]:
    """p_0 .. p_terms, each by ascending powers of y: `u_k(t) = t^k p_k(t^2)`."""
    found: list[tuple[Fraction, ...]] = [(Fraction(1),)]
    for k in range(terms):
        following = [Fraction(0)] * (k + 2)
        for j, c in enumerate(found[-1]):
            n = k + 2 * j  # u_k has c t^n
            following[j] += c * (Fraction(n, 2) + Fraction(1, 8 * (n + 1)))
            following[j + 1] -= c * (Fraction(n, 2) + Fraction(5, 8 * (n + 3)))
        found.append(tuple(following))
    return tuple(found)


@cache
def _floats(terms: int) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in uniform_coefficients(terms))


@cache
def _slope_floats(terms: int) -> tuple[tuple[float, ...], ...]:
    """d_k = (k + 1/2) p_k + 2 y p_k', with which the sums of I' and I differ by `-w (x/h)^2 sum_k w^k d_k(y)`."""
    rows = uniform_coefficients(terms)
    return tuple(
        tuple(float(c * (Fraction(1, 2) + k + 2 * j)) for j, c in enumerate(row))
        for k, row in enumerate(rows)
    )


def _polynomial(coefficients: tuple[float, ...], y: Tensor) -> Tensor:
    """By ascending powers."""
    if len(coefficients) == 1:
        return torch.full_like(y, coefficients[0])
    total = y * coefficients[-1]
    for c in reversed(coefficients[1:-1]):
        total.add_(c).mul_(y)
    return total.add_(coefficients[0])


def _sum(rows: Sequence[tuple[float, ...]], w: Tensor, y: Tensor) -> Tensor:
    """`sum_k w^k rows_k(y)`."""
    total = _polynomial(rows[-1], y)
    for row in reversed(rows[:-1]):
        total = total.mul_(w).add_(_polynomial(row, y))
    return total


def _scales(v: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """h, w = 1/h and y = (v/h)^2."""
    h = torch.hypot(v, x)
    return h, h.reciprocal(), (v / h).square_()


def log_uniform(v: Tensor, x: Tensor, sign: int, terms: int) -> Tensor:
    """log I_v(x) or log K_v(x) by U_K, K = `terms`."""
    h, w, y = _scales(v, x)
    w = w.mul_(sign)
    tail = _sum(_floats(terms)[1:], w, y).mul_(w).log1p_()
    small = x < SMALL
    log_q = torch.where(small, x * 2.0**SHIFT, x).div_(v + h).log_()
    log_q = log_q.sub_(small.to(x.dtype), alpha=SHIFT * math.log(2))
    main = log_q.mul_(v).add_(h).mul_(sign)
    constant = -HALF_LOG_2PI if sign > 0 else HALF_LOG_HALF_PI
    return main.add_(h.log_().mul_(-0.5).add_(constant).add_(tail))


def uniform_ratio(v: Tensor, x: Tensor, sign: int, terms: int) -> Tensor:
    """I_(v+1) / I_v or K_(v+1) / K_v by U_K, K = `terms`."""
    h, w, y = _scales(v, x)
    signed = sign * w
    relative = _sum(_slope_floats(terms - 1), signed, y).div_(_sum(_floats(terms), signed, y))
    correction = relative.mul_(w).mul_(x / h)
    main = x / (v + h) if sign > 0 else (v + h) / x
    return main.sub_(correction, alpha=sign)


def _factors(v: Tensor, x: Tensor, sign: int, terms: int) -> Iterator[Tensor]:
    """c_k / c_(k-1) of mu_K, from the last to the first."""
    w = -0.125 * sign / x
    mw = (4 * v * v).mul_(w)
    for k in range(terms, 0, -1):
        yield torch.add(mw, w, alpha=-((2 * k - 1) ** 2)).div_(k)


def log_large(v: Tensor, x: Tensor, sign: int, terms: int) -> Tensor:
    """log I_v(x) or log K_v(x) by mu_K, K = `terms`."""
    tail = torch.zeros_like(x)
    for factor in _factors(v, x, sign, terms):
        tail = tail.add_(1).mul_(factor)
    constant = -HALF_LOG_2PI if sign > 0 else HALF_LOG_HALF_PI
    return tail.log1p_().add_(x.log().mul_(-0.5)).add_(constant).add_(x, alpha=sign)


def large_ratio(v: Tensor, x: Tensor, sign: int, terms: int) -> Tensor:
    """I_(v+1) / I_v or K_(v+1) / K_v by mu_K, K = `terms`: 1 -+ (sum_k k c_k / S + 1/2 + v) / x."""
    total, slopes = torch.zeros_like(x), torch.zeros_like(x)
    for factor in _factors(v, x, sign, terms):
        total = total.add_(1)
        slopes = slopes.add_(total).mul_(factor)
        total = total.mul_(factor)
    return slopes.div_(total.add_(1)).add_(0.5).add_(v).div_(x).mul_(-sign).add_(1)
