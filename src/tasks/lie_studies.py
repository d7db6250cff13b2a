"""The applications and identities of "A micro Lie theory for state estimation in robotics" (arXiv 1812.01537).

No training: a filter, a smoother and a table of identities over `ops.lie`, all runs batched and in float64. Noise is
Gaussian with the stated standard deviations, drawn from `seed`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.arguments import check_choice, check_sizes
from ..ops import lie
from ..ops.lie import estimation

POSES: dict[int, lie.Group] = {2: lie.se2, 3: lie.se3}
CONTROLS = {2: (0.1, 0.0, 0.05), 3: (0.1, 0.0, 0.0, 0.0, 0.0, 0.05)}
BEACONS = {
    2: ((2.0, 0.0), (2.0, 1.0), (2.0, -1.0)),
    3: ((2.0, 0.0, 0.0), (3.0, -1.0, -1.0), (2.0, -1.0, 1.0), (2.0, 1.0, 1.0), (2.0, 1.0, -1.0)),
}
LANDMARKS = ((3.0, 0.0), (2.0, -1.0), (2.0, 1.0), (3.0, -1.0), (3.0, 1.0))
PAIRS = ((0, 0), (0, 1), (0, 3), (1, 0), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4))  # pose, landmark
GROUPS = ("so2", "se2", "so3", "s3", "se3")
DTYPES = {"float64": torch.float64, "float32": torch.float32}
ANGLES = (1e-9, 1e-4, 0.05, 0.4999, 0.5001, 1.0, 2.9)


@dataclass(frozen=True)
class EKFStudy:
    """Localisation by an error-state Kalman filter on SE(2) or SE(3), from beacons at known places.

    A robot starts at the identity, exactly known, and takes `steps` steps `X <- X (+) u`, `u = (0.1, 0, 0.05)` or
    `(0.1, 0, 0, 0, 0, 0.05)`. The filter is told u with noise, and then where three (2-D) or five (3-D) beacons lie
    as seen from the robot, one after the other. Calling it returns, at the last step, over all runs,

    | name | meaning |
    |---|---|
    | `nees` | mean of the normalised estimation error squared; of a consistent filter the dimension, 3 or 6 |
    | `rms/translation`, `rms/rotation` | root mean square error of a component, in units of length and radians |
    | `unfiltered/translation`, `unfiltered/rotation` | the same of dead reckoning by the noisy controls |
    | `ratio/translation`, `ratio/rotation` | filtered over unfiltered |
    | `ratio` | the larger of the two |

    Args:
        dimension: of space, 2 or 3.
        control_sd, measurement_sd: standard deviation of each component of the noise of controls and measurements.

    Raises:
        ValueError: an unknown dimension; runs or steps below 1; a standard deviation that is not positive.
    """

    dimension: int = 3
    runs: int = 2000
    steps: int = 10
    control_sd: float = 0.1
    measurement_sd: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dimension not in POSES:
            raise ValueError(f"dimension is {self.dimension}, known are 2 and 3")
        check_sizes(runs=self.runs, steps=self.steps)
        _check_positive(self)

    def __call__(self) -> dict[str, float]:
        group, n = POSES[self.dimension], len(CONTROLS[self.dimension])
        true, filtered, unfiltered, covariance = self.run()
        nees = estimation.squared_error(group, true, filtered, covariance)
        found = {"nees": float(nees.mean())}
        errors = {"rms": lie.minus(group, true, filtered), "unfiltered": lie.minus(group, true, unfiltered)}
        blocks = {"translation": slice(0, self.dimension), "rotation": slice(self.dimension, n)}
        for block, columns in blocks.items():
            for name, error in errors.items():
                found[f"{name}/{block}"] = float(error[:, columns].square().mean().sqrt())
            found[f"ratio/{block}"] = found[f"rms/{block}"] / found[f"unfiltered/{block}"]
        return {**found, "ratio": max(found[f"ratio/{block}"] for block in blocks)}

    def run(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """True, filtered and unfiltered poses (runs, d+1, d+1) and the filter's covariance at the last step."""
        group, normal = POSES[self.dimension], _normal(self.seed)
        control = torch.tensor(CONTROLS[self.dimension], dtype=torch.float64)
        beacons = torch.tensor(BEACONS[self.dimension], dtype=torch.float64)
        n = len(control)
        control_covariance = self.control_sd**2 * torch.eye(n, dtype=torch.float64)
        noise = self.measurement_sd**2 * torch.eye(self.dimension, dtype=torch.float64)
        true = filtered = unfiltered = group.exp(control.new_zeros(self.runs, n))
        covariance = control.new_zeros(self.runs, n, n)
        for _ in range(self.steps):
            true = lie.plus(group, true, control.expand(self.runs, n))
            told = control + self.control_sd * normal(self.runs, n)
            unfiltered = lie.plus(group, unfiltered, told)
            filtered, covariance = estimation.predict(group, filtered, covariance, told, control_covariance)
            for beacon in beacons.unsqueeze(1):
                seen = lie.act_inverse(group, true, beacon)
                seen = seen + self.measurement_sd * normal(*seen.shape)
                filtered, covariance = estimation.observe(group, filtered, covariance, beacon, seen, noise)
        return true, filtered, unfiltered, covariance


@dataclass(frozen=True)
class SmoothingStudy:
    """Smoothing and mapping in the plane: 3 poses and 5 landmarks at once, by Gauss-Newton on their composite.

    The state `<SE(2), SE(2), SE(2), R^2, ..., R^2>` has 19 dimensions; the 27 residuals are a prior on the first pose
    (3, weight 1), two noisy controls (6) and nine landmarks as seen from a pose (18), each divided by its standard
    deviation. The start is dead reckoning by the controls, with the landmarks placed where they were seen from it,
    and noise on top. Calling it returns

    | name | meaning |
    |---|---|
    | `chi2` | mean over the runs of the sum of squares of the final residuals; expected is 27 - 19 = 8 |
    | `iterations/max`, `iterations/mean` | Gauss-Newton steps, the last one below the threshold of 1e-6 included |
    | `converged` | share of the runs that reached the threshold within 20 steps |
    | `rms/pose`, `rms/landmark` | root mean square error of a component |
    | `start/pose`, `start/landmark` | the same of the start |

    Args:
        control_sd, measurement_sd: standard deviation of each component of the noise of controls and measurements.
        start_sd: of the noise on the start, each tangent component of the poses and each coordinate of the landmarks.

    Raises:
        ValueError: runs below 1; a standard deviation that is not positive.
    """

    runs: int = 200
    control_sd: float = 0.01
    measurement_sd: float = 0.001
    start_sd: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(runs=self.runs)
        _check_positive(self)

    def __call__(self) -> dict[str, float]:
        true, start, problem = self.draw()
        found = estimation.gauss_newton(STATE, start, problem)
        return {
            "chi2": float(found.residual.square().sum(-1).mean()),
            "iterations/max": float(found.iterations.max()),
            "iterations/mean": float(found.iterations.double().mean()),
            "converged": float(found.converged.double().mean()),
            **_rms("rms", lie.minus(STATE, true, found.x)),
            **_rms("start", lie.minus(STATE, true, start)),
        }

    def draw(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], "SmoothingProblem"]:
        """The true states, the start and the problem of every run."""
        normal, control = (
            _normal(self.seed),
            torch.tensor(CONTROLS[2], dtype=torch.float64).expand(self.runs, 3),
        )
        landmarks = torch.tensor(LANDMARKS, dtype=torch.float64).unsqueeze(1).expand(-1, self.runs, 2)
        told = tuple(control + self.control_sd * normal(self.runs, 3) for _ in range(2))
        poses, reckoned = _path((control, control)), _path(told)
        seen = torch.stack([lie.act_inverse(lie.se2, poses[i], landmarks[k]) for i, k in PAIRS])
        seen = seen + self.measurement_sd * normal(*seen.shape)
        placed = dict((k, lie.se2.act(reckoned[i], y)) for (i, k), y in zip(PAIRS, seen, strict=True))
        start = (*reckoned, *(placed[k] for k in range(len(LANDMARKS))))
        start = lie.plus(STATE, start, self.start_sd * normal(self.runs, STATE.DIM))
        return (*poses, *landmarks), start, SmoothingProblem(told, seen, self.control_sd, self.measurement_sd)


STATE = lie.Composite(lie.se2, lie.se2, lie.se2, *[2] * len(LANDMARKS))


@dataclass(frozen=True)
class SmoothingProblem:
    """Weighted residuals (runs, 27) of a state of `SmoothingStudy` and their Jacobian (runs, 27, 19).

    Args:
        controls: the two noisy controls, each (runs, 3).
        seen: the landmarks as seen from the poses (9, runs, 2), in the order of `PAIRS`.
    """

    controls: tuple[Tensor, ...]
    seen: Tensor
    control_sd: float
    measurement_sd: float

    def __call__(self, x: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        residuals, rows = [lie.se2.log(x[0])], [_row({0: lie.jacobian_log(lie.se2, x[0])})]
        for i, control in enumerate(self.controls):
            by_next, by_pose = lie.jacobians_minus(lie.se2, x[i + 1], x[i])
            residuals.append((lie.minus(lie.se2, x[i + 1], x[i]) - control) / self.control_sd)
            rows.append(_row({i: by_pose, i + 1: by_next}) / self.control_sd)
        for (i, k), seen in zip(PAIRS, self.seen, strict=True):
            pose, landmark = x[i], x[3 + k]
            by_pose, by_landmark = lie.jacobians_act_inverse(lie.se2, pose, landmark)
            residuals.append((lie.act_inverse(lie.se2, pose, landmark) - seen) / self.measurement_sd)
            rows.append(_row({i: by_pose, 3 + k: by_landmark}) / self.measurement_sd)
        return torch.cat(residuals, dim=-1), torch.cat(rows, dim=-2)


def _row(blocks: dict[int, Tensor]) -> Tensor:
    """Rows of a Jacobian by all of the state, from those by some of its members."""
    total: Any = 0
    for member, block in blocks.items():
        left = sum(STATE.dims[:member])
        total = total + F.pad(block, (left, STATE.DIM - left - block.shape[-1]))
    return total


def _path(controls: tuple[Tensor, ...]) -> list[Tensor]:
    poses = [lie.se2.exp(torch.zeros_like(controls[0]))]
    for control in controls:
        poses.append(lie.plus(lie.se2, poses[-1], control))
    return poses


def _rms(name: str, error: Tensor) -> dict[str, float]:
    pose, landmark = error[:, :9], error[:, 9:]
    return {
        f"{name}/pose": float(pose.square().mean().sqrt()),
        f"{name}/landmark": float(landmark.square().mean().sqrt()),
    }


@dataclass(frozen=True)
class LieIdentities:
    """How well the closed forms of a group satisfy the identities that define them; deterministic.

    Of `elements` random tangent vectors tau (translations of length 1) at each rotation angle 1e-9, 1e-4, 0.05,
    0.4999, 0.5001, 1, 2.9 and pi - 1e-6 (in float32 pi - 1e-3), the largest deviation of an entry.
    The closed forms are computed in `dtype`, the comparisons in extended precision. Calling it returns

    | name | identity |
    |---|---|
    | `exp` | `Exp(tau)` is the matrix exponential of the hat of tau |
    | `log` | `Log(Exp(tau)) = tau` |
    | `jacobian/inverse` | `Jl Jl^-1 = I` |
    | `jacobian/series` | `Jl = sum ad^k / (k+1)!` |
    | `jacobian/adjoint` | `Jl = Ad Jr` |
    | `adjoint` | `Ad_{Exp tau} = exp(ad_tau)` |
    | `sum` | `Exp(tau) = Exp(0.3 tau) Exp(0.7 tau)` |
    | `conjugation` | `X Exp(tau) X^-1 = Exp(Ad_X tau)`, X the next element of the same angle |
    | `largest` | the largest of all |

    Args:
        group: `so2`, `se2`, `so3`, `s3` or `se3`.
        dtype: `float64` or `float32`.

    Raises:
        ValueError: an unknown group or dtype; elements below 1.
    """

    group: str = "se3"
    dtype: str = "float64"
    elements: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("group", self.group, GROUPS)
        check_choice("dtype", self.dtype, tuple(DTYPES))
        check_sizes(elements=self.elements)

    def __call__(self) -> dict[str, float]:
        group, tau = getattr(lie, self.group), self.draw()
        x, y = group.exp(tau), group.exp(tau.roll(1, dims=0))
        ad, jl = _extended(group.small_adjoint(tau)), _extended(group.left_jacobian(tau))
        adjoint, right = _extended(group.adjoint(x)), _extended(group.right_jacobian(tau))
        moved = (group.adjoint(y) @ tau.unsqueeze(-1)).squeeze(-1)
        conjugated = group.compose(group.compose(y, x), group.inverse(y))
        deviations = {
            "exp": self._matrix(x) - _series(_extended(_algebra(group).hat(tau)), 0),
            "log": _extended(group.log(x)) - _extended(tau),
            "jacobian/inverse": jl @ _extended(group.left_jacobian_inverse(tau)) - np.eye(tau.shape[-1]),
            "jacobian/series": jl - _series(ad, 1),
            "jacobian/adjoint": jl - adjoint @ right,
            "adjoint": adjoint - _series(ad, 0),
            "sum": self._matrix(x) - self._matrix(group.compose(group.exp(0.3 * tau), group.exp(0.7 * tau))),
            "conjugation": self._matrix(conjugated) - self._matrix(group.exp(moved)),
        }
        found = {name: float(np.abs(deviation).max()) for name, deviation in deviations.items()}
        return {**found, "largest": max(found.values())}

    def draw(self) -> Tensor:
        """Tangent vectors (angles x elements, n)."""
        normal, last = _normal(self.seed), math.pi - (1e-6 if self.dtype == "float64" else 1e-3)
        planar = self.group in ("so2", "se2")
        angles = torch.tensor([*ANGLES, last], dtype=torch.float64).repeat_interleave(self.elements)
        axes = F.normalize(normal(len(angles), 1 if planar else 3), dim=-1)
        rotation = angles.unsqueeze(-1) * axes
        translation = F.normalize(normal(len(angles), {"se2": 2, "se3": 3}.get(self.group, 0)), dim=-1)
        return torch.cat([translation, rotation], dim=-1).to(DTYPES[self.dtype])

    def _matrix(self, x: Tensor) -> np.ndarray:
        to_matrix: dict[str, Callable[[Tensor], Tensor]] = {"so2": lie.so2.matrix, "s3": lie.s3.to_matrix}
        return _extended(to_matrix.get(self.group, torch.Tensor.clone)(x))


def _algebra(group: ModuleType) -> ModuleType:
    return lie.so3 if group is lie.s3 else group


def _extended(x: Tensor) -> np.ndarray:
    return x.numpy().astype(np.longdouble)


def _series(a: np.ndarray, shift: int) -> np.ndarray:
    """`sum_k a^k / (k + shift)!`, 40 terms of matrices (batch, n, n): exact for norms up to 10."""
    total = term = np.broadcast_to(np.eye(a.shape[-1], dtype=a.dtype), a.shape)
    for k in range(1, 40):
        term = term @ a / (k + shift)
        total = total + term
    return total


def _check_positive(study: Any) -> None:
    for field in fields(study):
        value = getattr(study, field.name)
        if field.name.endswith("_sd") and not 0 < value < math.inf:
            raise ValueError(f"{field.name} is {value}, it must be positive and finite")


def _normal(seed: int) -> Callable[..., Tensor]:
    """Draws of the unit normal distribution in float64, by shape."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)
