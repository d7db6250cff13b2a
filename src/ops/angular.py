"""Coupling coefficients of angular momenta, in closed form.

All sums are over integers (Racah's formulas in binomials), so every coefficient is right to rounding at any degree:
a coefficient is `S sqrt(R)` with integer S and rational R, and `sign(S) sqrt(S^2 R)` is rounded once or twice.

The real-basis `wigner_3j` is in the convention of `sphere`, normalised to unit Frobenius norm, with the signs that
e3nn gives. The integral of three real spherical harmonics (the Gaunt coefficients, orthonormal harmonics) is

    G = |g| wigner_3j(l1, l2, l3),    g = sqrt((2 l1 + 1)(2 l2 + 1)(2 l3 + 1) / (4 pi)) (l1 l2 l3; 0 0 0),

zero unless l1 + l2 + l3 is even.
"""

import functools
import math
from fractions import Fraction
from math import comb, factorial

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

Triple = tuple[int, int, int]


def triangle(l1: int, l2: int, l3: int) -> bool:
    """Whether l3 is in the product of l1 and l2."""
    return abs(l1 - l2) <= l3 <= l1 + l2


@functools.lru_cache(maxsize=65536)
def wigner_3j_scalar(l1: int, l2: int, l3: int, m1: int, m2: int, m3: int) -> float:
    """The 3j symbol (l1 l2 l3; m1 m2 m3) of the complex basis; 0 where a selection rule says so.

    Raises:
        ValueError: a negative degree.
    """
    _check(l1, l2, l3)
    if m1 + m2 + m3 or not triangle(l1, l2, l3) or abs(m1) > l1 or abs(m2) > l2 or abs(m3) > l3:
        return 0.0
    a, b, c = l1 + l2 - l3, l1 - l2 + l3, l2 + l3 - l1
    low, high = max(0, l1 - m1 - b, l2 + m2 - c), min(a, l1 - m1, l2 + m2)
    total = sum(
        (-1) ** t * comb(a, t) * comb(b, l1 - m1 - t) * comb(c, l2 + m2 - t) for t in range(low, high + 1)
    )
    squares = math.prod(factorial(j + m) * factorial(j - m) for j, m in ((l1, m1), (l2, m2), (l3, m3)))
    below = math.prod(map(factorial, (l1 + l2 + l3 + 1, a, b, c)))
    return _rooted(_sign(l1 - l2 - m3) * total, Fraction(squares, below))


@functools.lru_cache(maxsize=65536)
def wigner_6j(j1: int, j2: int, j3: int, j4: int, j5: int, j6: int) -> float:
    """The 6j symbol {j1 j2 j3; j4 j5 j6} of integer degrees; 0 where a triangle does not close."""
    _check(j1, j2, j3, j4, j5, j6)
    triads = ((j1, j2, j3), (j1, j5, j6), (j4, j2, j6), (j4, j5, j3))
    if not all(triangle(*triad) for triad in triads):
        return 0.0
    return _rooted(_racah_sum(j1, j2, j3, j4, j5, j6), math.prod(map(_delta, triads), start=Fraction(1)))


@functools.lru_cache(maxsize=65536)
def wigner_9j(j1: int, j2: int, j3: int, j4: int, j5: int, j6: int, j7: int, j8: int, j9: int) -> float:
    """The 9j symbol {j1 j2 j3; j4 j5 j6; j7 j8 j9} of integer degrees; 0 where a row or column does not close.

    `sum_k (2k + 1) {j1 j2 j3; j6 j9 k} {j4 j5 j6; j2 k j8} {j7 j8 j9; k j1 j4}`; the triads with k occur twice each,
    so that the sum is rational times the common root.
    """
    _check(j1, j2, j3, j4, j5, j6, j7, j8, j9)
    rows = ((j1, j2, j3), (j4, j5, j6), (j7, j8, j9))
    triads = (*rows, *zip(*rows, strict=True))
    if not all(triangle(*triad) for triad in triads):
        return 0.0
    total = Fraction(0)
    for k in range(max(abs(j1 - j9), abs(j2 - j6), abs(j4 - j8)), min(j1 + j9, j2 + j6, j4 + j8) + 1):
        sums = _racah_sum(j1, j2, j3, j6, j9, k) * _racah_sum(j4, j5, j6, j2, k, j8)
        sums *= _racah_sum(j7, j8, j9, k, j1, j4)
        total += (2 * k + 1) * sums * _delta((j1, j9, k)) * _delta((j2, j6, k)) * _delta((j4, j8, k))
    return _rooted(total, math.prod(map(_delta, triads), start=Fraction(1)))


def _check(*degrees: int) -> None:
    if min(degrees) < 0:
        raise ValueError(f"degrees {degrees}: none may be negative")


def _sign(power: int) -> int:
    """(-1)^power, of negative powers too."""
    return -1 if power % 2 else 1


def _rooted(total: int | Fraction, square: Fraction) -> float:
    """total sqrt(square), rounded at the end."""
    root = math.sqrt(total * total * square)
    return -root if total < 0 else root


def _delta(triad: Triple) -> Fraction:
    """The square of the triangle coefficient."""
    a, b, c = triad
    above = factorial(a + b - c) * factorial(a - b + c) * factorial(b + c - a)
    return Fraction(above, factorial(a + b + c + 1))


def _racah_sum(j1: int, j2: int, j3: int, j4: int, j5: int, j6: int) -> int | Fraction:
    """The sum of Racah's formula, without the triangle coefficients."""
    below = (j1 + j2 + j3, j1 + j5 + j6, j4 + j2 + j6, j4 + j5 + j3)
    above = (j1 + j2 + j4 + j5, j2 + j3 + j5 + j6, j3 + j1 + j6 + j4)
    total = Fraction(0)
    for t in range(max(below), min(above) + 1):
        divisor = math.prod(factorial(t - b) for b in below) * math.prod(factorial(a - t) for a in above)
        total += Fraction((-1) ** t * factorial(t + 1), divisor)
    return total


def wigner_3j(l1: int, l2: int, l3: int) -> Float64[Tensor, "order1 order2 order3"]:
    """The invariant tensor of three degrees in the real basis, of norm 1: e3nn's `o3.wigner_3j`, of any degree.

    Raises:
        ValueError: degrees that do not form a triangle.
    """
    return _real_3j(l1, l2, l3).clone()


@functools.lru_cache(maxsize=4096)
def _real_3j(l1: int, l2: int, l3: int) -> Tensor:
    _check(l1, l2, l3)
    if not triangle(l1, l2, l3):
        raise ValueError(f"degrees {(l1, l2, l3)}: {l3} is not in the product of {l1} and {l2}")
    couplings = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1), complex)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            # the Clebsch-Gordan coefficient <l1 m1 l2 m2 | l3 m3> over sqrt(2 l3 + 1)
            value = _sign(l1 - l2 + m1 + m2) * wigner_3j_scalar.__wrapped__(l1, l2, l3, m1, m2, -m1 - m2)
            couplings[m1 + l1, m2 + l2, m1 + m2 + l3] = value
    q1, q2, q3 = map(_complex_basis, (l1, l2, l3))
    real = np.einsum("abc,ai,bj,ck->ijk", couplings, q1, q2, q3.conj(), optimize=True).real
    return torch.from_numpy(np.ascontiguousarray(real))


def _complex_basis(degree: int) -> np.ndarray:
    """q[m, i]: the complex component m (rows) of the real component i (columns), with e3nn's phase (-i)^degree."""
    size, n = 2 * degree + 1, degree
    q = np.zeros((size, size), complex)
    q[n, n] = 1
    for m in range(1, n + 1):
        q[n - m, n + m], q[n - m, n - m] = math.sqrt(0.5), -1j * math.sqrt(0.5)
        q[n + m, n + m], q[n + m, n - m] = (-1) ** m * math.sqrt(0.5), 1j * (-1) ** m * math.sqrt(0.5)
    return (-1j) ** n * q


@functools.lru_cache(maxsize=65536)
def gaunt_factor(l1: int, l2: int, l3: int) -> float:
    """|g| of the module, the norm of the integral of three harmonics; 0 for an odd sum or outside the triangle."""
    sizes = (2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1)
    return math.sqrt(sizes / (4 * math.pi)) * abs(wigner_3j_scalar(l1, l2, l3, 0, 0, 0))


def gaunt(l1: int, l2: int, l3: int) -> Float64[Tensor, "order1 order2 order3"]:
    """The integrals over the sphere of `Y_{l1 m1} Y_{l2 m2} Y_{l3 m3}`, orthonormal real harmonics; maybe all zero."""
    factor = gaunt_factor(l1, l2, l3)
    if factor == 0:
        return torch.zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1, dtype=torch.float64, device="cpu")
    return factor * _real_3j(l1, l2, l3)
