"""Tucker products and the decomposition into them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.ops.tucker import hosvd, mode_product, tucker_product, unfolding


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def test_product_is_the_sum_over_the_core():
    core, factors = normal(2, 3, 2), [normal(4, 2), normal(5, 3), normal(3, 2)]
    wanted = torch.einsum("abc,ia,jb,kc->ijk", core, *factors)
    torch.testing.assert_close(tucker_product(core, factors), wanted, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="2 factors for a core of 3 axes"):
        tucker_product(core, factors[:2])


def test_mode_product_multiplies_an_unfolding():
    x, matrix = normal(3, 4, 5), normal(2, 4)
    assert torch.allclose(unfolding(mode_product(x, matrix, 1), 1), matrix @ unfolding(x, 1))
    assert unfolding(x, 2).shape == (5, 12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_hosvd_with_full_ranks_is_exact(shape: list[int]):
    x = normal(*shape)
    core, factors = hosvd(x, shape)
    for factor in factors:
        assert torch.allclose(factor.mT @ factor, torch.eye(factor.shape[1], dtype=x.dtype), atol=1e-10)
    torch.testing.assert_close(tucker_product(core, factors), x, rtol=0, atol=1e-10)


def test_hosvd_finds_the_ranks_of_a_tensor():
    x = tucker_product(normal(2, 1, 2), [normal(6, 2), normal(5, 1), normal(4, 2)])
    core, factors = hosvd(x, (2, 1, 2))
    torch.testing.assert_close(tucker_product(core, factors), x, rtol=0, atol=1e-10)
    cut_core, cut = hosvd(x, (1, 1, 2))
    assert (tucker_product(cut_core, cut) - x).norm() > 1e-3 * x.norm()


def test_hosvd_names_what_is_wrong():
    with pytest.raises(ValueError, match="2 ranks for a tensor of 3 axes"):
        hosvd(normal(2, 3, 4), (1, 1))
    with pytest.raises(ValueError, match=r"ranks\[1\]=4: must be in 1 .. 3"):
        hosvd(normal(2, 3, 4), (1, 4, 1))
