"""Krylov solvers of `A x = b` that count their products with A: restarted GMRES, conjugate gradients.

With a preconditioner M, GMRES solves `A M^{-1} y = b`, `x = M^{-1} y`, so that its residual is that of the system
itself. All solvers stop at the first product at which `||b - A x|| <= tolerance ||b||` (2-norm) by their recurrence,
inside a cycle too. Matrices and vectors are float64 or complex128. A zero right-hand side gives zero.

The residual norm of GMRES inside a cycle needs no rotations: with `A V_j = V_{j+1} H` and `l` the row with `l H = 0`
and `l_0 = 1`, which one more column of H extends by one entry, it is `||r_0|| / ||l||`.

Sources: Saad, Schultz, "GMRES", SIAM J. Sci. Stat. Comput. 7, 1986; Hestenes, Stiefel, J. Res. NBS 49, 1952.
"""

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from .preconditioners import Identity, Matrix, Preconditioner

BREAKDOWN = 1e-14  # a new direction below this part of the product it came from is rounding


class Progress:
    """Products with A spent on one system, and the relative residual and the seconds after each iteration.

    Args:
        norm: of the right-hand side, not 0.
        tolerance: relative residual at which the system counts as solved.
        max_products: at which the solver gives up.

    Raises:
        ValueError: `tolerance` or `max_products` out of range.
    """

    def __init__(self, norm: float, tolerance: float, max_products: int):
        check_limits(tolerance, max_products)
        self.norm, self.tolerance, self.max_products = norm, tolerance, max_products
        self.products = 0
        self.history: list[tuple[int, float, float]] = []
        self._start = perf_counter()

    def record(self, residual: float) -> None:
        """Notes a residual norm."""
        self.history.append((self.products, residual / self.norm, perf_counter() - self._start))

    @property
    def residual(self) -> float:
        """The last relative residual; 1 before there is one."""
        return self.history[-1][1] if self.history else 1.0

    @property
    def converged(self) -> bool:
        """Whether the last residual meets the tolerance."""
        return self.residual <= self.tolerance

    @property
    def done(self) -> bool:
        """Whether to stop: solved, or no product left."""
        return self.converged or self.products >= self.max_products

    def at(self, tolerance: float) -> tuple[int, float]:
        """Products and seconds until the residual first met `tolerance`; all there were if it never did."""
        last = self.history[-1] if self.history else (0, 0.0, 0.0)
        products, _, seconds = next((entry for entry in self.history if entry[1] <= tolerance), last)
        return products, seconds


@dataclass(frozen=True)
class Solution:
    """The last iterate `x`, how it came about, and whether the recurrence met the tolerance."""

    x: np.ndarray
    progress: Progress

    @property
    def converged(self) -> bool:
        """Whether the recurrence met the tolerance."""
        return self.progress.converged


class Product:
    """`v -> A M^{-1} v` for vectors and blocks, counted in `progress`."""

    def __init__(self, matrix: Matrix, preconditioner: Preconditioner, progress: Progress):
        self.matrix, self.preconditioner, self.progress = matrix, preconditioner, progress

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """The products; one is counted for each column."""
        self.progress.products += 1 if vectors.ndim == 1 else vectors.shape[1]
        return self.matrix @ self.preconditioner.solve(vectors)


@dataclass(frozen=True)
class Cycle:
    """`A M^{-1} V_j = [C, V_{j+1}] image`, [C, V_{j+1}] = `basis` orthonormal, C its first `fixed` columns.

    `image` is [B; H] with H upper Hessenberg. After a breakdown (the space is invariant up to C) there is no
    v_{j+1}, and H is square.
    """

    basis: np.ndarray
    image: np.ndarray
    fixed: int

    @property
    def searched(self) -> np.ndarray:
        """V_j, (n, j)."""
        return self.basis[:, self.fixed : self.fixed + self.image.shape[1]]

    @property
    def broke_down(self) -> bool:
        """Whether the next direction vanished."""
        return self.image.shape[0] - self.fixed == self.image.shape[1]

    def minimise(self, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`y` that minimises `||residual - A M^{-1} V y||` in the complement of C, and the components
        (C, V_{j+1}) of `residual`, which lies in their span.
        """
        components = project(self.basis, residual)
        return np.linalg.lstsq(self.image[self.fixed :], components[self.fixed :], rcond=None)[0], components


def project(basis: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """`basis^H vector`, without a conjugated copy of the basis."""
    if np.iscomplexobj(basis):
        return (vector.conj() @ basis).conj()
    return vector @ basis


def arnoldi(product: Product, residual: np.ndarray, steps: int, fixed: np.ndarray | None = None) -> Cycle:
    """At most `steps` Arnoldi steps with `(I - C C^H) A M^{-1}` from residual / ||residual||, C = `fixed`.

    Ends early where the residual of the minimiser meets the tolerance (`residual` must be orthogonal to C), at the
    limit of products, and at a breakdown. Orthogonalised by blocked classical Gram-Schmidt, twice.
    """
    k, progress = 0 if fixed is None else fixed.shape[1], product.progress
    basis = np.empty((residual.size, k + steps + 1), residual.dtype, order="F")
    if fixed is not None:
        basis[:, :k] = fixed
    start = float(np.linalg.norm(residual))
    basis[:, k] = residual / start
    image = np.zeros((k + steps + 1, steps), residual.dtype)
    null = np.ones(steps + 1, residual.dtype)  # the row l of the module's docstring
    for j in range(steps):
        w = product(basis[:, k + j])
        size, span = np.linalg.norm(w), basis[:, : k + j + 1]
        for _ in range(2):
            part = project(span, w)
            w -= span @ part
            image[: k + j + 1, j] += part
        below = np.linalg.norm(w)
        if not below > BREAKDOWN * size:
            return Cycle(span, image[: k + j + 1, : j + 1], k)
        image[k + j + 1, j] = below
        basis[:, k + j + 1] = w / below
        null[j + 1] = -(null[: j + 1] @ image[k : k + j + 1, j]) / below
        progress.record(start / float(np.linalg.norm(null[: j + 2])))
        if progress.done:
            break
    return Cycle(basis[:, : k + j + 2], image[: k + j + 2, : j + 1], k)


def gmres(
    matrix: Matrix,
    rhs: np.ndarray,
    *,
    tolerance: float,
    restart: int = 40,
    preconditioner: Preconditioner | None = None,
    max_products: int = 10000,
) -> Solution:
    """GMRES(restart) from x = 0, preconditioned from the right.

    Args:
        matrix: (n, n), real or complex, float64 or complex128.
        rhs: (n,).
        tolerance: relative residual to reach.
        restart: Arnoldi steps per cycle.
        preconditioner: M; None for none.
        max_products: with the matrix, at most.

    Raises:
        ValueError: an argument out of range, a shape that does not fit, an entry that is not finite.
    """
    if restart < 1:
        raise ValueError(f"restart is {restart}, it must be at least 1")
    product, rhs = prepare(matrix, rhs, preconditioner, tolerance, max_products)
    progress, x, residual = product.progress, np.zeros_like(rhs), rhs
    while not progress.done:
        left = progress.max_products - progress.products
        cycle = arnoldi(product, residual, min(restart, left))
        y, components = cycle.minimise(residual)
        x = x + cycle.searched @ y
        residual = cycle.basis @ (components - cycle.image @ y)
        progress.record(float(np.linalg.norm(residual)))
        if cycle.broke_down and not progress.converged:
            break
    return Solution(product.preconditioner.solve(x), progress)


def cg(
    matrix: Matrix,
    rhs: np.ndarray,
    *,
    tolerance: float,
    preconditioner: Preconditioner | None = None,
    max_products: int = 10000,
) -> Solution:
    """Preconditioned conjugate gradients from x = 0, for a Hermitian positive definite A (and M).

    A semi-definite A will do where the system is consistent. Ends where `p^H A p` or `r^H M^{-1} r` is not positive.

    Args:
        matrix, rhs, tolerance, preconditioner, max_products: as for `gmres`.

    Raises:
        ValueError: as `gmres`; a matrix that is not Hermitian.
    """
    product, r = prepare(matrix, rhs, None, tolerance, max_products)
    if abs(matrix - matrix.conj().T).max() > 1e-12 * abs(matrix).max():
        raise ValueError("conjugate gradients need a Hermitian matrix")
    progress, solve = product.progress, (preconditioner or Identity()).solve
    x, r = np.zeros_like(r), r.copy()
    z = solve(r)
    p, rho = z.copy(), np.vdot(r, z).real
    while not progress.done and rho > 0:
        q = product(p)
        curvature = np.vdot(p, q).real
        if not curvature > 0:
            break
        x += (rho / curvature) * p
        r -= (rho / curvature) * q
        progress.record(float(np.linalg.norm(r)))
        z = solve(r)
        rho, before = np.vdot(r, z).real, rho
        p = z + (rho / before) * p
    return Solution(x, progress)


def prepare(
    matrix: Matrix,
    rhs: np.ndarray,
    preconditioner: Preconditioner | None,
    tolerance: float,
    max_products: int,
) -> tuple[Product, np.ndarray]:
    """The counted product of a system and its right-hand side in the common type; checks both.

    Raises:
        ValueError: a shape that does not fit, an entry that is not finite, a limit out of range.
    """
    if matrix.shape[0] != matrix.shape[1] or rhs.shape != matrix.shape[:1]:
        raise ValueError(f"a matrix {matrix.shape} and a right-hand side {rhs.shape} are no linear system")
    for name, values in (("matrix", matrix.data), ("right-hand side", rhs)):
        if not np.all(np.isfinite(values)):
            raise ValueError(f"the {name} has entries that are not finite")
    dtype = np.result_type(matrix.dtype, rhs.dtype, np.float64)
    norm = float(np.linalg.norm(rhs))
    progress = Progress(norm or 1.0, tolerance, max_products)
    if not norm:
        progress.record(0.0)
    return Product(matrix.astype(dtype, copy=False), preconditioner or Identity(), progress), rhs.astype(
        dtype
    )


def check_limits(tolerance: float, max_products: int) -> None:
    """ValueError unless 0 < tolerance < 1 and max_products >= 1."""
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}, it must lie between 0 and 1")
    if max_products < 1:
        raise ValueError(f"max_products is {max_products}, it must be at least 1")
