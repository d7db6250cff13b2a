"""`Helmholtz`: from the wave speed to the field in a box with one driven side.

    Lap u + (w / c(x))^2 u = 0,    du/dn = 1 on 0.35 <= x1 <= 0.65 of the side x2 = 1, 0 on the rest,

w = 1000, c = 20 + tanh(g), g the Neumann Gaussian field with covariance (-Lap + 9)^-2: k = w / c is near 50, the
wave length near 1/8. The set of de Hoop, Huang, Qian, Stuart, "The Cost-Accuracy Trade-Off in Operator Learning
with Neural Networks", 2022, arXiv 2203.13181, at 101 nodes, used by He, Liu, Xu, "MgNO: Efficient
Parameterization of Linear Operators via Multigrid", ICLR 2024, arXiv 2310.19809.

What differs: a compact scheme of fourth order instead of bilinear finite elements (`scheme="elements"` has their
matrix, with k^2 interpolated), all modes of g instead of its first 100, and flux 1/2 at the two ends of the driven
part. On 101 nodes the elements' waves are too far off to solve this equation: their fields differ by 70-100 %
from those of 401 nodes, the compact ones by 2-10 % (on 201 nodes by 1 % and less). g's standard deviation is
about 0.1, so that c varies by half a per cent; the box has no damping, and a field's size grows with the nearness
of a resonance. 1000 samples take about 30 s of one core at 101 nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from .base import FieldData
from .fields import neumann_field
from .helmholtz import MAX_CONDITION, SCHEMES, solve_helmholtz


@dataclass(frozen=True)
class HelmholtzProblem:
    """Frequency, wave speed and driving.

    Args:
        size: nodes per axis, the boundary's included, at least 3.
        frequency: w, above 0 (radians per unit of time).
        speed: the mean of c, above `spread`.
        spread: factor of tanh(g), at least 0.
        alpha: exponent of g's covariance (-Lap + tau^2)^(-alpha).
        tau: inverse length of g.
        driven: the part of the side x2 = 1 with unit flux.
        scheme, max_condition: see `solve_helmholtz`.
    """

    size: int = 101
    frequency: float = 1000.0
    speed: float = 20.0
    spread: float = 1.0
    alpha: float = 2.0
    tau: float = 3.0
    driven: Sequence[float] = (0.35, 0.65)
    scheme: str = "compact"
    max_condition: float = MAX_CONDITION

    def __post_init__(self):
        if self.size < 3:
            raise ValueError(f"size must be at least 3 nodes, got {self.size}")
        for name in ("frequency", "alpha", "tau", "max_condition"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {self.scheme!r}")
        if not 0 <= self.spread < self.speed:
            raise ValueError(
                f"spread must be at least 0 and below speed={self.speed}, so that c > 0, got {self.spread}"
            )
        if len(self.driven) != 2 or not 0 <= self.driven[0] < self.driven[1] <= 1:
            raise ValueError(f"driven must be (from, to) with 0 <= from < to <= 1, got {self.driven!r}")

    @property
    def parameters(self) -> dict[str, Any]:
        """All that the fields depend on, and the limit that they have passed, as JSON values."""
        names = ("size", "frequency", "speed", "spread", "alpha", "tau", "scheme", "max_condition")
        return {name: getattr(self, name) for name in names} | {"driven": list(self.driven)}

    @property
    def flux(self) -> Float64[Tensor, " n"]:
        """du/dn at the nodes of the driven side: 1 inside the driven part, 1/2 at a node on its edge."""
        axis = torch.linspace(0, 1, self.size, dtype=torch.float64)
        start, stop = self.driven
        edge = 1e-9  # in units of the side: 0.35 is not exactly a node in floating point
        closed = (axis > start - edge) & (axis < stop + edge)
        opened = (axis > start + edge) & (axis < stop - edge)
        return (closed.double() + opened.double()) / 2

    def speeds(self, rng: np.random.Generator, count: int) -> Float64[Tensor, "count n n"]:
        """Wave speeds c = speed + spread tanh(g)."""
        # The field's own amplitude is tau^(alpha - 1); here the covariance has none.
        field = neumann_field(rng, count, self.size, alpha=self.alpha, tau=self.tau) / self.tau ** (
            self.alpha - 1
        )
        return self.speed + self.spread * torch.tanh(field)

    def solve(self, speeds: Float64[Tensor, "count n n"]) -> Float64[Tensor, "count n n"]:
        """The fields u; SolverError where a box is in resonance."""
        return solve_helmholtz(
            self.frequency / speeds, self.flux, scheme=self.scheme, max_condition=self.max_condition
        )


class Helmholtz(FieldData):
    """Wave speeds `x` (B, 1, n, n) and fields `y` (B, 1, n, n) in a box with one driven side.

    Args:
        batch_size: samples of a training batch, over all processes together.
        samples: (train, val, test).
        problem: frequency, wave speed, driving and grid; None takes `HelmholtzProblem()`.
        seed: of the run.
        data_seed: of the generator.
        stride: every how manyth node is used.
        points: keep only the first so many nodes per axis after striding.
        resolutions: further numbers of nodes at which the test samples are given.
        train_limit: train on so many of the training samples, drawn by `seed`; None takes all.
    """

    name = "helmholtz"
    ENDS = (True, True)

    def __init__(
        self,
        batch_size: int,
        *,
        samples: Sequence[int] = (4000, 200, 200),
        problem: HelmholtzProblem | None = None,
        seed: int = 0,
        data_seed: int = 0,
        stride: int = 1,
        points: int | None = None,
        resolutions: Sequence[int] = (),
        train_limit: int | None = None,
    ):
        self.problem = problem or HelmholtzProblem()
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
        """Wave speeds, then their fields."""
        speeds = self.problem.speeds(rng, count)
        return {"x": speeds[:, None], "y": self.problem.solve(speeds)[:, None]}
