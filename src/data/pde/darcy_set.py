"""`Darcy`: from the permeability to the pressure, -div(a grad u) = 1, u = 0 on the boundary.

The set of Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, arXiv
2010.08895, and the sets that follow it, by the coefficient's law:

| set | coefficient | size |
|---|---|---|
| smooth | `TwoPhase()` (3 and 12, alpha = 2, tau = 3) | 421 |
| rough | `TwoPhase(tau=5)` | 513 |
| multiscale | `Trigonometric()`, on [-1, 1]^2 | 513 |
| nearly constant | `Lognormal()` | 52 .. 202 |

What differs: the released two-phase set was made with the values 4 and 12 in the demonstration programme, and
with a resampling between centres and nodes; the multiscale one by linear finite elements on 1023^2 nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from .base import FieldData, check_device, solver_device
from .coefficients import Coefficient, TwoPhase
from .darcy import SOLVERS, solve_darcy


@dataclass(frozen=True)
class DarcyProblem:
    """What is drawn and how it is solved.

    Args:
        coefficient: the law of a: `TwoPhase`, `Lognormal`, `Trigonometric` or one's own.
        size: nodes per axis, the boundary's included, at least 3.
        solver: `direct` (sparse LU), `cg` (fastest from about 85 nodes while the contrast is moderate, runs on a
            GPU) or `skr` (sorted systems, recycled Krylov spaces; slower than both here).
        tolerance: relative residual of `cg` and `skr`.
        max_iterations: of `cg` per sample; with `skr` products with the matrix.
        device: `cpu` or `cuda`, where `cg` runs; it does not change what the fields are but within `tolerance`.
    """

    coefficient: Coefficient = field(default_factory=TwoPhase)
    size: int = 421
    solver: str = "direct"
    tolerance: float = 1e-9
    max_iterations: int = 2000
    device: str = "cpu"

    def __post_init__(self):
        if self.size < 3:
            raise ValueError(f"size must be at least 3 nodes, got {self.size}")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {self.solver!r}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must be above 0 and below 1, got {self.tolerance}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations}")
        check_device(self.device)
        if self.solver != "cg" and self.device != "cpu":
            raise ValueError(
                f"device={self.device!r}: solver '{self.solver}' runs on the CPU, only cg elsewhere"
            )

    @property
    def parameters(self) -> dict[str, Any]:
        """Law, size and solver, as JSON values; a direct solver has no tolerance."""
        values = {"coefficient": self.coefficient.parameters, "size": self.size, "solver": self.solver}
        return values if self.solver == "direct" else values | {"tolerance": self.tolerance}

    def solve(self, coefficients: Float64[Tensor, "count n n"]) -> Float64[Tensor, "count n n"]:
        """Solutions at all nodes with the right side 1, on the CPU; see `solve_darcy` for the errors."""
        solutions = solve_darcy(
            coefficients.to(solver_device(self.device)),
            length=self.coefficient.length,
            solver=self.solver,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        return solutions.cpu()


class Darcy(FieldData):
    """Coefficient fields `x` (B, 1, n, n) and solutions `y` (B, 1, n, n) of -div(a grad u) = 1 on a square.

    The nodes include the boundary, where y is 0 (`points` can leave out the far sides).

    Args:
        batch_size: samples of a training batch, over all processes together.
        samples: (train, val, test).
        problem: what is drawn and how it is solved; None takes `DarcyProblem()`, the smooth set at 421 nodes.
        seed: of the run.
        data_seed: of the generator.
        stride: every how manyth node is used.
        points: keep only the first so many nodes per axis after striding.
        resolutions: further numbers of nodes at which the test samples are given.
        train_limit: train on so many of the training samples, drawn by `seed`; None takes all.
    """

    name = "darcy"
    ENDS = (True, True)

    def __init__(
        self,
        batch_size: int,
        *,
        samples: Sequence[int] = (1000, 0, 200),
        problem: DarcyProblem | None = None,
        seed: int = 0,
        data_seed: int = 0,
        stride: int = 1,
        points: int | None = None,
        resolutions: Sequence[int] = (),
        train_limit: int | None = None,
    ):
        self.problem = problem or DarcyProblem()
        super().__init__(
            batch_size,
            samples=samples,
            seed=seed,
            data_seed=data_seed,
            stride=stride,
            points=points,
            resolutions=resolutions,
            train_limit=train_limit,
        )

    def generate(self, rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        """Coefficients, then their solutions."""
        coefficients = self.problem.coefficient(rng, count, self.problem.size)
        return {"x": coefficients[:, None], "y": self.problem.solve(coefficients)[:, None]}
