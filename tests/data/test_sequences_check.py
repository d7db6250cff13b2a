"""Tokens and lengths are checked when a set is read."""

import pytest
import torch

from eigenzoo.data.module import check_sequences
from eigenzoo.errors import DataError

SIZES = {"vocabulary": 5, "dim_out": 2, "length": 4}


def split(shape: tuple[int, ...] = (3, 4)) -> dict[str, torch.Tensor]:
    lengths = torch.full(shape[:-1], 4)
    return {"x": torch.zeros(shape, dtype=torch.uint8), "lengths": lengths, "y": torch.zeros(3).long()}


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4)])
@pytest.mark.parametrize("length", [0, 5])
def test_empty_and_over_long_sequences(shape: tuple[int, ...], length: int):
    tensors = split(shape)
    check_sequences("set", "train", tensors, SIZES)
    tensors["lengths"][1] = length
    with pytest.raises(
        DataError, match=rf"'set', split 'train', sample 1: length {length} is not in 1 \.\. 4"
    ):
        check_sequences("set", "train", tensors, SIZES)


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4)])
def test_tokens_outside_the_vocabulary(shape: tuple[int, ...]):
    tensors = split(shape)
    tensors["x"][2] = 200
    with pytest.raises(DataError, match=r"sample 2: token 200 is not in the vocabulary 0 \.\. 4"):
        check_sequences("set", "test", tensors, SIZES)
    check_sequences("set", "test", tensors, {**SIZES, "vocabulary": 201})
    check_sequences("set", "test", tensors, {"dim_in": 1, "dim_out": 2})
