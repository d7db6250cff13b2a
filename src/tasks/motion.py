"""Where things will be: the later positions of particles, and trajectories of several agents.

Every test batch is tested a second time under fixed random rotations, where an equivariant model must not change.
Errors and baselines of trajectories as in Xu et al., "EqMotion", CVPR 2023, arXiv 2303.10876.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..models.equivariant.particles import ParticleModel
from ..ops.lie import so2, so3
from .base import Batch
from .means import MeanTask

SEED = 0  # of the test's rotations and of the turned baseline: the same in every run
TURNED, DEGREES = 20, 25.0  # directions of the turned baseline, and the standard deviation of their angles


class MotionTask(MeanTask):
    """What the two tasks share: means over samples, and rotations of a batch.

    Args:
        model: of positions, and of what `inputs_of` adds.
        optim, scheduler: see `Task`.
        metrics: stage -> names of its means over samples.
        rotated: test under rotations, too.
        augment_rotations: train under rotations, drawn anew for every sample and step by torch's generator.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None,
        metrics: Mapping[str, tuple[str, ...]],
        rotated: bool,
        augment_rotations: bool,
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        self.rotated, self.augment_rotations = rotated, augment_rotations
        self.track(metrics)

    def seen(self, batch: Batch) -> Batch:
        """A training batch as the model sees it."""
        if not self.augment_rotations:
            return batch
        pos = batch["pos"]
        return rotated(batch, uniform_rotations(len(pos), pos.shape[-1], device=pos.device))

    def rotations(self, batch: Batch) -> Tensor:
        """The rotations that belong to the places of a test batch."""
        pos, generator = batch["pos"], torch.Generator().manual_seed(SEED)
        return uniform_rotations(len(pos), pos.shape[-1], generator=generator).to(pos.device)

    def turned(self, batch: Batch) -> Batch:
        """A test batch under its rotations."""
        return rotated(batch, self.rotations(batch))

    def metrics_of(self, stage: str) -> dict[str, Any]:
        """Those that the batches had something for."""
        return {name: mean for name, mean in super().metrics_of(stage).items() if mean.update_called}


class ParticleForecast(MotionTask):
    """Later positions `y` (B, n, d) from `pos`, `vel` (B, n, d) and `charge` (B, n, 1), by mean squared error.

    | metric | meaning |
    |---|---|
    | `val/mse`, `test/mse` | mean over samples, particles and components |
    | `test/mse_rotated` | the same of the test samples under a random rotation R each, compared with the rotated `y` |
    | `test/rotation_error` | root of mean square of f(R x) - R f(x), over that of the displacement f(x) - x |

    Args:
        model: (pos, vel, charge) to the shape of `y`.
        optim, scheduler: see `Task`.
        rotated: test under rotations, too.
        augment_rotations: train under rotations, drawn anew for every sample and step.

    Raises:
        DataError: batches without charges.
        ConfigError: a model whose output has another shape than `y`.
    """

    monitor = "val/mse"

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        rotated: bool = True,
        augment_rotations: bool = False,
    ):
        test = ("mse", "mse_rotated", "deviation", "displacement") if rotated else ("mse",)
        super().__init__(
            model, optim=optim, scheduler=scheduler, metrics={"val": ("mse",), "test": test}, rotated=rotated,
            augment_rotations=augment_rotations,
        )  # fmt: skip

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Raises ValueError where the model wants trajectories."""
        if hasattr(self.model, "history"):
            raise ValueError(
                f"{type(self.model).__name__} takes trajectories, this task has one state of each particle"
            )

    def inputs_of(self, batch: Batch) -> tuple[Tensor, ...]:
        """`pos`, `vel` and `charge`."""
        return _taken(batch, "pos", "vel", "charge")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        batch = self.seen(batch)
        return {"mse": _mean_square(self._output(batch) - batch["y"]).mean()}

    def update_metrics(self, batch: Batch, stage: str) -> None:
        output = self._output(batch)
        self.add(stage, "mse", _mean_square(output - batch["y"]), batch)
        if stage == "test" and self.rotated:
            rotations = self.rotations(batch)
            turned = rotated(batch, rotations)
            again = self._output(turned)
            self.add(stage, "mse_rotated", _mean_square(again - turned["y"]), batch)
            self.add(stage, "deviation", _mean_square(again - rotate(output, rotations)), batch)
            self.add(stage, "displacement", _mean_square(output - batch["pos"]), batch)

    def metrics_of(self, stage: str) -> dict[str, Any]:
        found = super().metrics_of(stage)
        if "deviation" in found:
            found["rotation_error"] = _RootRatio(found.pop("deviation"), found.pop("displacement"))
        return found

    def _output(self, batch: Batch) -> Tensor:
        output, y = self.model(*self.inputs_of(batch)), batch["y"]
        if output.shape != y.shape:
            raise ConfigError(
                f"task: the model gives {tuple(output.shape)}, the targets are {tuple(y.shape)}"
            )
        return output


def _mean_square(difference: Tensor) -> Tensor:
    """Of every sample."""
    return difference.square().flatten(1).mean(1)


class _RootRatio:
    """The root of the ratio of two means; 0 where the first is."""

    def __init__(self, first: Any, second: Any):
        self.first, self.second = first, second

    def compute(self) -> Tensor:
        first, second = self.first.compute(), self.second.compute()
        return torch.where(first == 0, first, first / second).sqrt()

    def reset(self) -> None:
        self.first.reset()
        self.second.reset()


class TrajectoryForecast(MotionTask):
    """Future positions `y` (B, n, T_f, d) from past `pos` and `vel` (B, n, T_p, d); minimises the mean L2 distance.

    The distance (not squared) is averaged over times, then over a sample's agents, then over samples. With K heads a
    sample's loss is that of the head whose distance of agent 0 (the ego) is smallest. Agents that are not `present`
    (B, n), and those whose `y` is not `known` (B, n), count nowhere.

    Metrics of `val` and `test`:

    - `ade`, `fde`: the distance over all times, and at the last one; of several heads the smallest, of each separately;
    - `category_accuracy`, where the batch has the true kinds of all pairs, `edges` (B, n, n) of 0 and 1, and the model
      a method `categories`, (pos, vel, ...) to (B, n, n, 2): the share of the pairs i != j that are told right, in the
      better of the two labellings.

    Metrics of `test` alone:

    - `ade_rotated`: `ade` of the same samples under a random rotation each;
    - `ade_constant_velocity`, `fde_constant_velocity`: of pos_T + t (pos_T - pos_(T-1)), without the model;
    - `ade_turned`, `fde_turned`, in two dimensions: the best of 20 such lines, turned by angles that are normal with a
      deviation of 25 degrees, the same ones for all samples.

    Args:
        model: (pos, vel) or, where the batch has it, (pos, vel, present) to (B, n, T_f, d), with several heads
            (B, heads, n, T_f, d).
        optim, scheduler: see `Task`.
        heads: K.
        ego_only: only agent 0 counts, in the loss and in every metric.
        rotated: test under rotations, too.
        augment_rotations: train under rotations, drawn anew for every sample and step.

    Raises:
        ValueError: `heads` below 1; a model whose `heads`, `history` or `horizon` are others.
        DataError: batches without positions or velocities.
        ConfigError: a model whose output has another shape; `categories` of another number than two.
    """

    monitor = "val/ade"

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        heads: int = 1,
        ego_only: bool = False,
        rotated: bool = True,
        augment_rotations: bool = False,
    ):
        both, kinds = ("ade", "fde", "category_accuracy"), ("constant_velocity", "turned")
        baselines = tuple(f"{error}_{kind}" for kind in kinds for error in ("ade", "fde"))
        super().__init__(
            model, optim=optim, scheduler=scheduler, rotated=rotated, augment_rotations=augment_rotations,
            metrics={"val": both, "test": (*both, "ade_rotated", *baselines)},
        )  # fmt: skip
        if heads < 1:
            raise ValueError(f"heads={heads}: must be at least 1")
        self.heads, self.ego_only = heads, ego_only

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Raises ValueError where the model says that it has other steps than the data, other heads, or one state."""
        if isinstance(self.model, ParticleModel):
            raise ValueError(
                f"{type(self.model).__name__} takes one state of each particle, this task has trajectories"
            )
        for name, wanted in {**sizes, "heads": self.heads}.items():
            own = getattr(self.model, name, wanted) if name in ("history", "horizon", "heads") else wanted
            if own != wanted:
                raise ValueError(f"{name}={own}: these data and the task have {wanted}")

    def inputs_of(self, batch: Batch) -> tuple[Tensor, ...]:
        """`pos`, `vel` and, where there is padding, `present`."""
        return _taken(batch, "pos", "vel", *(("present",) if "present" in batch else ()))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        batch = self.seen(batch)
        distances = self._distances(batch)
        best = distances[:, :, 0].mean(-1).argmin(1)
        chosen = distances[torch.arange(len(best), device=best.device), best]
        return {"distance": self._over_agents(chosen.mean(-1), batch).mean()}

    def update_metrics(self, batch: Batch, stage: str) -> None:
        self._judge(stage, "", self._distances(batch), batch)
        self._judge_categories(batch, stage)
        if stage != "test":
            return
        if self.rotated:
            ade = self._over_agents(self._distances(self.turned(batch)).mean(-1), batch).amin(1)
            self.add(stage, "ade_rotated", ade, batch)
        lines = constant_velocity(batch["pos"], batch["y"].shape[2])
        self._judge(stage, "_constant_velocity", (lines - batch["y"]).norm(dim=-1)[:, None], batch)
        if lines.shape[-1] == 2:
            fan = turned_velocity(batch["pos"], batch["y"].shape[2])
            self._judge(stage, "_turned", (fan - batch["y"][:, None]).norm(dim=-1), batch)

    def metrics_of(self, stage: str) -> dict[str, Any]:
        found = super().metrics_of(stage)
        if "category_accuracy" in found:
            found["category_accuracy"] = _BetterLabelling(found["category_accuracy"])
        return found

    def _distances(self, batch: Batch) -> Float[Tensor, "batch heads agents steps"]:
        output, y = self.model(*self.inputs_of(batch)), batch["y"]
        wanted = y.shape if self.heads == 1 else (len(y), self.heads, *y.shape[1:])
        if output.shape != wanted:
            raise ConfigError(
                f"task: with heads={self.heads} the model must give {tuple(wanted)}, it gives {tuple(output.shape)}"
            )
        return (output.view(len(y), self.heads, *y.shape[1:]) - y[:, None]).norm(dim=-1)

    def _judge(self, stage: str, suffix: str, distances: Tensor, batch: Batch) -> None:
        for name, errors in (("ade", distances.mean(-1)), ("fde", distances[..., -1])):
            self.add(stage, name + suffix, self._over_agents(errors, batch).amin(1), batch)

    def _over_agents(
        self, errors: Float[Tensor, "batch *heads agents"], batch: Batch
    ) -> Float[Tensor, "batch *heads"]:
        """The mean over the agents of every sample that count."""
        counts = self._counted(batch, errors.shape[-1])
        if errors.ndim == 3:
            counts = counts[:, None]
        return torch.where(counts, errors, 0).sum(-1) / counts.sum(-1).clamp(min=1)

    def _counted(self, batch: Batch, agents: int) -> Bool[Tensor, "batch agents"]:
        counts = torch.ones(batch["pos"].shape[:2], dtype=torch.bool, device=batch["pos"].device)
        for name in ("present", "known"):
            counts = counts & batch[name] if name in batch else counts
        ego = torch.arange(agents, device=counts.device) == 0
        return counts & ego if self.ego_only else counts

    def _judge_categories(self, batch: Batch, stage: str) -> None:
        count = batch["pos"].shape[1]
        if "edges" not in batch or not hasattr(self.model, "categories") or count < 2:
            return
        found = self.model.categories(*self.inputs_of(batch))  # type: ignore[operator]
        if found.shape != (*batch["edges"].shape, 2):
            raise ConfigError(
                f"task: edges {tuple(batch['edges'].shape)} are of two kinds, the model's categories "
                f"{tuple(found.shape)}; set model.categories=2"
            )
        pairs = ~torch.eye(count, dtype=torch.bool, device=found.device)
        right = found.argmax(-1) == batch["edges"].long()
        self.add(stage, "category_accuracy", right[:, pairs].float().mean(1), batch)


class _BetterLabelling:
    """Accuracy of two classes whose names are free."""

    def __init__(self, mean: Any):
        self.mean = mean

    def compute(self) -> Tensor:
        accuracy = self.mean.compute()
        return torch.maximum(accuracy, 1 - accuracy)

    def reset(self) -> None:
        self.mean.reset()


def _taken(batch: Batch, *names: str) -> tuple[Tensor, ...]:
    missing = [name for name in names if name not in batch]
    if missing:
        raise DataError(f"the batches have no {', '.join(missing)} (they have {', '.join(batch)})")
    return tuple(batch[name] for name in names)


def uniform_rotations(
    count: int,
    d: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "count d d"]:
    """Rotations of 2 or 3 dimensions from the uniform (Haar) measure, in float64.

    Raises:
        DataError: other dimensions.
    """
    if d not in (2, 3):
        raise DataError(f"positions of {d} dimensions: rotations are there for 2 and 3")
    if d == 3:
        return so3.random((count,), generator, torch.float64, device)
    angle = 2 * math.pi * torch.rand(count, dtype=torch.float64, generator=generator, device=device)
    return so2.matrix(so2.exp(angle[:, None]))


def rotated(batch: Batch, rotations: Float[Tensor, "batch d d"]) -> Batch:
    """The batch with `pos`, `vel` and `y` of every sample rotated about the origin."""
    return {**batch, **{name: rotate(batch[name], rotations) for name in ("pos", "vel", "y")}}


def rotate(tensor: Tensor, rotations: Float[Tensor, "batch d d"]) -> Tensor:
    """(batch, ..., d), every sample by its own rotation."""
    shape = (len(rotations), *[1] * (tensor.ndim - 3), *rotations.shape[1:])
    return tensor @ rotations.to(tensor).mT.reshape(shape)


def constant_velocity(
    pos: Float[Tensor, "batch agents past d"], steps: int
) -> Float[Tensor, "batch agents steps d"]:
    """The last difference, continued."""
    times = torch.arange(1, steps + 1, device=pos.device, dtype=pos.dtype)[:, None]
    return pos[:, :, -1:] + times * (pos[:, :, -1:] - pos[:, :, -2:-1])


def turned_velocity(
    pos: Float[Tensor, "batch agents past 2"], steps: int
) -> Float[Tensor, "batch turned agents steps 2"]:
    """The last difference turned by each of 20 fixed angles, and continued."""
    angles = math.radians(DEGREES) * np.random.default_rng(SEED).standard_normal(TURNED)
    turns = so2.matrix(so2.exp(torch.from_numpy(angles)[:, None])).to(pos)
    lines = constant_velocity(pos, steps) - pos[:, :, -1:]
    return pos[:, None, :, -1:] + lines[:, None] @ turns.mT[:, None]
