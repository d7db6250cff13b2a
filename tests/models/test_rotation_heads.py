"""Networks that end in rotations: shapes, types, what they may depend on, and that the sanity net learns."""

import pytest
import torch

from eigenzoo.data.poses import SkeletonPoses
from eigenzoo.models.equivariant.rotation_heads import (
    InverseKinematics,
    PointCloudPose,
    RotationAutoencoder,
    RotationHead,
)
from eigenzoo.ops.lie import so3
from eigenzoo.ops.rotations import OFFSETS, PARENTS, REPRESENTATIONS, geodesic_distance

NAMES = sorted(REPRESENTATIONS)


def rotations_only(matrix, tolerance):
    gram = matrix.mT @ matrix - torch.eye(3, dtype=matrix.dtype)
    return gram.abs().max() < tolerance and (torch.linalg.det(matrix.float()) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_representation_ends_in_rotations(name):
    torch.manual_seed(0)
    head = RotationHead(5, name)
    assert rotations_only(head(torch.randn(2, 3, 5)), 1e-5)
    model = RotationAutoencoder(name, dim=16)
    (x,) = model.example_inputs(4)
    y = model(x)
    assert y.shape == (4, 3, 3) and rotations_only(y, 1e-5)
    y[..., 0, 1].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert any(p.grad.abs().max() > 0 for p in model.parameters())


def test_the_sanity_net_is_the_papers():
    shapes = [tuple(p.shape) for p in RotationAutoencoder("6d").parameters() if p.ndim == 2]
    assert shapes == [(128, 9), (128, 128), (128, 128), (6, 128)]


def test_precisions():
    model = RotationAutoencoder("6d", dim=16)
    x = so3.random((3,))
    assert model.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    exact = model.double()(x.double())
    assert exact.dtype == torch.float64 and rotations_only(exact, 1e-14)
    with torch.autocast("cpu", torch.bfloat16):
        y = model.float()(x)
    assert y.dtype == torch.float32 and rotations_only(y, 1e-5)


def test_clouds_do_not_depend_on_the_order_of_points():
    torch.manual_seed(0)
    model = PointCloudPose("5d", dim=32).double()
    reference, target = torch.randn(3, 9, 3).double(), torch.randn(3, 7, 3).double()
    y = model(reference, target)
    assert y.shape == (3, 3, 3) and rotations_only(y, 1e-12)
    torch.testing.assert_close(model(reference[:, torch.randperm(9)], target.flip(1)), y)
    assert (model(target, reference) - y).abs().max() > 1e-3
    assert [tuple(p.shape) for p in PointCloudPose().parameters() if p.ndim == 2] == [
        (64, 3), (128, 64), (1024, 128), (512, 2048), (6, 512)
    ]  # fmt: skip


def test_inverse_kinematics_keeps_the_lengths_of_the_bones():
    data = SkeletonPoses(samples=(8, 0, 8))
    model = InverseKinematics("6d", dim=32).double()
    data.setup()
    x = data.splits["test"]["x"].double()
    y = model(x)
    assert y.shape == x.shape == (8, 20, 3) and (y[:, 0] == 0).all()
    bones = (y[:, 1:] - y[:, list(PARENTS[1:])]).norm(dim=-1)
    wanted = torch.tensor(OFFSETS, dtype=torch.float64)[1:].norm(dim=-1)
    torch.testing.assert_close(bones, wanted.expand_as(bones), rtol=0, atol=1e-12)
    assert rotations_only(model.rotations(x), 1e-12)
    assert model.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


def test_faults():
    with pytest.raises(ValueError, match="did you mean '6d'"):
        RotationHead(4, "6D")
    with pytest.raises(ValueError, match="dim=0"):
        RotationHead(0)
    with pytest.raises(ValueError, match="depth=1: must be at least 2"):
        RotationAutoencoder(depth=1)
    with pytest.raises(ValueError, match="dim=24"):
        PointCloudPose(dim=24)
    with pytest.raises(ValueError, match="joint 1 is 1"):
        InverseKinematics(parents=[-1, 1], offsets=[[0.0] * 3] * 2)
    with pytest.raises(ValueError, match="each of the 2 joints"):
        InverseKinematics(parents=[-1, 0], offsets=[[0.0] * 3])
    x = so3.random((3,))
    x[1, 2, 0] = torch.nan
    with pytest.raises(ValueError, match=r"x is NaN or infinite, first at index \[1, 2, 0\]"):
        RotationAutoencoder(dim=4)(x)
    with pytest.raises(ValueError, match="no points"):
        PointCloudPose(dim=16)(torch.randn(2, 0, 3), torch.randn(2, 4, 3))
    model = InverseKinematics(parents=[-1, 0], offsets=[[0.0] * 3] * 2, dim=4)
    with pytest.raises(ValueError, match="3 joints, the skeleton has 2"):
        model(torch.randn(2, 3, 3))


def test_meta_device():
    with torch.device("meta"):
        for model in (RotationAutoencoder("svd", dim=8), PointCloudPose(dim=16)):
            assert model(*model.example_inputs()).is_meta
        model = InverseKinematics(parents=[-1, 0], offsets=[[0.0] * 3] * 2, dim=4)
        assert model(*model.example_inputs()).shape == (2, 2, 3)


@pytest.mark.slow
def test_the_sanity_net_learns():
    """3000 steps at 1e-3: a mean error below 2 degrees."""
    torch.manual_seed(0)
    model = RotationAutoencoder("6d")
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(3000):
        x = so3.random((64,))
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()
    x = so3.random((5000,))
    degrees = torch.rad2deg(geodesic_distance(model(x).detach().double(), x.double()))
    assert degrees.mean() < 2
