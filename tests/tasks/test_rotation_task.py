"""Losses and metrics of rotation regression, against plain formulas, and a short fit."""

import functools
import math

import lightning as L
import pytest
import torch
from torch import nn

from eigenzoo.data.poses import RigidClouds, SkeletonPoses
from eigenzoo.data.rotations import RandomRotations
from eigenzoo.models.equivariant.rotation_heads import InverseKinematics, PointCloudPose, RotationAutoencoder
from eigenzoo.ops.lie import so3
from eigenzoo.ops.rotations import rotation_vector_to_matrix
from eigenzoo.tasks.rotation_regression import PoseReconstruction, RotationRegression

ADAM = functools.partial(torch.optim.Adam, lr=1e-3)


class Turned(nn.Module):
    """Turns the input matrix by the angle that belongs to the sample."""

    def __init__(self, degrees):
        super().__init__()
        self.degrees = degrees

    def forward(self, x):
        vector = torch.zeros(len(x), 3)
        vector[:, 2] = torch.deg2rad(self.degrees)
        return x @ rotation_vector_to_matrix(vector)


def metrics(task, stage="test"):
    return {name: metric.compute().item() for name, metric in task.metrics_of(stage).items()}


def test_metrics():
    degrees = torch.linspace(0, 30, 401)[:400]
    degrees[7], degrees[8], degrees[9] = 170.0, 160.0, 150.0
    x = so3.random((400,), torch.Generator().manual_seed(0))
    task = RotationRegression(Turned(degrees), optim=ADAM)
    batch = {"x": x, "y": x, "mask": torch.ones(400, dtype=torch.bool)}
    batch["mask"][-1] = False
    task.update_metrics(batch, "test")
    found, kept = metrics(task), degrees[:-1]
    assert found["degrees"] == pytest.approx(kept.mean().item(), rel=1e-4)
    assert found["degrees_max"] == pytest.approx(170, abs=1e-3)
    assert found["degrees_sd"] == pytest.approx(kept.std(correction=0).item(), rel=1e-4)
    assert found["above_10"] == pytest.approx((kept > 10).float().mean().item())
    # The worst 1 % of 399 are the three that were set.
    angle = torch.rad2deg(torch.arccos((x[7:10].diagonal(dim1=1, dim2=2).sum(1) - 1) / 2))
    assert found["worst_angle"] == pytest.approx(angle.median().item(), abs=0.1)
    # Three quaternions have a perpendicular one: a rotation that all are 180 degrees from.
    assert found["worst_angle_from_centre"] == pytest.approx(180, abs=1e-3)
    for metric in task.metrics_of("test").values():
        metric.reset()
    batch["x"] = batch["y"] = x[:1]
    task.model.degrees = torch.tensor([1e-4])
    task.update_metrics({"x": x[:1], "y": x[:1], "mask": torch.ones(1, dtype=torch.bool)}, "test")
    assert metrics(task)["degrees_max"] < 0.01


def test_losses():
    x = so3.random((5,))
    turn = Turned(torch.full((5,), 60.0))
    batch = {"x": x, "y": x}
    # |R - 1|_F^2 = 8 sin^2(t/2) over nine entries.
    pose = RotationRegression(turn, optim=ADAM).losses(batch)["pose"]
    assert pose.item() == pytest.approx(8 * 0.25 / 9, rel=1e-5)
    geodesic = RotationRegression(turn, optim=ADAM, loss="geodesic").losses(batch)["geodesic"]
    assert geodesic.item() == pytest.approx(math.pi / 3, rel=1e-5)
    model = PointCloudPose(dim=16)
    data = RigidClouds(4, samples=(4, 0, 4), objects=2, points=8)
    data.setup()
    clouds = data.splits["test"]
    points = RotationRegression(model, optim=ADAM, loss="points").losses(clouds)["points"]
    turned = clouds["reference"] @ model(clouds["reference"], clouds["target"]).mT
    torch.testing.assert_close(points, (turned - clouds["target"]).square().mean())


def test_faults():
    with pytest.raises(ValueError, match="did you mean 'pose'"):
        RotationRegression(nn.Identity(), optim=ADAM, loss="poses")
    with pytest.raises(ValueError, match="these data have none"):
        RotationRegression(nn.Identity(), optim=ADAM, loss="points").check_sizes({"dim_out": 9})


def test_kinematics():
    data = SkeletonPoses(4, samples=(4, 0, 6))
    data.setup()
    model = InverseKinematics(dim=8)
    task = PoseReconstruction(model, optim=ADAM)
    batch = data.splits["test"] | {"mask": torch.arange(6) != 2}
    task.update_metrics(batch, "val")
    distances = 100 * (model(batch["x"]) - batch["y"]).norm(dim=-1)[batch["mask"]]
    found = metrics(task, "val")
    assert found["cm"] == pytest.approx(distances.mean().item(), rel=1e-5)
    assert found["cm_max"] == pytest.approx(distances.max().item(), rel=1e-5)
    torch.testing.assert_close(task.losses(batch)["mse"], (model(batch["x"]) - batch["y"]).square().mean())


def test_fit_and_test(tmp_path):
    """A run through the trainer: the error falls, and two tests in a row give the same numbers."""
    torch.manual_seed(0)
    data = RandomRotations(64, samples=(64 * 60, 0, 300), eval_batch_size=128)
    task = RotationRegression(RotationAutoencoder("6d", dim=32), optim=ADAM)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    before = trainer.test(task, datamodule=data, verbose=False)[0]
    trainer.fit(task, datamodule=data)
    after = trainer.test(task, datamodule=data, verbose=False)[0]
    assert after["test/degrees"] < 0.6 * before["test/degrees"]
    names = ("degrees", "degrees_max", "degrees_sd", "above_10", "worst_angle", "worst_angle_from_centre")
    assert set(after) == {f"test/{name}" for name in names}
    assert trainer.test(task, datamodule=data, verbose=False)[0] == after
