"""Sets of two-dimensional Navier-Stokes flows on a periodic square, in vorticity form.

    w_t + u . grad w = nu Laplace w + f,    u = (psi_y, -psi_x),    -Laplace psi = w

`NavierStokes`: Li, Kovachki, Azizzadenesheli, Liu, Bhattacharya, Stuart, Anandkumar, "Fourier Neural Operator for
Parametric Partial Differential Equations", ICLR 2021, arXiv 2010.08895, where w on t = 1 .. 10 is to be continued
up to T: nu = 1e-3 and T = 50, 1e-4 and 30, 1e-5 and 20, 1000 training and 200 test samples each, solved on 256 x
256 points with dt = 1e-4 and kept on 64 x 64. Here the solver is more strictly dealiased, see `navier_stokes`.

`ForcedNavierStokes`: the map from a random force to the vorticity, after the Reynolds-500 set of Kossaifi,
Kovachki, Azizzadenesheli, Anandkumar, "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs",
TMLR 2024, arXiv 2310.00120. The details of that set are not all published: numbers on this one stand for
themselves.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from .base import FieldData, check_device, solver_device
from .fields import periodic_field
from .navier_stokes import SCHEMES, solve_vorticity

HISTORY = 10  # times that are given: t = 1 .. 10
CFL = 0.5  # of the forced set


def _check(problem: "DecayingVorticity | ForcedVorticity") -> None:
    for name in ("viscosity", "dt"):
        if not 0 < (value := getattr(problem, name)) < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}")
    if problem.size < 1 or problem.solver_size < 4 or problem.solver_size % problem.size:
        raise ValueError(
            f"solver_size must be at least 4 and a multiple of size={problem.size}, got {problem.solver_size}"
        )
    if problem.scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {problem.scheme!r}")
    check_device(problem.device)


class _OnDevice:
    """A problem whose device does not name it."""

    @property
    def parameters(self) -> dict[str, Any]:
        """All of the attributes but the device, as JSON values."""
        values = asdict(self)  # pyright: ignore[reportArgumentType]
        return {name: value for name, value in values.items() if name != "device"}


@dataclass(frozen=True)
class DecayingVorticity(_OnDevice):
    """Random initial vorticity under a fixed force, f = 0.1 (sin 2 pi (x + y) + cos 2 pi (x + y)), on [0, 1)^2.

    w_0 ~ N(0, sigma^2 (-Laplace + 49)^(-2.5)), sigma = 7^(3/2), with the factor sqrt 2 of the released code.

    Attributes:
        viscosity: nu, above 0.
        horizon: T, the last time, a whole number above 10.
        size: points per axis that are kept.
        solver_size: points per axis of the solver, a multiple of `size`.
        dt, scheme: see `solve_vorticity`; 1 must be a multiple of dt.
        device: `cpu` or `cuda`. Not a part of what names the set: the fields agree to rounding, which the flow
            amplifies where nu is small.
    """

    viscosity: float = 1e-3
    horizon: int = 50
    size: int = 64
    solver_size: int = 256
    dt: float = 1e-4
    scheme: str = "cn_euler"
    device: str = "cpu"

    def __post_init__(self):
        _check(self)
        if self.horizon <= HISTORY or self.horizon != int(self.horizon):
            raise ValueError(f"horizon must be a whole number above {HISTORY}, got {self.horizon}")
        if abs(round(1 / self.dt) * self.dt - 1) > 1e-9:
            raise ValueError(f"dt must divide 1, the time between two records, got {self.dt}")

    def force(self) -> Float64[Tensor, "n n"]:
        """f at the solver's points."""
        axis = 2 * math.pi / self.solver_size * torch.arange(self.solver_size, dtype=torch.float64)
        phase = axis[:, None] + axis[None, :]
        return 0.1 * (phase.sin() + phase.cos())

    def initial(self, rng: np.random.Generator, count: int) -> Float64[Tensor, "count n n"]:
        """w_0 at the solver's points."""
        grid = (self.solver_size, self.solver_size)
        return periodic_field(rng, count, grid, alpha=2.5, tau=7.0, convention="released")

    def solve(self, initial: Float64[Tensor, "count n n"]) -> Float64[Tensor, "count times m m"]:
        """w at t = 1 .. T and the points that are kept."""
        device = solver_device(self.device)
        solution = solve_vorticity(
            initial.to(device),
            viscosity=self.viscosity,
            times=[float(t) for t in range(1, self.horizon + 1)],
            dt=self.dt,
            forcing=self.force().to(device),
            scheme=self.scheme,
        )
        stride = self.solver_size // self.size
        return solution[..., ::stride, ::stride].cpu()


@dataclass(frozen=True)
class ForcedVorticity(_OnDevice):
    """A fluid at rest under a random force, f ~ N(0, sigma^2 (-Laplace + 9)^(-4)), on [0, 2 pi)^2.

    The steps are those with max |u| dt n / (2 pi) = 0.5 where these are stable, see `solve_vorticity`.

    Attributes:
        viscosity: nu, above 0.
        horizon: T, above 0.
        size: points per axis that are kept.
        solver_size: points per axis of the solver, a multiple of `size`.
        dt: the longest step; the first ones, while the fluid is slow.
        scheme: see `solve_vorticity`.
        sigma: of the force, above 0; its standard deviation is 0.036 sigma.
        device: as of `DecayingVorticity`.
    """

    viscosity: float = 1 / 500
    horizon: float = 5.0
    size: int = 128
    solver_size: int = 256
    dt: float = 0.02
    scheme: str = "cn_heun"
    sigma: float = math.sqrt(27)
    device: str = "cpu"

    def __post_init__(self):
        _check(self)
        for name in ("horizon", "sigma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")

    def forces(self, rng: np.random.Generator, count: int) -> Float64[Tensor, "count n n"]:
        """f at the solver's points."""
        grid = (self.solver_size, self.solver_size)
        return periodic_field(rng, count, grid, alpha=4.0, tau=3.0, sigma=self.sigma, length=2 * math.pi)

    def solve(self, forces: Float64[Tensor, "count n n"]) -> Float64[Tensor, "count m m"]:
        """w(., T) at the points that are kept."""
        forcing = forces.to(solver_device(self.device))
        solution = solve_vorticity(
            torch.zeros_like(forcing),
            viscosity=self.viscosity,
            times=[self.horizon],
            dt=self.dt,
            forcing=forcing,
            length=2 * math.pi,
            scheme=self.scheme,
            cfl=CFL,
        )
        stride = self.solver_size // self.size
        return solution[:, 0, ::stride, ::stride].cpu()


class NavierStokes(FieldData):
    """`x` (B, 10, n, n): w on t = 1 .. 10; `y` (B, T - 10, n, n): w on t = 11 .. T.

    A model takes the 10 last states and gives the next one.

    Args:
        batch_size: samples of a training batch.
        problem: viscosity, horizon and solver; the default takes days on one core.
        samples: (train, val, test).
        seed, data_seed, stride, resolutions, train_limit: see `FieldData`.
    """

    name = "navier_stokes"
    CHUNK = 100
    ENDS = (False, False)

    def __init__(
        self,
        batch_size: int,
        *,
        problem: DecayingVorticity = DecayingVorticity(),
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

    @property
    def channels(self) -> tuple[int, int]:
        """Ten states; one."""
        return HISTORY, 1

    @property
    def sizes(self) -> dict[str, Any]:
        """As of `FieldData`, and `horizon`, how many states are to be predicted."""
        return super().sizes | {"horizon": self.problem.horizon - HISTORY}

    def generate(self, rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        """States, (count, 10, n, n) and (count, T - 10, n, n)."""
        states = self.problem.solve(self.problem.initial(rng, count))
        return {"x": states[:, :HISTORY], "y": states[:, HISTORY:]}


class ForcedNavierStokes(FieldData):
    """`x` (B, 1, n, n): the force; `y` (B, 1, n, n): the vorticity at T of a fluid that was at rest.

    Args:
        batch_size: samples of a training batch.
        problem: viscosity, horizon, law of the forces and solver.
        samples: (train, val, test).
        seed, data_seed, stride, resolutions, train_limit: see `FieldData`.
    """

    name = "ns_re500_ours"
    CHUNK = 100
    ENDS = (False, False)

    def __init__(
        self,
        batch_size: int,
        *,
        problem: ForcedVorticity = ForcedVorticity(),
        samples: Sequence[int] = (10000, 0, 2000),
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
        """Forces and vorticities, (count, 1, n, n)."""
        forces = self.problem.forces(rng, count)
        stride = self.problem.solver_size // self.problem.size
        return {"x": forces[:, None, ::stride, ::stride], "y": self.problem.solve(forces)[:, None]}
