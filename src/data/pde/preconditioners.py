"""Preconditioners of sparse systems, with one interface: `M.solve(v)` = M^{-1} v for one vector or a block of them.

| name | M |
|---|---|
| `none` | the identity |
| `jacobi` | the diagonal of A |
| `ilu` | L U, the incomplete factorisation without fill-in and without pivoting, ILU(0) |
| `lu` | the complete sparse factorisation, of use where M is kept while A changes |

ILU(0) keeps the symmetry of A (`U = D L^H`), which conjugate gradients need; a threshold factorisation with
pivoting does not.

Source of ILU(0): Saad, "Iterative Methods for Sparse Linear Systems", 2nd edition, SIAM 2003, algorithm 10.4.
"""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from scipy.sparse import csr_matrix, eye, tril, triu
from scipy.sparse.linalg import splu

PRECONDITIONERS = ("none", "jacobi", "ilu", "lu")
# A sparse matrix by rows. scipy's own annotations say too little for a static checker.
if TYPE_CHECKING:
    Matrix = Any
else:
    Matrix = csr_matrix
# (position of a_ik, position of a_kk, [(position of a_ij, position of a_kj), ...])
_Step = tuple[int, int, list[tuple[int, int]]]


@runtime_checkable
class Preconditioner(Protocol):
    """A fixed non-singular matrix M, known by its inverse."""

    def solve(self, vectors: np.ndarray) -> np.ndarray:
        """M^{-1} times `vectors` (n,) or (n, columns)."""
        ...


class Identity:
    """M = I."""

    def solve(self, vectors: np.ndarray) -> np.ndarray:
        """`vectors` themselves."""
        return vectors


class Jacobi:
    """M = diag(A).

    Raises:
        ValueError: a zero on the diagonal.
    """

    def __init__(self, matrix: Matrix):
        diagonal = matrix.diagonal()
        if not np.all(diagonal):
            raise ValueError(f"the diagonal is zero in row {int(np.argmin(np.abs(diagonal)))}")
        self._inverse = 1 / diagonal

    def solve(self, vectors: np.ndarray) -> np.ndarray:
        """The entries divided by the diagonal."""
        return self._inverse * vectors if vectors.ndim == 1 else self._inverse[:, None] * vectors


class LU:
    """M = A, factorised completely.

    Raises:
        ValueError: a singular matrix.
    """

    def __init__(self, matrix: Matrix):
        try:
            self._factors = splu(matrix.tocsc())
        except RuntimeError as error:
            raise ValueError("the matrix is singular") from error

    def solve(self, vectors: np.ndarray) -> np.ndarray:
        """Substitution forwards and backwards."""
        return self._factors.solve(vectors)


class ILU0:
    """M = L U with (L U)_ij = a_ij wherever a_ij is stored, L of unit diagonal, both on the pattern of A.

    Args:
        matrix: with all of its diagonal stored, column indices sorted.
        plan: the elimination steps of its pattern, from `elimination`; None works them out.

    Raises:
        ValueError: a missing or zero pivot.
    """

    def __init__(self, matrix: Matrix, plan: list[_Step] | None = None):
        values = matrix.data.tolist()
        for lower, pivot, updates in elimination(matrix) if plan is None else plan:
            if values[pivot] == 0:
                raise ValueError(f"ILU(0) meets a zero pivot in row {int(matrix.indices[pivot])}")
            factor = values[lower] = values[lower] / values[pivot]
            for target, source in updates:
                values[target] -= factor * values[source]
        factors = csr_matrix((np.array(values, matrix.dtype), matrix.indices, matrix.indptr), matrix.shape)
        if not np.all(factors.diagonal()):
            row = int(np.argmin(np.abs(factors.diagonal())))
            raise ValueError(f"ILU(0) meets a zero pivot in row {row}")
        self._lower = _triangular(tril(factors, -1) + eye(matrix.shape[0], dtype=matrix.dtype))
        self._upper = _triangular(triu(factors))

    def solve(self, vectors: np.ndarray) -> np.ndarray:
        """Substitution forwards and backwards."""
        return self._upper.solve(self._lower.solve(vectors))


def _triangular(matrix):
    """A solver for a triangular matrix: SuperLU without permutations has nothing to eliminate there."""
    return splu(matrix.tocsc(), permc_spec="NATURAL", diag_pivot_thresh=0.0)


def elimination(matrix: Matrix) -> list[_Step]:
    """The steps of ILU(0) as positions among the stored values; they depend on the pattern alone.

    Raises:
        ValueError: a row without a stored diagonal entry.
    """
    starts, columns = matrix.indptr.tolist(), matrix.indices.tolist()
    rows = [dict(zip(columns[a:b], range(a, b), strict=True)) for a, b in itertools.pairwise(starts)]
    missing = next((i for i, row in enumerate(rows) if i not in row), None)
    if missing is not None:
        raise ValueError(f"ILU(0) needs the diagonal entry of row {missing}, which is not stored")
    plan = []
    for i, row in enumerate(rows):
        for k in sorted(column for column in row if column < i):
            shared = [(row[j], source) for j, source in rows[k].items() if j > k and j in row]
            plan.append((row[k], rows[k][k], shared))
    return plan


class _CachedILU0:
    """Makes `ILU0`, and keeps the plan while the pattern stays the same."""

    def __init__(self) -> None:
        self._pattern: tuple[np.ndarray, np.ndarray] | None = None
        self._plan: list[_Step] = []

    def __call__(self, matrix: Matrix) -> ILU0:
        pattern = (matrix.indptr, matrix.indices)
        if self._pattern is None or not all(map(np.array_equal, pattern, self._pattern)):
            self._pattern, self._plan = pattern, elimination(matrix)
        return ILU0(matrix, self._plan)


def preconditioner_maker(name: str, lag: int = 1) -> Callable[[Matrix], Preconditioner]:
    """What makes the preconditioner `name` of the matrices of a sequence, one after another.

    Args:
        name: none, jacobi, ilu or lu.
        lag: how many successive systems share one preconditioner, that of the first of them.

    Raises:
        ValueError: an unknown name, `lag` below 1.
    """
    if name not in PRECONDITIONERS:
        raise ValueError(f"preconditioner must be one of {', '.join(PRECONDITIONERS)}, got {name!r}")
    if lag < 1:
        raise ValueError(f"precond_lag is {lag}, it must be at least 1")
    make: Callable[[Matrix], Preconditioner] = {
        "none": lambda matrix: Identity(),
        "jacobi": Jacobi,
        "ilu": _CachedILU0(),
        "lu": LU,
    }[name]
    return make if lag == 1 else _Lagged(make, lag)


class _Lagged:
    """Makes a new preconditioner at every `lag`-th call only."""

    def __init__(self, make: Callable[[Matrix], Preconditioner], lag: int):
        self._make, self._lag, self._calls = make, lag, 0
        self._kept: Preconditioner = Identity()

    def __call__(self, matrix: Matrix) -> Preconditioner:
        if self._calls % self._lag == 0:
            self._kept = self._make(matrix)
        self._calls += 1
        return self._kept
