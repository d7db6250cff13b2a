import math

import pytest
import torch

from eigenzoo.ops.cosine import dct_matrix


@pytest.mark.parametrize("length", [1, 2, 8, 12, 20])
def test_orthonormal_and_the_definition(length: int):
    m = dct_matrix(length)
    assert (m @ m.T - torch.eye(length, dtype=torch.float64)).abs().max() < 1e-14
    for k in range(length):
        scale = math.sqrt((1 if k == 0 else 2) / length)
        for i in range(length):
            assert m[k, i].item() == pytest.approx(
                scale * math.cos(math.pi * (i + 0.5) * k / length), abs=1e-14
            )


def test_is_scipys():
    from scipy.fft import dct

    x = torch.randn(20, 3, dtype=torch.float64)
    assert torch.allclose(
        dct_matrix(20) @ x, torch.as_tensor(dct(x.numpy(), axis=0, norm="ortho")), atol=1e-13
    )


def test_type_and_device_follow():
    like = torch.empty(0, dtype=torch.bfloat16, device="meta")
    m = dct_matrix(4, like)
    assert m.dtype == torch.bfloat16 and m.is_meta and m.shape == (4, 4)


def test_no_length():
    with pytest.raises(ValueError, match="length=0"):
        dct_matrix(0)
