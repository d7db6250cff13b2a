"""The linear systems of the SKR paper's Darcy set: the ones that its code assembles, and those of the equation.

Both have K = exp(g) on size x size nodes of the unit square, boundary included, with g a periodic Gaussian random
field of covariance tau^(2 alpha - 2) (-Laplace + tau^2)^(-alpha), alpha = 2.5, tau = 7, a constant right-hand side
and zero boundary values. The unknowns are the (size - 2)^2 interior nodes in row-major order.

- `divergence` is the 5-point scheme of `-div(K grad u) = f` with K on a face the mean of its two nodes: symmetric and
  positive definite. g has a standard deviation of 0.18 only, so the matrices are nearly Laplacians.
- `released` is what the published code makes, see `released_matrix`: not symmetric, no discretisation of that
  equation, and far harder for restarted GMRES. The paper's iteration counts are of this matrix.

Source: Wang et al., "Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling", ICLR 2024,
arXiv 2401.09516, and the code published with it, which this is an independent account of.
"""

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, diags_array

from .darcy import assemble_darcy
from .fields import periodic_field

ASSEMBLIES = ("divergence", "released")
ALPHA, TAU = 2.5, 7.0


def darcy_coefficients(seed: int, count: int, size: int) -> np.ndarray:
    """K (count, size, size), a function of the three arguments."""
    field = periodic_field(np.random.default_rng(seed), count, (size, size), alpha=ALPHA, tau=TAU)
    return np.exp(field.numpy())


def darcy_system(coefficient: np.ndarray, assembly: str = "divergence") -> tuple[csr_matrix, np.ndarray]:
    """Matrix and right-hand side of one problem with f = 1, both multiplied by h^2.

    Args:
        coefficient: K (size, size).
        assembly: divergence or released.

    Raises:
        ValueError: an unknown assembly; a coefficient that is not square, has fewer than 4 nodes a side or is not
            positive.
    """
    size = check_coefficient(coefficient)
    if assembly not in ASSEMBLIES:
        raise ValueError(f"assembly must be one of {', '.join(ASSEMBLIES)}, got {assembly!r}")
    unknowns = (size - 2) ** 2
    if assembly == "released":
        return released_matrix(coefficient), np.full(unknowns, (size - 3.0) ** -2)
    spacing = 1 / (size - 1)
    return assemble_darcy(coefficient, spacing=spacing) * spacing**2, np.full(unknowns, spacing**2)


def released_matrix(coefficient: np.ndarray) -> csr_matrix:
    """The matrix of the published code, (m^2, m^2) with m = size - 2.

    In the row of node p = i m + j: `4 K_p` on the diagonal; `-K` of the right and of the left neighbour at p + 1 and
    p - 1, but nothing across the grid's left and right edge; `-K` of the node below at p + m; and at p - m not `-K`
    of the node above p, but of the one above p - 2, the row's start notwithstanding. Without that slip the scheme
    would be that of `-Laplace(K u)`.

    Args:
        coefficient: K (size, size).
    """
    m = check_coefficient(coefficient) - 2
    inner, above, below = (
        coefficient[1:-1, 1:-1],
        coefficient[:-2, 1:-1].ravel(),
        coefficient[2:, 1:-1].ravel(),
    )
    right, left = np.zeros((2, m, m))
    right[:, :-1], left[:, 1:] = inner[:, 1:], inner[:, :-1]
    diagonals = [
        4 * inner.ravel(),
        -right.ravel()[:-1],  # entry p of the diagonal +1 is that of row p
        -left.ravel()[1:],  # entry p of the diagonal -1 is that of row p + 1
        -below[:-m],
        -above[m - 2 : -2],  # entry p of the diagonal -m is that of row p + m
    ]
    offsets: Any = [0, 1, -1, m, -m]
    return csr_matrix(diags_array(diagonals, offsets=offsets))


def check_coefficient(coefficient: np.ndarray) -> int:
    """The side of a square positive field of 4 nodes or more; ValueError for anything else."""
    if coefficient.ndim != 2 or len(set(coefficient.shape)) != 1 or len(coefficient) < 4:
        raise ValueError(f"a coefficient is (size, size) with size at least 4, got {coefficient.shape}")
    if not (np.all(np.isfinite(coefficient)) and coefficient.min() > 0):
        raise ValueError("a coefficient must be positive and finite everywhere")
    return len(coefficient)
