"""Random rotations, objects and skeletons: their laws, what they are functions of, and the faults."""

import math

import numpy as np
import pytest
import torch

from eigenzoo.data.poses import RigidClouds, SkeletonPoses, rigid_objects
from eigenzoo.data.rotations import RandomRotations, haar_rotations, limited_rotations
from eigenzoo.ops.rotations import OFFSETS, PARENTS, forward_kinematics, geodesic_distance


def angles(matrix):
    return geodesic_distance(torch.eye(3, dtype=matrix.dtype).expand_as(matrix), matrix)


def test_rotations_are_haar():
    t = angles(haar_rotations(np.random.default_rng(0), 20000)).sort().values
    # The distribution function of the angle, (t - sin t)/pi, by Kolmogorov-Smirnov (1.63/sqrt n: 1 %).
    empirical = (torch.arange(20000) + 0.5) / 20000
    assert ((t - t.sin()) / math.pi - empirical).abs().max() < 1.63 / math.sqrt(20000)


@pytest.mark.parametrize("degrees", [60.0, 180.0])
def test_limited_rotations_are_haar_below_the_limit(degrees):
    t = angles(limited_rotations(np.random.default_rng(1), 20000, degrees)).sort().values
    limit = math.radians(degrees)
    assert t.max() <= limit + 1e-9
    empirical = (torch.arange(20000) + 0.5) / 20000
    assert ((t - t.sin()) / (limit - math.sin(limit)) - empirical).abs().max() < 1.63 / math.sqrt(20000)


def batches(data, epoch=0):
    data.setup()
    loader = data.train_dataloader()
    loader.set_epoch(epoch)
    return list(loader)


def test_fresh_batches_are_a_function_of_seed_epoch_and_batch():
    def draw(seed=0, epoch=0):
        return torch.cat([b["x"] for b in batches(RandomRotations(8, seed=seed, samples=(20, 0, 6)), epoch)])

    first = draw()
    assert first.shape == (20, 3, 3) and torch.equal(first, draw())
    for other in (draw(seed=1), draw(epoch=1)):
        assert (other - first).abs().amax((-2, -1)).min() > 1e-3
    assert (first[:8] - first[8:16]).abs().amax((-2, -1)).min() > 1e-3


def test_the_test_split_is_fixed_and_its_own():
    data = RandomRotations(64, seed=3, samples=(64, 0, 1500), eval_batch_size=1000)
    data.setup()
    x, y = data.splits["test"]["x"], data.splits["test"]["y"]
    assert torch.equal(x, y) and x.dtype == torch.float32
    other = RandomRotations(64, seed=4, samples=(64, 0, 1500))
    other.setup()
    assert torch.equal(other.splits["test"]["x"], x)
    assert [len(b["x"]) for b in data.test_dataloader()] == [1000, 500]
    assert (x.mT @ x - torch.eye(3)).abs().max() < 1e-6


def test_clouds_are_the_objects_turned():
    data = RigidClouds(16, samples=(32, 0, 64), objects=5, points=20)
    data.setup()
    test = data.splits["test"]
    wanted = test["reference"] @ test["y"].mT
    torch.testing.assert_close(test["target"], wanted, rtol=0, atol=1e-5)
    objects = {tuple(row) for row in test["reference"][:, 0].tolist()}
    assert len(objects) == 5
    trained = {tuple(row) for b in batches(data) for row in b["reference"][:, 0].tolist()}
    assert trained <= objects
    assert angles(test["y"]).max() > 3


def test_objects_have_no_symmetry():
    clouds = rigid_objects(np.random.default_rng(0), 50, 128)
    assert clouds.mean(1).abs().max() < 1e-12
    torch.testing.assert_close(clouds.norm(dim=-1).mean(1), torch.ones(50, dtype=torch.float64))
    spread = torch.linalg.eigvalsh(clouds.mT @ clouds / 128)
    # Three different moments of inertia, and third moments that tell the two ends of each axis apart.
    assert (spread.diff(dim=-1) / spread[:, -1:]).min() > 1e-3
    _, axes = torch.linalg.eigh(clouds.mT @ clouds)
    skewness = (clouds @ axes).pow(3).mean(1).abs()
    assert skewness.sort(-1).values[:, 1].min() > 1e-4


def test_skeletons():
    assert len(PARENTS) == len(OFFSETS) == 20
    data = SkeletonPoses(8, samples=(16, 0, 50), limit=1e-6)
    data.setup()
    x = data.splits["test"]["x"].double()
    stiff = torch.eye(3, dtype=torch.float64).expand(20, 3, 3)
    rest = forward_kinematics(stiff, torch.tensor(OFFSETS, dtype=torch.float64), PARENTS)
    # With stiff joints a pose is the rest pose, turned.
    torch.testing.assert_close(
        torch.cdist(x, x), torch.cdist(rest, rest).expand(50, 20, 20), rtol=0, atol=1e-5
    )
    assert rest[:, 1].max() - rest[:, 1].min() == pytest.approx(1.55)
    assert (x[:, 1] / x[:, 1].norm(dim=-1, keepdim=True)).mean(0).abs().max() < 0.3
    loose = SkeletonPoses(8, samples=(16, 0, 50))
    loose.setup()
    moved = loose.splits["test"]["x"].double()
    assert (torch.cdist(moved, moved) - torch.cdist(rest, rest)).abs().max() > 0.3


def test_faults():
    with pytest.raises(ValueError, match="eval_batch_size"):
        RandomRotations(4, eval_batch_size=0)
    with pytest.raises(ValueError, match="objects"):
        RigidClouds(objects=0)
    with pytest.raises(ValueError, match=r"limit=0\.0"):
        SkeletonPoses(limit=0.0)
