"""Point clouds on analytic surfaces, with their normals, in a preferred pose and rotated.

Ellipsoids whose axes are sorted along the coordinates and tori stretched along one: small stand-ins for the meshes
of the normal estimation of Puny et al., "Frame Averaging for Invariant and Equivariant Network Design", ICLR 2022,
arXiv 2110.03336, with that paper's test sets: as they are (I), rotated about the third axis (z), rotated anyhow
(SO3).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops.rotations import quaternion_to_matrix
from .generated import GeneratedData

ROTATIONS = ("I", "z", "SO3")
TARGETS = ("normals", "kind")
Cloud = tuple[np.ndarray, np.ndarray]


class Surfaces(GeneratedData):
    """`x` (B, points, 3) on a closed surface; `y` (B, points, 3), its unit outward normals there, or `y` (B,) int64,
    the number of its kind.

    Test batches hold the same clouds rotated as well: `x@z`, `x@SO3` (and `x@I`, as they are), and for normals
    `y@z`, `y@SO3`, `y@I`. Points are not evenly spread over a surface: they are even in its parameters.

    | kind | surface | normal at the parameters |
    |---|---|---|
    | `sphere` | r u, u even on the unit sphere, r from 0.5 to 1.5 | u |
    | `ellipsoid` | (a u_1, b u_2, c u_3), a > b > c from 0.4 to 1.5 | (u_1 / a, u_2 / b, u_3 / c) |
    | `torus` | (s (R + r cos w) cos v, (R + r cos w) sin v, r sin w) | (cos w cos v / s, cos w sin v, sin w) |
    | `superquadric` | as the ellipsoid, sines and cosines to the powers e_1, e_2 from 0.3 to 1.7 | the dual powers |

    Of a torus R is from 0.7 to 1, r from 0.2 to 0.4, the stretch s from 1.3 to 1.8.

    Args:
        batch_size: clouds of a training batch.
        points: of a cloud, at least 1.
        samples: (train, val, test).
        seed, data_seed: of the run, of the generator.
        kinds: of the surfaces, drawn with equal chances.
        target: `normals`, or `kind` for a classification.
        rotations: of the test batches, some of I, z, SO3.
        train_rotation: of training and validation clouds, one of these.

    Raises:
        ValueError: unknown words, no kind or one named twice, no point.
    """

    name = "surfaces"

    def __init__(
        self,
        batch_size: int,
        *,
        points: int = 128,
        samples: Sequence[int] = (1500, 0, 300),
        seed: int = 0,
        data_seed: int = 0,
        kinds: Sequence[str] = ("ellipsoid", "torus"),
        target: str = "normals",
        rotations: Sequence[str] = ROTATIONS,
        train_rotation: str = "I",
    ):
        super().__init__(batch_size, seed=seed, data_seed=data_seed, samples=samples)
        if points < 1:
            raise ValueError(f"points must be at least 1, got {points}")
        _check_words("kinds", kinds, KINDS)
        _check_words("rotations", rotations, ROTATIONS)
        _check_words("train_rotation", [train_rotation], ROTATIONS)
        _check_words("target", [target], TARGETS)
        self.points, self.kinds, self.target = points, tuple(kinds), target
        self.rotations, self.train_rotation = tuple(rotations), train_rotation

    @property
    def sizes(self) -> dict[str, int]:
        """Three coordinates in; three of a normal per point out, or as many classes as there are kinds."""
        outputs = 3 if self.target == "normals" else len(self.kinds)
        return {"dim_in": 3, "dim_out": outputs, "points": self.points}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """All arguments that the clouds depend on."""
        return {
            "points": self.points,
            "kinds": list(self.kinds),
            "target": self.target,
            "rotations": list(self.rotations),
            "train_rotation": self.train_rotation,
        }

    def draw(self, rng: np.random.Generator, count: int, split: str) -> dict[str, Tensor]:
        """Clouds and targets; the rotated variants of a test split."""
        numbers = rng.integers(len(self.kinds), size=count)
        x, normals = np.empty((2, count, self.points, 3))
        for number, kind in enumerate(self.kinds):
            chosen = numbers == number
            x[chosen], normals[chosen] = KINDS[kind](rng, int(chosen.sum()), self.points)
        if split != "test":
            turns = rotations(rng, count, self.train_rotation)
            return self._batch(x @ turns, normals @ turns, numbers)
        found = self._batch(x, normals, numbers)
        for which in self.rotations:
            turns = rotations(rng, count, which)
            turned = self._batch(x @ turns, normals @ turns, numbers)
            found |= {f"{key}@{which}": tensor for key, tensor in turned.items()}
        return found

    def _batch(self, x: np.ndarray, normals: np.ndarray, numbers: np.ndarray) -> dict[str, Tensor]:
        y = torch.from_numpy(numbers) if self.target == "kind" else torch.from_numpy(normals).float()
        return {"x": torch.from_numpy(x).float(), "y": y}


def rotations(rng: np.random.Generator, count: int, which: str) -> np.ndarray:
    """Rotation matrices (count, 3, 3): identities (`I`), about the third axis (`z`), of the Haar measure (`SO3`)."""
    quaternions = rng.standard_normal((count, 4))
    if which == "I":
        quaternions[:] = (1, 0, 0, 0)
    if which == "z":
        quaternions[:, 1:3] = 0
    return quaternion_to_matrix(torch.from_numpy(quaternions)).numpy()


def sphere(rng: np.random.Generator, count: int, points: int) -> Cloud:
    """Points (count, points, 3) on spheres about the origin, and the normals there."""
    u = _directions(rng, count, points)
    return u * rng.uniform(0.5, 1.5, (count, 1, 1)), u


def ellipsoid(rng: np.random.Generator, count: int, points: int) -> Cloud:
    """Points on ellipsoids, the longest axis along the first coordinate, and the normals there."""
    u, axes = _directions(rng, count, points), _sorted_axes(rng, count)
    return u * axes, _unit(u / axes)


def torus(rng: np.random.Generator, count: int, points: int) -> Cloud:
    """Points on tori about the third axis, stretched along the first, and the normals there."""
    v, w = rng.uniform(0, 2 * np.pi, (2, count, points))
    wide, thin, stretch = (rng.uniform(*range_, (count, 1)) for range_ in ((0.7, 1), (0.2, 0.4), (1.3, 1.8)))
    ring = wide + thin * np.cos(w)
    x = np.stack([stretch * ring * np.cos(v), ring * np.sin(v), thin * np.sin(w)], -1)
    return x, _unit(np.stack([np.cos(w) * np.cos(v) / stretch, np.cos(w) * np.sin(v), np.sin(w)], -1))


def superquadric(rng: np.random.Generator, count: int, points: int) -> Cloud:
    """Points on superellipsoids with sorted axes, and the normals there."""
    v, w = rng.uniform(-np.pi, np.pi, (count, points)), rng.uniform(-np.pi / 2, np.pi / 2, (count, points))
    first, second = rng.uniform(0.3, 1.7, (2, count, 1))
    axes = _sorted_axes(rng, count)
    x = axes * _powers(v, w, first, second)
    return x, _unit(_powers(v, w, 2 - first, 2 - second) / axes)


KINDS: dict[str, Callable[[np.random.Generator, int, int], Cloud]] = {
    "sphere": sphere,
    "ellipsoid": ellipsoid,
    "torus": torus,
    "superquadric": superquadric,
}


def _powers(v: np.ndarray, w: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(cos^e1 w cos^e2 v, cos^e1 w sin^e2 v, sin^e1 w), the powers with the signs of their bases."""

    def power(value: np.ndarray, exponent: np.ndarray) -> np.ndarray:
        return np.sign(value) * np.abs(value) ** exponent

    ring = power(np.cos(w), first)
    return np.stack(
        [ring * power(np.cos(v), second), ring * power(np.sin(v), second), power(np.sin(w), first)], -1
    )


def _directions(rng: np.random.Generator, count: int, points: int) -> np.ndarray:
    return _unit(rng.standard_normal((count, points, 3)))


def _sorted_axes(rng: np.random.Generator, count: int) -> np.ndarray:
    return -np.sort(-rng.uniform(0.4, 1.5, (count, 1, 3)), axis=-1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _check_words(name: str, given: Sequence[str], known: Sequence[str] | Mapping[str, Any]) -> None:
    if not given or len(set(given)) < len(given) or not set(given) <= set(known):
        raise ValueError(f"{name}={list(given)}: must be different ones of {', '.join(known)}")
