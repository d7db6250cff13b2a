"""Rotations drawn from the Haar measure, to be reproduced by an auto-encoder.

The sanity test of Zhou, Barnes, Lu, Yang, Li, "On the Continuity of Rotation Representations in Neural Networks", CVPR
2019, arXiv 1812.07035. Test rotations are Haar-distributed as well; the code released with the paper draws their angle
uniformly, so that it has more small angles.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops.rotations import quaternion_to_matrix, rotation_vector_to_matrix
from .generated import GeneratedData
from .module import check_whole

SAMPLES = (64000, 0, 100000)


def haar_rotations(rng: np.random.Generator, count: int) -> Tensor:
    """Uniformly distributed rotations, (count, 3, 3) in float64: normalised Gaussian quaternions."""
    return quaternion_to_matrix(torch.from_numpy(rng.standard_normal((count, 4))))


def limited_rotations(rng: np.random.Generator, count: int, degrees: float) -> Tensor:
    """Uniformly distributed among the rotations by at most so many degrees, (count, 3, 3) in float64.

    Drawn by rejection from a uniform vector in the ball that the rotation vectors fill, |v| = t being accepted with the
    probability `(2 - 2 cos t) / t^2`, at least 0.4.
    """
    found: list[np.ndarray] = []
    while sum(map(len, found)) < count:
        v = rng.standard_normal((2 * count + 8, 3))
        radius = np.radians(degrees) * rng.random((len(v), 1)) ** (1 / 3)
        v *= radius / np.linalg.norm(v, axis=1, keepdims=True)
        accepted = rng.random(len(v)) < np.sinc(radius[:, 0] / (2 * np.pi)) ** 2
        found.append(v[accepted])
    return rotation_vector_to_matrix(torch.from_numpy(np.concatenate(found)[:count]))


class RandomRotations(GeneratedData):
    """Rotation matrices `x` (B, 3, 3) and the same as targets `y` (B, 3, 3), float32.

    Args:
        batch_size: samples of a training batch.
        seed: of the run: the rotations of the training batches.
        data_seed: of the fixed splits.
        samples: (train, val, test); train counts the rotations of an epoch.
        fresh: draw every training batch anew.
        eval_batch_size: samples of a test batch.
    """

    name = "rotations"

    def __init__(
        self,
        batch_size: int = 64,
        *,
        seed: int = 0,
        data_seed: int = 0,
        samples: Sequence[int] = SAMPLES,
        fresh: bool = True,
        eval_batch_size: int = 2000,
    ):
        super().__init__(batch_size, seed=seed, data_seed=data_seed, samples=samples, fresh=fresh)
        check_whole("eval_batch_size", eval_batch_size, 1)
        self.eval_batch_size = eval_batch_size

    @property
    def sizes(self) -> dict[str, Any]:
        return {"dim_in": 9, "dim_out": 9}

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {}

    def draw(self, rng: np.random.Generator, count: int, split: str) -> dict[str, Tensor]:
        """Haar rotations in every split."""
        matrix = haar_rotations(rng, count).float()
        return {"x": matrix, "y": matrix}
