"""The Helmholtz equation Lap u + k(x)^2 u = f on a square grid; sparse LU.

Two boundaries: the box whose last side along the second axis is driven, du/dn = q(x1) there and 0 on the other
three (`solve_helmholtz`), and u = 0 on all sides (`assemble_helmholtz`, five points, for studies of iterative
solvers).

The box is discretised with the path's Laplacian T = tridiag(-1, 2, -1), (1, -1) at the ends, and a mass matrix
M = tridiag(theta, 1 - 2 theta, theta), 1/2 - theta at the ends, of each axis:

    -(T (x) M + M (x) T) u / h^2 + (M (x) M)(k^2 u) = (M (x) M) f - (M q) / h at the driven side.

theta = 0 is `differences` (five points, Neumann sides by ghost nodes), theta = 1/6 `elements` (bilinear), both of
second order: the wave number is off by the factor 1 -+ (k h)^2 / 24. theta = 1/12 is `compact` (nine points), whose
waves are of fourth order, off by (k h)^4 / 480. That matters, since a box without damping answers to the distance
of k^2 from its next eigenvalue: at k = 50 the eigenvalues lie 13 apart, and at 101 nodes second order moves them
by 52, fourth order by 0.6. `compact` is of fourth order altogether where q is smooth, and k^2 and f have no slope
across the sides.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float64
from scipy.sparse import csc_matrix, csr_matrix, kron
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

from ...errors import SolverError
from .darcy import assemble_darcy

MAX_CONDITION = 1e10  # beyond it half of float64's digits are gone and float32 targets are in doubt
MAX_RESIDUAL = 1e-9
SCHEMES = {"differences": 0.0, "compact": 1 / 12, "elements": 1 / 6}  # theta


def assemble_helmholtz(wave_number: np.ndarray, *, spacing: float) -> csr_matrix:
    """The matrix of -Lap u - k^2 u on the interior nodes with u = 0 on the boundary: symmetric, indefinite.

    Args:
        wave_number: k at the nodes with the boundary's, (m + 2, m + 2).
        spacing: distance of neighbouring nodes.
    """
    matrix = assemble_darcy(np.ones_like(wave_number), spacing=spacing)
    matrix.setdiag(matrix.diagonal() - wave_number[1:-1, 1:-1].ravel() ** 2)
    return matrix


def solve_helmholtz(
    wave_numbers: Float64[Tensor, "count n n"],
    flux: Float64[Tensor, " n"],
    source: float | Float64[Tensor, "*any n n"] = 0.0,
    *,
    length: float = 1.0,
    scheme: str = "compact",
    max_condition: float = MAX_CONDITION,
) -> Float64[Tensor, "count n n"]:
    """Solutions at all nodes of Lap u + k^2 u = f in a box with one driven side, three free ones.

    Args:
        wave_numbers: k at the nodes, the boundary's included; CPU.
        flux: q = du/dx2 at the nodes of the side x2 = length (last index of the second axis).
        source: f: a number, a field (n, n) or one for each sample.
        length: side of the square.
        scheme: `compact`, `differences` or `elements`, see the file's head.
        max_condition: the estimate of the matrix' condition from which a sample counts as resonant.

    Raises:
        ValueError: not float64 or not on the CPU, fewer than three nodes per axis, a length that is not above 0, an
            unknown scheme.
        SolverError: a wave number that is not finite, a box (nearly) in resonance, a residual that stays large.
    """
    _check_input(wave_numbers, length, scheme)
    count, size = wave_numbers.shape[:2]
    spacing = length / (size - 1)
    mass = _mass(size, scheme)
    k = wave_numbers.numpy()
    right = mass @ torch.as_tensor(source, dtype=torch.float64).expand_as(wave_numbers).numpy() @ mass
    right[:, :, -1] -= _effective_flux(k[:, :, -1], flux.numpy(), spacing, scheme) @ mass / spacing
    solutions = np.empty((count, size, size))
    for sample in range(count):
        matrix = assemble_driven(k[sample], spacing=spacing, scheme=scheme)
        solutions[sample] = _solve(matrix, right[sample].ravel(), sample, max_condition).reshape(size, size)
    return torch.from_numpy(solutions)


def assemble_driven(wave_number: np.ndarray, *, spacing: float, scheme: str = "compact") -> csc_matrix:
    """The matrix -(T (x) M + M (x) T) / h^2 + (M (x) M) k^2 of the box, (n^2, n^2); see the file's head.

    Args:
        wave_number: k at all nodes, (n, n).
        spacing: distance of neighbouring nodes.
        scheme: `compact`, `differences` or `elements`.
    """
    size = len(wave_number)
    laplacian, mass, rows, columns, starts = _pattern(size, scheme)
    values = laplacian / spacing**2 + mass * wave_number.ravel()[columns] ** 2
    return csc_matrix((values, rows, starts), shape=(size**2, size**2))


def _check_input(wave_numbers: Tensor, length: float, scheme: str) -> None:
    if not length > 0:
        raise ValueError(f"length must be above 0, got {length}")
    if wave_numbers.device.type != "cpu":
        raise ValueError(f"wave_numbers must be on the CPU, got a tensor on {wave_numbers.device}")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    if wave_numbers.dtype != torch.float64 or wave_numbers.shape[-1] < 3:
        raise ValueError(
            "wave_numbers must be float64 with at least 3 nodes per axis, "
            f"got {wave_numbers.dtype} of shape {tuple(wave_numbers.shape)}"
        )
    bad = ~torch.isfinite(wave_numbers)
    if bad.any():
        sample, i, j = bad.nonzero()[0].tolist()
        raise SolverError(sample, f"the wave number at node ({i}, {j}) is not finite")


def _effective_flux(k: np.ndarray, flux: np.ndarray, spacing: float, scheme: str) -> np.ndarray:
    """q, with `compact` less (h^2 / 12)(k^2 q + q''): the term of u's third normal derivative; (count, n)."""
    if scheme != "compact":
        return np.broadcast_to(flux, k.shape)
    bent = np.diff(np.pad(flux, 1, mode="reflect"), n=2)
    return flux - (spacing**2 * k**2 * flux + bent) / 12


def _solve(matrix: csc_matrix, right: np.ndarray, sample: int, max_condition: float) -> np.ndarray:
    """One solve with two checks: the condition, from below by inverse iteration, and the residual."""
    norm = float(abs(matrix).sum(0).max())
    try:
        factors = splu(
            matrix,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.01,  # indefinite: keep the diagonal unless it is tiny
            relax=16,
            panel_size=8,
            options={"SymmetricMode": True, "Equil": False},
        )
    except RuntimeError as error:
        raise SolverError(sample, f"the box is in resonance, the matrix is singular: {error}") from error
    condition = norm * _inverse_norm(factors, len(right))
    if not condition <= max_condition:
        raise SolverError(
            sample,
            f"the box is nearly in resonance: condition at least {condition:.1e} (max_condition {max_condition:g})",
        )
    solution = factors.solve(right)
    solution += factors.solve(right - matrix @ solution)
    scale = norm * np.linalg.norm(solution) + np.linalg.norm(right)
    residual = np.linalg.norm(right - matrix @ solution) / scale if scale else 0.0
    if not residual <= MAX_RESIDUAL:
        raise SolverError(
            sample, f"sparse LU left a relative residual of {residual:.1e} (limit {MAX_RESIDUAL:g})"
        )
    return solution


def _inverse_norm(factors: SuperLU, size: int, steps: int = 3) -> float:
    """A lower bound of the inverse's norm, by inverse iteration from a fixed random vector."""
    vector = np.random.default_rng(0).standard_normal(size)
    norm = 0.0
    for _ in range(steps):
        vector = factors.solve(vector / np.linalg.norm(vector))
        norm = float(np.linalg.norm(vector))
        if not np.isfinite(norm):
            return np.inf
    return norm


def _mass(size: int, scheme: str) -> np.ndarray:
    """M, (n, n)."""
    theta = SCHEMES[scheme]
    mass = theta * (np.eye(size, k=1) + np.eye(size, k=-1)) + (1 - 2 * theta) * np.eye(size)
    mass[[0, -1], [0, -1]] = 0.5 - theta
    return mass


@lru_cache(maxsize=4)
def _pattern(size: int, scheme: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """CSC: the values of -(T (x) M + M (x) T) and of M (x) M, rows and columns of both, column starts."""
    path = 2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)
    path[[0, -1], [0, -1]] = 1.0
    ones, both = csc_matrix(path), csc_matrix(_mass(size, scheme))
    laplacian = csc_matrix(-(kron(ones, both) + kron(both, ones)))
    laplacian.sort_indices()
    rows, starts = laplacian.indices, laplacian.indptr
    columns = np.repeat(np.arange(size**2), np.diff(starts))
    mass = np.asarray(csr_matrix(kron(both, both))[rows, columns]).ravel()
    return np.asarray(laplacian.data), mass, rows, columns, starts
