"""The eight Tetris pieces of four unit cubes, in random poses; the first two are mirror images.

Of a test of what equivariant networks can tell apart (e3nn's; Xie et al., ICML 2025, arXiv 2506.13523).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .generated import GeneratedData
from .rotations import haar_rotations

PIECES = (
    ((0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 1, 0)),  # chiral
    ((1, 1, 1), (1, 1, 2), (2, 1, 1), (2, 0, 1)),  # its mirror image
    ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)),  # square
    ((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3)),  # line
    ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)),  # corner
    ((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)),  # L
    ((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 1)),  # T
    ((0, 0, 0), (1, 0, 0), (1, 1, 0), (2, 1, 0)),  # zigzag
)


class Tetris(GeneratedData):
    """`x` (B, 4, 3): the centres of a piece's cubes, about their mean, in a uniformly random pose; `y` (B,): which.

    Samples 0, 1, .. are the pieces 0, 1, .., 7, 0, .. of a draw, so that a batch of 8 has each of them once.

    Args:
        batch_size: a multiple of 8.
        seed, data_seed, samples, fresh: see `GeneratedData`; by default training poses are fresh in every batch.

    Raises:
        ValueError: a batch or a split that is not a multiple of 8.
    """

    name = "tetris"

    def __init__(
        self,
        batch_size: int = 8,
        *,
        seed: int,
        data_seed: int = 0,
        samples: Sequence[int] = (8, 64, 256),
        fresh: bool = True,
    ):
        super().__init__(batch_size, seed=seed, data_seed=data_seed, samples=samples, fresh=fresh)
        if batch_size % len(PIECES) or any(count % len(PIECES) for count in samples):
            raise ValueError(
                f"batch_size={batch_size} and samples={list(samples)} must be multiples of {len(PIECES)}, the pieces"
            )

    @property
    def sizes(self) -> dict[str, Any]:
        """8 classes of clouds of 4 points."""
        return {"dim_out": len(PIECES), "points": 4}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def draw(self, rng: np.random.Generator, count: int, split: str) -> dict[str, Tensor]:
        """Pieces in order, each turned by its own uniform rotation."""
        pieces = np.array(PIECES, dtype=np.float64)
        numbers = np.arange(count) % len(PIECES)
        clouds = (pieces - pieces.mean(1, keepdims=True))[numbers]
        turned = np.einsum("bij,bnj->bni", haar_rotations(rng, count).numpy(), clouds)
        return {"x": torch.from_numpy(turned).float(), "y": torch.from_numpy(numbers)}
