"""Gaussian random fields on uniform grids, drawn in float64.

Source: the generators of Li, Kovachki, Azizzadenesheli, Liu, Bhattacharya, Stuart, Anandkumar, "Fourier Neural
Operator for Parametric Partial Differential Equations", ICLR 2021, arXiv 2010.08895.

A field is drawn by its coefficients on the given grid: one generator gives on a finer grid another field of
(nearly) the same law, not the same field on more points. To have a field at several resolutions, draw it on
the finest and stride. The first fields of a larger `count` are the fields of a smaller one.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from scipy.fft import idctn
from torch import Tensor

CONVENTIONS = ("nominal", "released")


def periodic_field(
    rng: np.random.Generator,
    count: int,
    grid: int | Sequence[int],
    *,
    alpha: float,
    tau: float,
    sigma: float | None = None,
    convention: str = "nominal",
    length: float = 1.0,
) -> Float64[Tensor, "count *grid"]:
    """Fields of mean zero on the torus [0, length)^d with covariance sigma^2 (-Laplace + tau^2)^(-alpha).

    With wave numbers kappa = 2 pi k / length, k_j in {-n_j/2 .. n_j/2 - 1} (floored for odd n_j), k != 0,

        u(x) = c sigma sum_k (|kappa|^2 + tau^2)^(-alpha/2) Re(z_k e^(i kappa x)),    z_k = xi + i xi',

    xi and xi' independent N(0, 1), at x_j = j length / n_j. `nominal` has c = 1, so that Var u = sigma^2
    sum_{k != 0} (|kappa|^2 + tau^2)^(-alpha): the covariance above, in the space whose inner product is the
    mean over the torus. `released` has c = sqrt 2, twice that variance: the code that made the
    published Navier-Stokes files.

    Args:
        rng: what the coefficients are drawn from.
        count: number of fields.
        grid: points of each of the 1 to 3 axes; a number is one axis.
        alpha: exponent, above 0 (above d/2 the variance converges as the grid is refined).
        tau: inverse length, above 0.
        sigma: amplitude, above 0; None takes tau^(alpha - d/2).
        convention: `nominal` or `released`.
        length: period of the torus, on every axis.

    Raises:
        ValueError: an argument out of range.
    """
    axes = (grid,) if isinstance(grid, int) else tuple(grid)
    _check(count, axes, alpha=alpha, tau=tau, length=length)
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    amplitude = tau ** (alpha - len(axes) / 2) if sigma is None else sigma
    if not 0 < amplitude < math.inf:
        raise ValueError(f"sigma must be above 0 and finite, or None, got {sigma}")
    factor = amplitude * math.prod(axes) * (math.sqrt(2) if convention == "released" else 1)
    squares = _squares([2 * math.pi * np.fft.fftfreq(n, length / n) for n in axes])
    spectrum = factor * (squares + tau**2) ** (-alpha / 2)
    spectrum[(0,) * len(axes)] = 0
    noise = rng.standard_normal((count, *axes, 2)).view(np.complex128)[..., 0]
    noise *= spectrum
    field = torch.fft.ifftn(torch.from_numpy(noise), dim=tuple(range(1, len(axes) + 1)))
    return field.real.contiguous()


def neumann_field(
    rng: np.random.Generator, count: int, size: int, *, alpha: float, tau: float
) -> Float64[Tensor, "count size size"]:
    """Fields of mean zero on the unit square whose normal derivative vanishes at the boundary.

    With c(k) = tau^(alpha-1) (pi^2 |k|^2 + tau^2)^(-alpha/2), k_1 and k_2 in 0 .. size-1, c(0) = 0, and xi_k
    independent N(0, 1): the field is the orthonormal inverse DCT-II in both axes of `size c xi`. Its
    variance, averaged over the grid, is sum_k c(k)^2. The transform's own points are (j + 1/2) / size; the
    Darcy set takes the values as those of the nodes j / (size - 1).

    Args:
        rng: what the coefficients are drawn from.
        count: number of fields.
        size: points of each axis.
        alpha: exponent, above 0.
        tau: inverse length, above 0.

    Raises:
        ValueError: an argument out of range.
    """
    _check(count, (size, size), alpha=alpha, tau=tau)
    squares = _squares([math.pi * np.arange(size)] * 2)
    spectrum = size * tau ** (alpha - 1) * (squares + tau**2) ** (-alpha / 2)
    spectrum[0, 0] = 0
    noise = rng.standard_normal((count, size, size))
    noise *= spectrum
    return torch.from_numpy(idctn(noise, type=2, norm="ortho", axes=(1, 2)))


def _squares(numbers: Sequence[np.ndarray]) -> np.ndarray:
    """|kappa|^2 on the grid of the wave numbers of the axes."""
    squares = np.zeros(())
    for axis in numbers:
        squares = squares[..., None] + axis**2
    return squares


def _check(count: int, grid: Sequence[int], **positive: float) -> None:
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not 1 <= len(grid) <= 3 or min(grid) < 1:
        raise ValueError(f"grid must have 1 to 3 axes of at least 1 point, got {tuple(grid)}")
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}")
