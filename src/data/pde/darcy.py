"""The Darcy equation -div(a grad u) = f on a square, u = 0 on its boundary: five points, second order.

On nodes with spacing h, boundary included, and with the coefficient of a face as the mean of its two nodes,

    ( a_E (u_P - u_E) + a_W (u_P - u_W) + a_N (u_P - u_N) + a_S (u_P - u_S) ) / h^2 = f_P

at every interior node: a symmetric positive definite M-matrix. The scheme is that of Li et al., "Fourier Neural
Operator for Parametric Partial Differential Equations", ICLR 2021, arXiv 2010.08895, whose released programme
moves the coefficient from cell centres to nodes by splines before it solves, and the solution back; here all
stay at the nodes.

Three ways to solve: `direct` (sparse LU, minimum degree ordering), `cg` (conjugate gradients preconditioned by
the fast Poisson solver, on the coefficients' own device) and `skr` (sorted systems, recycled Krylov spaces, with
ILU(0)). Per 1000 two-phase samples on one core, seconds of `direct` and of `cg`: 2 and 2 at 43 nodes, 8 and 6 at
85, 27 and 16 at 141, 118 and 33 at 211; `cg` 148 at 421. `skr` took 15 at 43 and 66 at 85. Where the contrast is
in the ten thousands (`Trigonometric`) `cg` needs hundreds of steps and `direct` is 8-25 times faster.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float64
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

from ...errors import SolverError
from .darcy_cg import conjugate_gradients

SOLVERS = ("direct", "cg", "skr")


def assemble_darcy(coefficient: np.ndarray, *, spacing: float) -> csr_matrix:
    """The matrix of -div(a grad .) on the m x m interior nodes, (m^2, m^2), node (i, j) in row i m + j.

    Args:
        coefficient: a at the nodes with the boundary's, (m + 2, m + 2).
        spacing: distance of neighbouring nodes.
    """
    a = coefficient / spacing**2
    first = (a[1:, 1:-1] + a[:-1, 1:-1]) / 2
    second = (a[1:-1, 1:] + a[1:-1, :-1]) / 2
    centre = first[1:] + first[:-1] + second[:, 1:] + second[:, :-1]
    stencil = np.stack([-first[:-1], -second[:, :-1], centre, -second[:, 1:], -first[1:]], axis=-1)
    kept, columns, starts = _pattern(len(centre))
    size = centre.size
    return csr_matrix((stencil.ravel()[kept], columns, starts), shape=(size, size))


def solve_darcy(
    coefficients: Float64[Tensor, "count n n"],
    source: float | Float64[Tensor, "*any n n"] = 1.0,
    *,
    length: float = 1.0,
    solver: str = "direct",
    tolerance: float = 1e-9,
    max_iterations: int = 2000,
) -> Float64[Tensor, "count n n"]:
    """Solutions of -div(a grad u) = f at all nodes, zero on the boundary.

    Args:
        coefficients: a > 0 at the nodes of grids that include the boundary; `direct` and `skr` take CPU tensors.
        source: f: a number, a field (n, n) for all samples or one for each, (count, n, n).
        length: side of the square.
        solver: `direct`, `cg` or `skr`.
        tolerance: of the residual's norm relative to the right side's; no meaning for `direct`.
        max_iterations: per sample, with `skr` products with the matrix.

    Raises:
        ValueError: an argument out of range, fewer than three nodes per axis.
        SolverError: a coefficient that is not positive and finite (with the node), a solver that did not
            converge (with its residual).
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    if not tolerance > 0 or max_iterations < 1 or not length > 0:
        raise ValueError(
            "tolerance and length must be above 0 and max_iterations at least 1, "
            f"got {tolerance}, {length} and {max_iterations}"
        )
    if solver != "cg" and coefficients.device.type != "cpu":
        raise ValueError(f"solver '{solver}' takes CPU tensors, got one on {coefficients.device}")
    check_coefficients(coefficients)
    spacing = length / (coefficients.shape[-1] - 1)
    right = torch.as_tensor(source, dtype=torch.float64, device=coefficients.device)
    right = right.expand_as(coefficients)[:, 1:-1, 1:-1]
    if solver == "cg":
        inner = conjugate_gradients(
            coefficients, right, spacing=spacing, tolerance=tolerance, max_iterations=max_iterations
        )
    elif solver == "direct":
        inner = _direct(coefficients, right, spacing)
    else:
        inner = _recycled(coefficients, right, spacing, tolerance, max_iterations)
    return torch.nn.functional.pad(inner, (1, 1, 1, 1))


def check_coefficients(coefficients: Float64[Tensor, "count n n"]) -> None:
    """Raises unless all are above 0 and finite, naming the first bad sample and node.

    Raises:
        ValueError: not float64, or fewer than three nodes per axis.
        SolverError: a bad coefficient.
    """
    if coefficients.dtype != torch.float64 or coefficients.shape[-1] < 3:
        raise ValueError(
            "coefficients must be float64 with at least 3 nodes per axis, "
            f"got {coefficients.dtype} of shape {tuple(coefficients.shape)}"
        )
    bad = ~(torch.isfinite(coefficients) & (coefficients > 0))
    if bad.any():
        sample, i, j = bad.nonzero()[0].tolist()
        value = float(coefficients[sample, i, j])
        raise SolverError(
            sample, f"the coefficient at node ({i}, {j}) is {value:g}; it must be above 0 and finite"
        )


def _direct(coefficients: Tensor, right: Tensor, spacing: float) -> Tensor:
    solutions = np.empty(right.shape)
    for sample, (a, f) in enumerate(zip(coefficients.numpy(), right.numpy(), strict=True)):
        # The transpose of a symmetric CSR matrix is the same matrix as CSC, without a copy.
        matrix = assemble_darcy(a, spacing=spacing).T
        try:
            # Positive definite: no pivoting. The relaxed supernodes and panels measured fastest, 43 .. 211.
            factors = splu(
                matrix,
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                relax=16,
                panel_size=8,
                options={"SymmetricMode": True, "Equil": False},
            )
        except RuntimeError as error:
            raise SolverError(sample, f"the sparse factorisation failed: {error}") from error
        solutions[sample] = factors.solve(np.ascontiguousarray(f).ravel()).reshape(f.shape)
    return torch.from_numpy(solutions)


def _recycled(
    coefficients: Tensor, right: Tensor, spacing: float, tolerance: float, max_products: int
) -> Tensor:
    from .recycling import solve_sequence

    fields = coefficients.numpy()
    solutions, _ = solve_sequence(
        [assemble_darcy(a, spacing=spacing) for a in fields],
        [f.ravel() for f in right.numpy()],
        tolerance=tolerance,
        parameters=fields,
        preconditioner="ilu",
        max_products=max_products,
    )
    return torch.from_numpy(np.stack(solutions).reshape(right.shape))


@lru_cache(maxsize=4)
def _pattern(interior: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CSR of the five-point stencil: which of the (m, m, 5) coefficients are there, their columns, row starts."""
    rows = np.arange(interior**2).reshape(interior, interior)
    shifts = np.array([-interior, -1, 0, 1, interior])
    there = np.ones((interior, interior, 5), bool)
    there[0, :, 0] = there[:, 0, 1] = there[:, -1, 3] = there[-1, :, 4] = False
    columns = (rows[..., None] + shifts)[there].astype(np.int32)
    starts = np.concatenate([[0], there.sum(-1).ravel().cumsum()]).astype(np.int32)
    return np.flatnonzero(there), columns, starts
