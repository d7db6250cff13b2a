"""Sets of solutions of the viscous Burgers equation on the periodic unit interval.

    u_t + (u^2 / 2)_x = nu u_xx,    x in [0, 1) periodic,    u(., 0) = u_0 ~ N(0, sigma^2 (-d_xx + tau^2)^(-alpha))

Set: Li, Kovachki, Azizzadenesheli, Liu, Bhattacharya, Stuart, Anandkumar, "Fourier Neural Operator for
Parametric Partial Differential Equations", ICLR 2021, arXiv 2010.08895, where the map is u_0 -> u(., 1) at
nu = 0.1, solved on 8192 points by split steps, forward Euler for the nonlinear part, and strided. Here the
solver is another one, see `burgers_solver`, and the grid of the solver a parameter.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from .base import FieldData
from .burgers_solver import solve_burgers
from .fields import CONVENTIONS, periodic_field


@dataclass(frozen=True)
class BurgersProblem:
    """The equation, its initial states and how it is solved.

    Attributes:
        viscosity: nu, above 0.
        size: points of the solver's grid.
        dt: the longest time step; halving the default changes u(., 1) by less than 1e-6, relative, also at
            nu = 1e-3.
        alpha, tau, sigma, convention: of the law of the initial states, see `periodic_field`; the default is
            N(0, 625 (-d_xx + 25)^-2), whose standard deviation is 0.60.
    """

    viscosity: float = 0.1
    size: int = 8192
    dt: float = 0.0025
    alpha: float = 2.0
    tau: float = 5.0
    sigma: float = 25.0
    convention: str = "nominal"

    def __post_init__(self):
        for name in ("viscosity", "dt", "alpha", "tau", "sigma"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}")
        if self.size < 4:
            raise ValueError(f"size must be at least 4, got {self.size}")
        if self.convention not in CONVENTIONS:
            raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {self.convention!r}")

    @property
    def parameters(self) -> dict[str, Any]:
        """All of the attributes, as JSON values."""
        return asdict(self)

    def initial(self, rng: np.random.Generator, count: int) -> Float64[Tensor, "count size"]:
        """Initial states on the solver's grid."""
        law = {"alpha": self.alpha, "tau": self.tau, "sigma": self.sigma, "convention": self.convention}
        return periodic_field(rng, count, self.size, **law)

    def solve(
        self, initial: Float64[Tensor, "count size"], times: Sequence[float]
    ) -> Float64[Tensor, "count times size"]:
        """The states at the given times, see `solve_burgers`."""
        return solve_burgers(initial, viscosity=self.viscosity, times=times, dt=self.dt)


class Burgers(FieldData):
    """`x` (B, 1, n): u_0; `y` (B, 1, n): u(., 1), at x_j = j / n, strided from the solver's grid.

    The harder set of a later release has nu = 1e-3, alpha = 2.5, tau = 7, sigma = 49.

    Args:
        batch_size: samples of a training batch.
        problem: equation, law of the initial states, solver.
        samples: (train, val, test); published are 1000, 0, 200.
        seed, data_seed, stride, resolutions, train_limit: see `FieldData`.
    """

    name = "burgers"
    ENDS = (False,)

    def __init__(
        self,
        batch_size: int,
        *,
        problem: BurgersProblem = BurgersProblem(),
        samples: Sequence[int] = (1000, 0, 200),
        seed: int = 0,
        data_seed: int = 0,
        stride: int = 1,
        resolutions: Sequence[int] = (),
        train_limit: int | None = None,
    ):
        self.problem = problem
        super().__init__(
            batch_size,
            samples=samples,
            seed=seed,
            data_seed=data_seed,
            stride=stride,
            resolutions=resolutions,
            train_limit=train_limit,
        )

    def generate(self, rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        """Initial and final states, (count, 1, size)."""
        start = self.problem.initial(rng, count)
        return {"x": start.unsqueeze(1), "y": self.problem.solve(start, (1.0,))}


class BurgersSpaceTime(FieldData):
    """`y` (B, 1, T, n): u at T times that divide [0, 1] evenly, both ends included, and n points.

    `x` (B, 1, T, n): u_0, repeated along time.

    Args:
        batch_size: samples of a training batch.
        problem: equation, law of the initial states, solver.
        grid: (T, n); n divides the solver's points.
        samples, seed, data_seed, stride, train_limit: see `FieldData`.
    """

    name = "burgers_space_time"
    ENDS = (True, False)

    def __init__(
        self,
        batch_size: int,
        *,
        problem: BurgersProblem = BurgersProblem(viscosity=0.01, size=1024),
        grid: Sequence[int] = (101, 128),
        samples: Sequence[int] = (800, 0, 400),
        seed: int = 0,
        data_seed: int = 0,
        stride: int = 1,
        train_limit: int | None = None,
    ):
        if len(grid) != 2 or grid[0] < 2 or grid[1] < 1 or problem.size % grid[1]:
            raise ValueError(
                f"grid must be (times, points), at least 2 times and points that divide the solver's "
                f"{problem.size}, got {tuple(grid)}"
            )
        self.problem, self.grid = problem, tuple(grid)
        super().__init__(
            batch_size,
            samples=samples,
            seed=seed,
            data_seed=data_seed,
            stride=stride,
            train_limit=train_limit,
        )

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Those of the problem, and the grid."""
        return {**self.problem.parameters, "grid": list(self.grid)}

    @property
    def fine_grid(self) -> tuple[int, ...]:
        """(T, n)."""
        return self.grid

    def generate(self, rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        """Repeated initial states and solutions, (count, 1, T, n)."""
        times = np.linspace(0, 1, self.grid[0]).tolist()
        states = self.problem.solve(self.problem.initial(rng, count), times)
        y = states[:, None, :, :: self.problem.size // self.grid[1]]
        return {"x": y[:, :, :1].expand_as(y), "y": y}
