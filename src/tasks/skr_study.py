"""What recycling Krylov subspaces saves on the Darcy systems of the SKR paper, in products and in time (no training).

Wang et al., "Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling", ICLR 2024, arXiv
2401.09516, sections 5 and 6. The systems are those of `data.pde.skr_matrices`, the solvers those of
`data.pde.recycling`. Products with the matrix are deterministic; seconds are of one thread and vary.
"""

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from ..data.pde.ordering import SORTS, order_problems, path_length
from ..data.pde.preconditioners import LU, Matrix, preconditioner_maker
from ..data.pde.recycling import SequenceReport, solve_sequence
from ..data.pde.skr_matrices import ASSEMBLIES, darcy_coefficients, darcy_system
from ..errors import SolverError
from ..models.arguments import check_choice

STUDIED = ("skr", "gmres", "cg", "direct")
TOLERANCES = {"1e-2": 1e-2, "1e-5": 1e-5, "1e-8": 1e-8}


@dataclass(frozen=True)
class SKRStudy:
    """Mean cost of one system of a sequence.

    Calling it returns, for each relative residual t of 1e-2, 1e-5 and 1e-8,

    | name | meaning |
    |---|---|
    | `products/t` | products with the matrix per system, SKR's for C included, a capped system with its cap |
    | `seconds/t` | seconds per system, preconditioner included, sorting not |
    | `unsolved/t` | systems that did not get there within the cap |

    The direct solver makes no product, and its time is the same for all t. GMRES and CG are run once, to 1e-8; what
    SKR hands on depends on where it stops, so that it is run for each t.

    Args:
        method: `skr` (GCRO-DR(40, 20) on the sorted sequence), `gmres` (GMRES(40)), `cg`, `direct` (sparse LU).
        assembly: `divergence` or `released`, see `data.pde.skr_matrices`.
        preconditioner: none, jacobi, ilu or lu.
        precond_lag: how many successive systems share a preconditioner.
        size: nodes on a side, boundary included; a system has (size - 2)^2 unknowns.
        systems: N.
        sort: none, greedy, greedy_lowfreq or gray, by K; SKR alone depends on it where `precond_lag` is 1.
        max_products: the cap per system.
        seed: of the fields.

    Raises:
        ValueError: an unknown choice, a number out of range, `cg` on the released matrix, which is not symmetric.
    """

    method: str = "skr"
    assembly: str = "divergence"
    preconditioner: str = "none"
    precond_lag: int = 1
    size: int = 52
    systems: int = 30
    sort: str = "greedy"
    max_products: int = 10000
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, STUDIED)
        check_choice("assembly", self.assembly, ASSEMBLIES)
        check_choice("sort", self.sort, SORTS)
        preconditioner_maker(self.preconditioner, self.precond_lag)
        _check_numbers(self.size, self.systems)
        if self.max_products < 1:
            raise ValueError(f"max_products is {self.max_products}, it must be at least 1")
        if self.method == "cg" and self.assembly == "released":
            raise ValueError("method cg needs a symmetric matrix, the released one is not")

    def __call__(self) -> dict[str, float]:
        fields = darcy_coefficients(self.seed, self.systems, self.size)
        matrices, rhs = _systems(fields, self.assembly)
        if self.method == "direct":
            costs = {"products": 0.0, "seconds": _direct_seconds(matrices, rhs), "unsolved": 0.0}
            return {f"{name}/{label}": cost for label in TOLERANCES for name, cost in costs.items()}
        found, report = {}, None
        for label, tolerance in sorted(TOLERANCES.items(), key=lambda item: item[1]):
            if report is None or self.method == "skr":
                report = self._solve(matrices, rhs, fields, tolerance)
            products, seconds, unsolved = _costs(report, tolerance)
            found |= {
                f"products/{label}": products, f"seconds/{label}": seconds, f"unsolved/{label}": unsolved
            }  # fmt: skip
        return found

    def _solve(
        self, matrices: list[Matrix], rhs: list[np.ndarray], fields: np.ndarray, tolerance: float
    ) -> SequenceReport:
        return solve_sequence(
            matrices,
            rhs,
            tolerance=tolerance,
            parameters=fields,
            sort=self.sort,
            preconditioner=self.preconditioner,
            precond_lag=self.precond_lag,
            method=self.method,
            max_products=self.max_products,
            on_failure="count",
        )[1]


@dataclass(frozen=True)
class SortingStudy:
    """SKR without preconditioner on one sequence, sorted and as drawn.

    Calling it returns `products/sorted` and `products/unsorted` (per system), `delta/sorted` and `delta/unsorted` (the
    mean over all systems but the first of the distance from the 20 slowest eigenvectors to the recycled space, see
    `data.pde.recycling.delta`), and `path/sorted` and `path/unsorted`, the length of the way through the fields.

    Args:
        sort: greedy, greedy_lowfreq or gray.
        assembly, size, systems, seed: as for `SKRStudy`.
        tolerance: relative residual to reach.

    Raises:
        ValueError: an unknown choice, a number out of range.
    """

    sort: str = "greedy"
    assembly: str = "divergence"
    tolerance: float = 1e-5
    size: int = 52
    systems: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("sort", self.sort, SORTS[1:])
        check_choice("assembly", self.assembly, ASSEMBLIES)
        _check_numbers(self.size, self.systems)
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}, it must lie between 0 and 1")

    def __call__(self) -> dict[str, float]:
        fields = darcy_coefficients(self.seed, self.systems, self.size)
        matrices, rhs = _systems(fields, self.assembly)
        found = {}
        for name, sort in (("sorted", self.sort), ("unsorted", "none")):
            report = solve_sequence(
                matrices, rhs, tolerance=self.tolerance, parameters=fields, sort=sort, measure_delta=True
            )[1]
            found[f"products/{name}"] = float(report.products.mean())
            found[f"delta/{name}"] = float(np.nanmean(report.deltas))
            found[f"path/{name}"] = path_length(fields, order_problems(fields, sort))
        return found


def _systems(fields: np.ndarray, assembly: str) -> tuple[list[Matrix], list[np.ndarray]]:
    pairs = [darcy_system(field, assembly) for field in fields]
    return [matrix for matrix, _ in pairs], [b for _, b in pairs]


def _costs(report: SequenceReport, tolerance: float) -> tuple[float, float, float]:
    """Mean products and seconds until `tolerance`, and how many systems stayed above it."""
    runs = [solution.progress for solution in report.solutions]
    reached = [run.at(tolerance) for run in runs]
    # What a run took beside its iterations: the preconditioner.
    beside = report.seconds - [run.history[-1][2] for run in runs]
    products, seconds = (np.array(values) for values in zip(*reached, strict=True))
    unsolved = sum(all(residual > tolerance for _, residual, _ in run.history) for run in runs)
    return float(products.mean()), float((seconds + beside).mean()), float(unsolved)


def _direct_seconds(matrices: list[Matrix], rhs: list[np.ndarray]) -> float:
    begun = perf_counter()
    for i, (matrix, b) in enumerate(zip(matrices, rhs, strict=True)):
        try:
            LU(matrix).solve(b)
        except ValueError as error:
            raise SolverError(i, str(error)) from error
    return (perf_counter() - begun) / len(matrices)


def _check_numbers(size: int, systems: int) -> None:
    if size < 10:
        raise ValueError(f"size is {size}, it must be at least 10")
    if systems < 2:
        raise ValueError(f"systems is {systems}, a sequence has at least 2")
