"""Regression of rotations, and of poses through rotations, with the errors that show a discontinuous representation.

Zhou, Barnes, Lu, Yang, Li, "On the Continuity of Rotation Representations in Neural Networks", CVPR 2019, arXiv
1812.07035. Mean errors say little there: what tells the representations apart is the largest errors.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from ..models.arguments import check_choice
from ..ops.rotations import geodesic_distance, matrix_to_quaternion
from .base import Batch, Task

LOSSES = ("pose", "geodesic", "points")
ABOVE = 10.0  # degrees


class RotationRegression(Task):
    """Rotation matrices `y` (batch, 3, 3) from `x`, or from the point clouds `reference` and `target`.

    Losses: `pose`, the mean squared difference of the entries; `geodesic`, the mean angle between the two in radians;
    `points`, the mean over points and coordinates of `(R reference - target)^2`.

    Metrics, of the angle between prediction and target in degrees: `degrees` (mean), `degrees_max`, `degrees_sd`,
    `above_10` (share of samples above 10 degrees), `worst_angle`: the median, among the worst 1 % of the samples, of
    the angle of the target rotation itself, and `worst_angle_from_centre`: the same counted not from the identity but
    from the rotation that is farthest from them. A quaternion net may fail near the rotations that are 180 degrees
    from any one rotation: from which is its own choice.

    Args:
        model: the inputs to (batch, 3, 3).
        optim, scheduler: see `Task`.
        loss: one of the above.
    """

    monitor = "val/degrees"

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        loss: str = "pose",
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        check_choice("loss", loss, LOSSES)
        self.loss = loss
        self.errors = nn.ModuleDict({stage: _Errors(rotations=True) for stage in ("val", "test")})

    def inputs_of(self, batch: Batch) -> tuple[Tensor, ...]:
        """`(x,)`, or `(reference, target)`."""
        return (batch["x"],) if "x" in batch else (batch["reference"], batch["target"])

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        rotation = self.model(*self.inputs_of(batch))
        if self.loss == "geodesic":
            return {"geodesic": geodesic_distance(rotation, batch["y"]).mean()}
        if self.loss == "points":
            return {"points": F.mse_loss(batch["reference"] @ rotation.mT, batch["target"])}
        return {"pose": F.mse_loss(rotation, batch["y"])}

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        if self.loss == "points" and "points" not in sizes:
            raise ValueError("loss='points' needs point clouds, and these data have none")

    def update_metrics(self, batch: Batch, stage: str) -> None:
        # In float64, in which the angle between two nearly equal single-precision matrices is still exact.
        rotation, wanted = self.model(*self.inputs_of(batch)).double(), batch["y"].double()
        error = geodesic_distance(rotation, wanted).unsqueeze(-1) * (180 / math.pi)
        rows = torch.cat([error, matrix_to_quaternion(wanted)], -1)
        self.errors[stage].update(rows[batch["mask"]])  # type: ignore[operator]

    def metrics_of(self, stage: str) -> dict[str, Any]:
        words = {"mean": "degrees", "max": "degrees_max", "sd": "degrees_sd", "above": "above_10"}
        return _views(
            self.errors[stage], words | {"worst": "worst_angle", "centre": "worst_angle_from_centre"}
        )


class PoseReconstruction(Task):
    """Joint positions `y` (batch, joints, 3), in metres, from `x`; minimises their mean squared error.

    Metrics: `cm` and `cm_max`, the mean and the largest distance of a joint from its place, in centimetres.

    Args:
        model: `x` to the positions.
        optim, scheduler: see `Task`.
    """

    monitor = "val/cm"

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        self.errors = nn.ModuleDict({stage: _Errors() for stage in ("val", "test")})

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"mse": F.mse_loss(self.model(batch["x"]), batch["y"])}

    def update_metrics(self, batch: Batch, stage: str) -> None:
        distances = (self.model(batch["x"]) - batch["y"]).double().norm(dim=-1)
        self.errors[stage].update(distances[batch["mask"]].reshape(-1, 1) * 100)  # type: ignore[operator]

    def metrics_of(self, stage: str) -> dict[str, Any]:
        return _views(self.errors[stage], {"mean": "cm", "max": "cm_max"})


class _Errors(Metric):
    """All errors, (samples, 1), or with the quaternion of each target, (samples, 5); gathered over the processes."""

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, rotations: bool = False):
        super().__init__()
        self.rotations = rotations
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, rows: Tensor) -> None:
        self.rows.append(rows)

    def compute(self) -> dict[str, Tensor]:
        rows = torch.cat(self.rows) if isinstance(self.rows, list) else self.rows
        errors = rows[:, 0]
        found = {
            "mean": errors.mean(),
            "max": errors.max(),
            "sd": errors.std(correction=0),
            "above": (errors > ABOVE).double().mean(),
        }
        if self.rotations:
            worst = errors.topk(max(1, len(errors) // 100)).indices
            q = rows[worst, 1:]
            centre = torch.linalg.eigh(q.mT @ q).eigenvectors[:, 0]
            found["worst"], found["centre"] = _angle(q[:, 0]).median(), _angle(q @ centre).median()
        return found


def _angle(cosine: Tensor) -> Tensor:
    """Degrees of the rotation between two unit quaternions with this product."""
    return 2 * torch.rad2deg(torch.arccos(cosine.abs().clamp(max=1)))


class _View:
    """One number of the errors."""

    def __init__(self, errors: _Errors, key: str):
        self.errors, self.key = errors, key

    def compute(self) -> Tensor:
        return self.errors.compute()[self.key].float()

    def reset(self) -> None:
        """Does nothing: the last view resets them all."""


class _LastView(_View):
    def reset(self) -> None:
        self.errors.reset()


def _views(errors: Any, names: Mapping[str, str]) -> dict[str, Any]:
    kinds = [_View] * (len(names) - 1) + [_LastView]
    return {name: kind(errors, key) for kind, (key, name) in zip(kinds, names.items(), strict=True)}
