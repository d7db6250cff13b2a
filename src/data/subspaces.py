"""Classes that are linear subspaces, which one vector per class cannot tell apart.

A test bed for heads that have a subspace per class (`eigenzoo.models.heads.GrassmannHead`): samples are symmetric under
a change of sign, so that a linear head is right on at most about half of them.
"""

from collections.abc import Sequence

import numpy as np

from .module import check_whole
from .prototypes import ClassesFromASeed

SAMPLES = (500, 0, 200)


class UnionOfSubspaces(ClassesFromASeed):
    """`x = A_c z + noise * eps`, z and eps from the unit normal distribution; `x` (B, dim), `y` (B,).

    A_c, (dim, subspace_dim), has orthonormal columns, uniformly distributed and fixed by the data seed; see
    `ClassesFromASeed`.

    Args:
        batch_size: samples of a training batch.
        seed: of the run: the order of the training samples.
        data_seed: of bases and samples.
        num_classes: at least 2.
        dim: of a sample.
        subspace_dim: of a class, at most `dim`.
        noise: standard deviation of a component, not negative.
        samples: of every class in (train, val, test).

    Raises:
        ValueError: an argument out of range.
    """

    name = "union_of_subspaces"

    def __init__(
        self,
        batch_size: int = 128,
        *,
        seed: int = 0,
        data_seed: int = 0,
        num_classes: int = 10,
        dim: int = 64,
        subspace_dim: int = 4,
        noise: float = 0.1,
        samples: Sequence[int] = SAMPLES,
    ):
        super().__init__(
            batch_size, seed=seed, data_seed=data_seed, num_classes=num_classes, dim=dim, noise=noise, samples=samples
        )  # fmt: skip
        check_whole("subspace_dim", subspace_dim, 1)
        if subspace_dim > dim:
            raise ValueError(f"subspace_dim={subspace_dim}: more than dim={dim}")
        self.subspace_dim = subspace_dim

    def classes(self, rng: np.random.Generator) -> np.ndarray:
        """The bases, (num_classes, dim, subspace_dim)."""
        drawn = rng.standard_normal((self.num_classes, self.dim, self.subspace_dim))
        q, r = np.linalg.qr(drawn)
        return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]

    def draw(self, rng: np.random.Generator, classes: np.ndarray, count: int) -> np.ndarray:
        """`A_c z` of every class."""
        z = rng.standard_normal((self.num_classes, count, self.subspace_dim))
        return z @ classes.swapaxes(1, 2)
