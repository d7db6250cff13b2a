"""Random coefficient fields of the Darcy equation, at the nodes of a square grid that includes the boundary.

Sources: `TwoPhase`: Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR
2021, arXiv 2010.08895 (tau = 3; "smooth" in the multigrid literature), and He, Liu, Xu, "MgNO: Efficient
Parameterization of Linear Operators via Multigrid", ICLR 2024, arXiv 2310.19809 (tau = 5, "rough").
`Lognormal`: Wang et al., "Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling",
ICLR 2024, arXiv 2401.09516. `Trigonometric`: the multiscale set of MgNO's tables.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from .fields import CONVENTIONS, neumann_field, periodic_field


class Coefficient(ABC):
    """A law of positive fields on a square; a subclass is a frozen dataclass of the law's numbers.

    Its name and its numbers are all that the cache knows of a law: one that comes to draw other fields needs
    another name.
    """

    length = 1.0  # side of the square

    @abstractmethod
    def __call__(self, rng: np.random.Generator, count: int, size: int) -> Float64[Tensor, "count size size"]:
        """`count` fields at `size` nodes per axis, float64."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The law's name and its numbers, as JSON values."""
        numbers = asdict(self)  # pyright: ignore[reportArgumentType]
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in numbers.items()}
        return {"law": type(self).__name__, **plain}


@dataclass(frozen=True)
class TwoPhase(Coefficient):
    """Two materials: `values[1]` where g >= 0 and `values[0]` where g < 0, g the Neumann Gaussian field.

    Args:
        alpha: exponent of g's covariance.
        tau: inverse length of g: 3 is the usual set, 5 the rough one.
        values: the coefficient where g < 0 and where g >= 0, both above 0.
    """

    alpha: float = 2.0
    tau: float = 3.0
    values: Sequence[float] = (3.0, 12.0)

    def __post_init__(self):
        _positive(alpha=self.alpha, tau=self.tau)
        if len(self.values) != 2 or not all(0 < value < math.inf for value in self.values):
            raise ValueError(f"values must be two numbers above 0 (g < 0, g >= 0), got {self.values!r}")

    def __call__(self, rng: np.random.Generator, count: int, size: int) -> Float64[Tensor, "count size size"]:
        """Fields (count, size, size)."""
        field = neumann_field(rng, count, size, alpha=self.alpha, tau=self.tau)
        low, high = (torch.tensor(float(value), dtype=torch.float64) for value in self.values)
        return torch.where(field >= 0, high, low)


@dataclass(frozen=True)
class Lognormal(Coefficient):
    """a = exp(scale g), g the periodic Gaussian field (standard deviation 0.18 with alpha = 2.5, tau = 7).

    Args:
        alpha: exponent of g's covariance.
        tau: inverse length of g.
        scale: factor of g, above 0; larger ones give a higher contrast.
        convention: `nominal` or `released`, see `periodic_field`.
    """

    alpha: float = 2.5
    tau: float = 7.0
    scale: float = 1.0
    convention: str = "nominal"

    def __post_init__(self):
        _positive(alpha=self.alpha, tau=self.tau, scale=self.scale)
        if self.convention not in CONVENTIONS:
            raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {self.convention!r}")

    def __call__(self, rng: np.random.Generator, count: int, size: int) -> Float64[Tensor, "count size size"]:
        """Fields (count, size, size)."""
        field = periodic_field(
            rng, count, (size, size), alpha=self.alpha, tau=self.tau, convention=self.convention
        )
        return torch.exp(self.scale * field)


@dataclass(frozen=True)
class Trigonometric(Coefficient):
    """Many scales at once, on [-1, 1]^2, with random frequencies a_k ~ U[2^(k-1), 1.5 2^(k-1)]:

        a(x) = prod_{k=1..factors} (1 + cos(a_k pi (x1 + x2)) / 2) (1 + sin(a_k pi (x2 - 3 x1)) / 2).

    The contrast can reach 9^(factors). The finest wave of six factors has a length of 1/72 along x1: 3.6 steps of
    a grid of 513 nodes.

    Args:
        factors: number of scales, at least 1.
    """

    factors: int = 6

    length = 2.0

    def __post_init__(self):
        if self.factors < 1:
            raise ValueError(f"factors must be at least 1, got {self.factors}")

    def __call__(self, rng: np.random.Generator, count: int, size: int) -> Float64[Tensor, "count size size"]:
        """Fields (count, size, size)."""
        octaves = 2.0 ** np.arange(self.factors)
        frequencies = math.pi * octaves * rng.uniform(1, 1.5, (count, self.factors))
        axis = np.linspace(-1, 1, size)
        first, second = axis[:, None], axis[None, :]
        field = np.ones((count, size, size))
        for factor in frequencies.T[..., None, None]:
            field *= 1 + 0.5 * np.cos(factor * (first + second))
            field *= 1 + 0.5 * np.sin(factor * (second - 3 * first))
        return torch.from_numpy(field)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}")
