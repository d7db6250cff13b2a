"""Rigid objects in two poses, and a skeleton in random ones: generated stand-ins for the paper's data.

Experiments 2 and 3 of Zhou, Barnes, Lu, Yang, Li, "On the Continuity of Rotation Representations in Neural Networks",
CVPR 2019, arXiv 1812.07035, use point clouds of ShapeNet's planes and motion capture of CMU, which are downloads; here
are the same tasks on objects and poses that are drawn from a seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops.rotations import OFFSETS, PARENTS, forward_kinematics
from .generated import GeneratedData
from .module import check_whole
from .rotations import haar_rotations, limited_rotations


def rigid_objects(rng: np.random.Generator, objects: int, points: int) -> Tensor:
    """Clouds (objects, points, 3) on the surfaces of two boxes and two ellipsoids each, centred, mean radius 1.

    Sizes, places and orientations of the parts are drawn for each object, so that none has a symmetry.
    """
    clouds = np.stack([_object(rng, points) for _ in range(objects)])
    clouds -= clouds.mean(1, keepdims=True)
    return torch.from_numpy(clouds / np.linalg.norm(clouds, axis=-1).mean(1)[:, None, None])


def _object(rng: np.random.Generator, points: int) -> np.ndarray:
    shares = np.array_split(np.arange(points), 4)
    parts = []
    for number, share in enumerate(shares):
        direction = rng.standard_normal((len(share), 3))
        norm = np.abs(direction).max(1) if number % 2 else np.linalg.norm(direction, axis=1)
        surface = direction / norm[:, None] * rng.uniform(0.2, 1.0, 3)
        parts.append(surface @ haar_rotations(rng, 1)[0].numpy() + rng.uniform(-1, 1, 3))
    return np.concatenate(parts)


class RigidClouds(GeneratedData):
    """An object and the same turned: `reference`, `target` (B, points, 3), `y` (B, 3, 3), `target = R reference`.

    The objects are one fixed set, in all splits; rotations are Haar-distributed. Float32.

    Args:
        batch_size: samples of a training batch.
        seed: of the run: the training batches.
        data_seed: of the objects and the fixed splits.
        samples: (train, val, test); train counts the samples of an epoch.
        fresh: draw every training batch anew.
        objects: in the set.
        points: of each.
    """

    name = "rigid_clouds"

    def __init__(
        self,
        batch_size: int = 32,
        *,
        seed: int = 0,
        data_seed: int = 0,
        samples: Sequence[int] = (32000, 0, 10000),
        fresh: bool = True,
        objects: int = 50,
        points: int = 128,
    ):
        super().__init__(batch_size, seed=seed, data_seed=data_seed, samples=samples, fresh=fresh)
        check_whole("objects", objects, 1)
        check_whole("points", points, 4)
        self.objects, self.points = objects, points
        # The stream of the objects: (data seed, 2), beside those of the splits and of fresh batches.
        self.clouds = rigid_objects(np.random.default_rng((data_seed, 2)), objects, points)

    @property
    def sizes(self) -> dict[str, Any]:
        return {"dim_out": 9, "points": self.points}

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"objects": self.objects, "points": self.points}

    def draw(self, rng: np.random.Generator, count: int, split: str) -> dict[str, Tensor]:
        """Objects and rotations at random, by the same law in all splits."""
        reference = self.clouds[torch.from_numpy(rng.integers(self.objects, size=count))]
        rotation = haar_rotations(rng, count)
        target = reference @ rotation.mT
        return {"reference": reference.float(), "target": target.float(), "y": rotation.float()}


class SkeletonPoses(GeneratedData):
    """Joint positions `x` (B, 20, 3), in metres, the root at the origin, and the same as targets `y`.

    The skeleton is that of `ops.rotations` (`PARENTS`, `OFFSETS`). The root is turned by a Haar rotation, every other
    joint by one that is uniform among those of at most `limit` degrees. Float32.

    Args:
        batch_size: samples of a training batch.
        seed: of the run: the training batches.
        data_seed: of the fixed splits.
        samples: (train, val, test); train counts the samples of an epoch.
        fresh: draw every training batch anew.
        limit: degrees, above 0 and at most 180.
    """

    name = "skeleton_poses"

    def __init__(
        self,
        batch_size: int = 64,
        *,
        seed: int = 0,
        data_seed: int = 0,
        samples: Sequence[int] = (64000, 0, 10000),
        fresh: bool = True,
        limit: float = 60.0,
    ):
        super().__init__(batch_size, seed=seed, data_seed=data_seed, samples=samples, fresh=fresh)
        if not 0 < limit <= 180:
            raise ValueError(f"limit={limit}: must be above 0 and at most 180 degrees")
        self.limit = limit

    @property
    def sizes(self) -> dict[str, Any]:
        return {"dim_out": 3, "points": len(PARENTS)}

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {
            "limit": self.limit,
            "parents": list(PARENTS),
            "offsets": [list(offset) for offset in OFFSETS],
        }

    def draw(self, rng: np.random.Generator, count: int, split: str) -> dict[str, Tensor]:
        """Poses at random, by the same law in all splits."""
        joints = len(PARENTS)
        others = limited_rotations(rng, count * (joints - 1), self.limit).unflatten(0, (count, joints - 1))
        rotations = torch.cat([haar_rotations(rng, count).unsqueeze(1), others], 1)
        offsets = torch.tensor(OFFSETS, dtype=torch.float64)
        positions = forward_kinematics(rotations, offsets, PARENTS).float()
        return {"x": positions, "y": positions}
