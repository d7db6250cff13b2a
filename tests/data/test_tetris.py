"""The pieces: distances, mirror images, poses."""

import numpy as np
import pytest
import torch

from eigenzoo.data.tetris import PIECES, Tetris


def distances(clouds: torch.Tensor) -> torch.Tensor:
    return torch.cdist(clouds, clouds).flatten(1).sort(1).values


def test_poses_keep_distances_and_handedness():
    batch = Tetris(seed=0).draw(np.random.default_rng(0), 16, "train")
    pieces = torch.tensor(PIECES, dtype=torch.float32)
    assert batch["y"].tolist() == [*range(8)] * 2
    assert torch.allclose(distances(batch["x"]), distances(pieces)[batch["y"]], atol=1e-5)
    edges = batch["x"][:, 1:] - batch["x"][:, :1]
    plain = pieces[:, 1:] - pieces[:, :1]
    assert torch.allclose(torch.linalg.det(edges), torch.linalg.det(plain)[batch["y"]], atol=1e-5)
    assert not torch.allclose(batch["x"][:8], batch["x"][8:], atol=0.1)


def test_the_first_two_are_mirror_images_and_all_others_have_one_of_their_own():
    pieces = torch.tensor(PIECES, dtype=torch.float32)
    same = (distances(pieces)[:, None] - distances(pieces)).abs().amax(-1) < 1e-6
    assert same.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], *([i, i] for i in range(2, 8))]
    assert torch.linalg.det(pieces[:2, 1:] - pieces[:2, :1]).prod() < 0


def test_batches_that_do_not_hold_every_piece():
    with pytest.raises(ValueError, match="must be multiples of 8"):
        Tetris(12, seed=0)
