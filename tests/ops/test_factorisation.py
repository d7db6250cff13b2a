"""Closed forms of low-rank factors: optimality, equalities between them, and ranks for a ratio."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.ops.factorisation import (
    FLOOR,
    Moments,
    moments,
    output_pca,
    output_pca_layers,
    plain_svd,
    rank_for_ratio,
    regression,
    weighted_svd,
    whitened_svd,
)

OUT, IN, ROWS = 7, 5, 400


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def product(factors) -> torch.Tensor:
    return factors.second @ factors.first


W, B = normal(OUT, IN), normal(OUT, seed=1)
X = normal(ROWS, IN, seed=2) @ normal(IN, IN, seed=3) + normal(IN, seed=4)
IMPORTANCE = normal(IN, seed=5).square() * torch.tensor([1e-2, 1.0, 30.0, 1e3, 1e-1])


def test_plain_svd_is_the_truncated_svd_for_every_rank_and_batch():
    many = normal(2, 3, OUT, IN)
    found = plain_svd(many)
    for rank in range(1, IN + 1):
        L = product(found.cut(rank))
        left = (many - L).square().sum((-2, -1))
        torch.testing.assert_close(left, found.energies[..., rank:].sum(-1), atol=1e-10, rtol=0)
    torch.testing.assert_close(L, many)
    single = plain_svd(many[1, 2]).cut(2)
    torch.testing.assert_close(product(single), product(found.cut(2))[1, 2])
    torch.testing.assert_close(single.second.mT @ single.second, torch.eye(2, dtype=torch.float64))


def test_float32_weights_are_decomposed_in_float64():
    assert plain_svd(W.float()).first.dtype == torch.float64


@pytest.mark.parametrize("axis", ["input", "output"])
@pytest.mark.parametrize("constant", [1e-8, 1.0, 3e7])
def test_equal_importance_is_the_plain_svd(axis, constant):
    importance = torch.full((IN if axis == "input" else OUT,), constant, dtype=torch.float64)
    for rank in (1, 3):
        weighted = product(weighted_svd(W, importance, axis).cut(rank))
        torch.testing.assert_close(weighted, product(plain_svd(W).cut(rank)), atol=1e-10, rtol=0)


@pytest.mark.parametrize("axis", ["input", "output"])
def test_weighted_svd_at_full_rank_is_the_weight(axis):
    importance = IMPORTANCE if axis == "input" else normal(OUT, seed=6).square()
    torch.testing.assert_close(product(weighted_svd(W, importance, axis).cut(IN)), W)


@given(seed=st.integers(0, 10**6), rank=st.integers(1, 4), size=st.sampled_from([1e-3, 0.1, 1.0]))
@settings(max_examples=30, deadline=None)
def test_no_matrix_of_the_rank_is_closer_in_the_weighted_norm(seed, rank, size):
    D = (IMPORTANCE / IMPORTANCE.max()).sqrt()
    found = weighted_svd(W, IMPORTANCE)
    first, second, _ = found.cut(rank)
    best = ((W - second @ first) * D).square().sum()
    torch.testing.assert_close(best, found.energies[rank:].sum(), atol=1e-12, rtol=1e-9)
    other = (second + size * normal(OUT, rank, seed=seed)) @ (first + size * normal(rank, IN, seed=seed + 1))
    assert ((W - other) * D).square().sum() >= best


def test_weights_on_the_output_axis_are_optimal_for_rows():
    rows = normal(OUT, seed=7).square()
    found = weighted_svd(W, rows, "output")
    left = ((rows / rows.max()).sqrt().unsqueeze(-1) * (W - product(found.cut(2)))).square().sum()
    torch.testing.assert_close(left, found.energies[2:].sum())
    assert not torch.allclose(product(found.cut(2)), product(plain_svd(W).cut(2)), atol=1e-3)


def test_scaling_an_input_feature_leaves_the_compressed_function_unchanged():
    t = torch.tensor([2.0, 0.5, 8.0, 1.0, 0.25], dtype=torch.float64)  # x_i -> t_i x_i
    scaled = product(weighted_svd(W / t, IMPORTANCE * t.square()).cut(2))  # I_i -> t_i^2 I_i
    torch.testing.assert_close(scaled * t, product(weighted_svd(W, IMPORTANCE).cut(2)), atol=1e-12, rtol=0)


def test_importance_is_floored_relative_to_its_largest():
    importance = torch.tensor([4.0, 1e-30, 0.0, 4e-12, 1.0], dtype=torch.float64)
    floored = torch.tensor([1.0, FLOOR, FLOOR, FLOOR, 0.5], dtype=torch.float64)
    torch.testing.assert_close(
        product(weighted_svd(W, importance).cut(2)), product(weighted_svd(W, floored.square()).cut(2))
    )


@pytest.mark.parametrize(
    "importance, axis, words",
    [
        (torch.ones(IN), "rows", "axis is 'rows'"),
        (torch.ones(OUT), "input", "7 entries, the input axis has 5"),
        (torch.zeros(IN), "input", "0 everywhere"),
        (torch.tensor([1.0, -1, 1, 1, 1]), "input", "at least 0"),
        (torch.tensor([1.0, torch.nan, 1, 1, 1]), "input", "finite"),
    ],
)
def test_bad_importance(importance, axis, words):
    with pytest.raises(ValueError, match=words):
        weighted_svd(W, importance, axis)


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("rank", [1, 3])
def test_residual_energy_of_outputs_is_what_the_dropped_eigenvalues_say(centre, rank):
    Y = X @ W.mT + B
    found = output_pca(W, B, moments(Y), centre=centre)
    first, second, bias = found.cut(rank)
    approximated = X @ first.mT @ second.mT + bias
    left = (Y - approximated).square().sum(-1).mean()
    torch.testing.assert_close(left, found.energies[rank:].sum(), atol=0, rtol=1e-9)
    torch.testing.assert_close(second.mT @ second, torch.eye(rank, dtype=torch.float64))
    if centre:
        torch.testing.assert_close(approximated.mean(0), Y.mean(0), atol=1e-12, rtol=0)


def test_the_two_layers_of_the_paper_are_the_same_map():
    found = moments(X @ W.mT + B)
    W1, b1, W2, b2 = output_pca_layers(W, B, found, 3)
    first, second, bias = output_pca(W, B, found).cut(3)
    torch.testing.assert_close(W1, W2.mT @ W)
    torch.testing.assert_close(b1, W2.mT @ B)
    torch.testing.assert_close(b2, found.mean - W2 @ (W2.mT @ found.mean))
    torch.testing.assert_close((X @ W1.mT + b1) @ W2.mT + b2, X @ first.mT @ second.mT + bias)
    assert output_pca_layers(W, None, found, 3, centre=False)[1::2] == (None, None)


@pytest.mark.parametrize("centre", [True, False])
def test_full_rank_reproduces_the_outputs(centre):
    Y = X @ W.mT + B
    # Without centring, the bias is a direction of its own.
    first, second, bias = output_pca(W, B, moments(Y), centre=centre).cut(IN if centre else IN + 1)
    torch.testing.assert_close(X @ first.mT @ second.mT + bias, Y)


@pytest.mark.parametrize("rank", [1, 2, 4, 5])
def test_without_centring_it_is_the_whitened_svd(rank):
    pca = output_pca(W, None, moments(X @ W.mT), centre=False)
    whitened = whitened_svd(W, moments(X).second(centre=False))
    torch.testing.assert_close(product(pca.cut(rank)), product(whitened.cut(rank)), atol=1e-8, rtol=0)
    torch.testing.assert_close(pca.energies, whitened.energies)
    assert pca.cut(rank).bias is None


def test_whitening_drops_directions_without_energy():
    flat = X - X.mean(-1, keepdim=True)  # as after a layer norm: one direction is never seen
    L = product(whitened_svd(W, moments(flat).second(centre=False)).cut(4))
    torch.testing.assert_close(flat @ L.mT, flat @ W.mT, atol=1e-9, rtol=0)
    assert L.abs().max() < 100


def test_moments_of_shards_and_orders_are_those_of_one_pass():
    whole, halves = moments(X), moments(X[:150]) + moments(X[150:])
    shuffled = moments(X[torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))])
    for other in (halves, shuffled):
        for found, wanted in zip(other, whole, strict=True):
            torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(wanted), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(whole.second(centre=True), X.mT.cov(correction=0))
    torch.testing.assert_close(whole.mean, X.mean(0))


def test_moments_of_half_precision_are_summed_in_float32():
    rows = torch.full((3000, 1), 1.0, dtype=torch.bfloat16)
    assert moments(rows).outer.item() == 3000 and moments(rows).total.dtype == torch.float64


@pytest.mark.parametrize("centre", [True, False])
def test_regression_on_the_layer_s_own_inputs_is_the_output_pca(centre):
    Y = X @ W.mT
    pairs = moments(torch.cat([Y, X], dim=-1))
    ours = regression(pairs, OUT, centre=centre).cut(2)
    wanted = output_pca(W, None, moments(Y), centre=centre).cut(2)
    torch.testing.assert_close(product(ours), product(wanted), atol=1e-8, rtol=0)
    if centre:
        torch.testing.assert_close(ours.bias, wanted.bias)
    else:
        assert ours.bias is None and wanted.bias is None


def test_regression_from_other_inputs_is_optimal():
    Y, other = X @ W.mT, (X @ normal(IN, IN, seed=9)).tanh()
    found = regression(moments(torch.cat([Y, other], dim=-1)), OUT)
    first, second, bias = found.cut(2)
    best = (Y - other @ first.mT @ second.mT - bias).square().sum()
    for seed in range(20):
        near = second + 0.05 * normal(OUT, 2, seed=seed)
        assert (Y - other @ first.mT @ near.mT - bias).square().sum() > best


@given(ratio=st.floats(1e-3, 1.0), n=st.integers(1, 300), m=st.integers(1, 300))
def test_rank_for_ratio_keeps_within_the_ratio(ratio, n, m):
    rank = rank_for_ratio(ratio, n, m)
    largest = max(1, int(ratio * n * m / (n + m) + 1e-9))
    if rank is None:
        assert largest * (n + m) >= n * m
    else:
        assert rank * (n + m) < n * m and rank >= 1
        assert rank == 1 or rank * (n + m) <= ratio * n * m * (1 + 1e-12)
        assert (rank + 1) * (n + m) > ratio * n * m


@pytest.mark.parametrize(
    "ratio, shape, rank",
    [(0.5, (128, 128), 32), (0.3, (128, 128), 19), (0.29, (200, 200), 29), (1.0, (128, 128), None),
     (1.0, (512, 128), 102), (0.01, (10, 10), 1), (0.9, (3, 1), None)],
)  # fmt: skip
def test_ranks(ratio, shape, rank):
    assert rank_for_ratio(ratio, *shape) == rank


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01, float("nan")])
def test_ratio_out_of_range(ratio):
    with pytest.raises(ValueError, match=r"ratio=.*\(0, 1\]"):
        rank_for_ratio(ratio, 4, 4)


def test_a_cut_beyond_the_terms_is_an_error():
    few = Moments(2, torch.ones(OUT).double(), torch.eye(OUT).double())
    with pytest.raises(ValueError, match=r"rank=3: must lie in 1 .. 2"):
        output_pca(W, None, few).cut(3)
