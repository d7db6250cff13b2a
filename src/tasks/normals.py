"""Normals of point clouds, up to sign, on test sets in the training pose and in others.

Task of Puny et al., "Frame Averaging for Invariant and Equivariant Network Design", ICLR 2022, arXiv 2110.03336.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .base import Batch
from .means import MeanTask, variants


class NormalEstimation(MeanTask):
    """Clouds `x` (B, n, 3) to a vector per point, along the unit normal `y` (B, n, 3) or against it.

    Minimises the mean of 1 - cos^2 of the angle between them. Metrics, means over all points of all clouds: `loss`,
    the same, and `degrees`, the angle between the two lines (0 to 90); in a test, for every R of `rotations`,
    `loss@R` and `degrees@R` on the test batch's clouds `x@R` and normals `y@R`.

    Args:
        model: (B, n, 3) to (B, n, 3); the lengths of its vectors do not matter.
        optim, scheduler: see `Task`.
        rotations: of the test batches, as the data module names them.

    Raises:
        ValueError: a rotation named twice.
        DataError: at the start of a fit and in a test, a rotation that the test batches do not have.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        rotations: Sequence[str] = ("I", "z", "SO3"),
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        if len(set(rotations)) < len(rotations):
            raise ValueError(f"rotations={list(rotations)}: must be different")
        self.rotations = tuple(rotations)
        suffixes = ["", *(f"@{which}" for which in rotations)]
        names = [f"{kind}{suffix}" for suffix in suffixes for kind in ("loss", "degrees")]
        self.track({"val": names[:2], "test": names})

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Raises ValueError for data whose targets are no normals."""
        if sizes.get("dim_out") != sizes.get("dim_in"):
            raise ValueError(
                f"these data have dim_out={sizes.get('dim_out')}, a normal has the {sizes.get('dim_in')} "
                "components of a point; set data.target=normals"
            )

    def on_fit_start(self) -> None:
        """Looks for the rotated clouds of the test: not only in the test, later."""
        test = getattr(getattr(self.trainer, "datamodule", None), "splits", {}).get("test")
        if test is not None:
            list(self._views(test, "test"))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": 1 - squared_cosines(self.model(batch["x"]), batch["y"]).mean()}

    def update_metrics(self, batch: Batch, stage: str) -> None:
        for suffix, x, y in self._views(batch, stage):
            predicted, normals = self.model(x).float(), y.float()
            self.add(stage, f"loss{suffix}", 1 - squared_cosines(predicted, normals).mean(1), batch)
            self.add(stage, f"degrees{suffix}", line_angles(predicted, normals).mean(1), batch)

    def _views(self, batch: Batch, stage: str) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(suffix of the metrics, x, y) of every rotation."""
        return variants(batch, self.rotations if stage == "test" else (), "rotations", "no rotated clouds")


def squared_cosines(
    predicted: Float[Tensor, "batch n d"], normals: Float[Tensor, "batch n d"]
) -> Float[Tensor, "batch n"]:
    """cos^2 of the angle between predicted vectors and unit normals; 0 for the vector 0."""
    least = torch.finfo(predicted.dtype).tiny
    return (predicted * normals).sum(-1).square() / predicted.square().sum(-1).clamp(min=least)


def line_angles(
    predicted: Float[Tensor, "batch n d"], normals: Float[Tensor, "batch n d"]
) -> Float[Tensor, "batch n"]:
    """The angle in degrees between the lines along predicted vectors and unit normals; 90 for the vector 0."""
    along = (predicted * normals).sum(-1, keepdim=True)
    across = (predicted - along * normals).norm(dim=-1)
    angle = torch.atan2(across, along[..., 0].abs())
    return torch.where(predicted.square().sum(-1) > 0, angle, torch.pi / 2).rad2deg()
