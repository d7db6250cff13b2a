"""Truncated SVDs: near-optimal energy, orthonormal factors also of deficient matrices, one result per seed."""

import numpy as np
import pytest
import torch

from eigenzoo.ops.low_rank import recompress, truncated_svd


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def with_spectrum(values, m, n, seed=0):
    """A float64 matrix of given singular values."""
    k = len(values)
    left = torch.linalg.qr(noise(m, k, seed=seed, dtype=torch.float64)).Q
    right = torch.linalg.qr(noise(n, k, seed=seed + 1, dtype=torch.float64)).Q
    return left * values @ right.mT


def residual(matrix, U, s, Vh):
    return float((matrix.double() - (U * s[..., None, :] @ Vh).double()).norm())


@pytest.mark.parametrize("shape", [(160, 160), (240, 130), (130, 240)])
@pytest.mark.parametrize("iterations", [None, 0, 4])
def test_energy_is_nearly_optimal_on_a_harmonic_spectrum(shape, iterations):
    values = 1 / torch.arange(1, 131, dtype=torch.float64)
    matrix = with_spectrum(values, *shape).float()
    U, s, Vh = truncated_svd(matrix, 12, iterations=iterations)
    allowed = 1.4 if iterations == 0 else 1.0001
    assert residual(matrix, U, s, Vh) <= allowed * float(values[12:].norm())
    assert torch.allclose(U.mT @ U, torch.eye(12), atol=3e-6)
    assert torch.allclose(Vh @ Vh.mT, torch.eye(12), atol=3e-6)
    if iterations != 0:
        assert torch.allclose(s.double(), values[:12], rtol=1e-4)


def test_three_rounds_capture_more_of_a_flat_spectrum_than_sixteen_of_subspace_iteration():
    matrix = noise(400, 400) / 20
    torch.manual_seed(0)
    plain = torch.svd_lowrank(matrix, 8, niter=16)[1].square().sum()
    best = truncated_svd(matrix, 8)[1].square().sum()
    ours = truncated_svd(matrix, 8, iterations=3)[1].square().sum()
    assert plain < ours <= best * (1 + 1e-6)


def test_more_rounds_and_more_columns_capture_more():
    matrix = noise(300, 300, dtype=torch.float64)
    energies = [
        float(truncated_svd(matrix, 8, iterations=k, oversample=p)[1].square().sum())
        for k, p in ((0, 0), (0, 8), (1, 8), (2, 8), (4, 8), (None, 0))
    ]
    assert energies == sorted(energies) and len(set(energies)) == len(energies)


@pytest.mark.parametrize("iterations", [None, 3])
def test_batches_give_what_single_matrices_give(iterations):
    matrices = noise(2, 2, 90, 70)
    batch = truncated_svd(matrices, 5, iterations=iterations)
    for i in range(2):
        for j in range(2):
            single = truncated_svd(matrices[i, j], 5, iterations=iterations)
            assert torch.allclose(batch[1][i, j], single[1], rtol=1e-5)
            products = [U * s @ Vh for U, s, Vh in (single, tuple(part[i, j] for part in batch))]
            assert torch.allclose(*products, atol=2e-4)


def test_the_sketch_is_of_the_seed_and_leaves_the_global_generator_alone():
    matrix = noise(100, 100)
    state = torch.get_rng_state()
    first = truncated_svd(matrix, 4, iterations=1)
    again = truncated_svd(matrix, 4, iterations=1)
    other = truncated_svd(matrix, 4, iterations=1, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize(
    "matrix",
    [
        torch.zeros(200, 300),
        torch.cat([noise(24, 300), torch.zeros(276, 300)]),
        noise(300, 5) @ noise(5, 200),
        torch.eye(300),
    ],
    ids=["zero", "zero rows", "rank 5", "identity"],
)
def test_factors_are_orthonormal_where_the_krylov_space_stops_growing(matrix):
    U, s, Vh = truncated_svd(matrix, 16, iterations=4)
    assert torch.allclose(U.mT @ U, torch.eye(16), atol=1e-5)
    assert torch.allclose(Vh @ Vh.mT, torch.eye(16), atol=1e-5)
    exact = torch.linalg.svdvals(matrix)[:16]
    assert torch.allclose(s, exact, atol=1e-5 * float(exact[0]) + 1e-12)


def test_dtypes():
    matrix = noise(60, 50)
    for dtype in (torch.bfloat16, torch.float16):
        half = matrix.to(dtype)
        for found, wanted in zip(truncated_svd(half, 4), truncated_svd(half.float(), 4), strict=True):
            assert found.dtype == torch.float32 and torch.equal(found, wanted)
    U, s, Vh = truncated_svd(matrix.double(), 50, iterations=0)
    assert s.dtype == torch.float64 and residual(matrix, U, s, Vh) < 1e-12
    with torch.autocast("cpu", torch.bfloat16):
        inside = truncated_svd(matrix, 4, iterations=1)
    assert torch.equal(inside[1], truncated_svd(matrix, 4, iterations=1)[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank=0"),
        ({"rank": 6}, r"rank=6: must lie in 1..5 for a matrix of \(5, 8\)"),
        ({"rank": 2, "iterations": -1}, "iterations=-1"),
        ({"rank": 2, "iterations": 1, "oversample": -1}, "oversample=-1"),
    ],
)
def test_wrong_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        truncated_svd(noise(5, 8), **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_entries_must_be_finite(value):
    matrix = noise(5, 8)
    matrix[3, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        truncated_svd(matrix, 2)
    with pytest.raises(ValueError, match="not finite"):
        recompress(matrix, noise(8, 3))


def test_recompression():
    B, A = noise(30, 4, dtype=torch.float64), noise(4, 20, dtype=torch.float64)
    doubled = torch.cat([B, -B @ noise(4, 4, dtype=torch.float64)], 1), torch.cat([A, A])
    product = doubled[0] @ doubled[1]
    new = recompress(*doubled, tolerance=1e-9)
    assert new[0].shape == (30, 4) and torch.allclose(new[0] @ new[1], product, atol=1e-12)
    assert torch.allclose(new[0].norm(), new[1].norm())
    cut = recompress(*doubled, rank=2)
    optimal = float(torch.linalg.svdvals(product)[2:].norm())
    assert cut[0].shape == (30, 2) and float((cut[0] @ cut[1] - product).norm()) == pytest.approx(optimal)
    assert recompress(torch.zeros(6, 3), torch.zeros(3, 5))[0].shape == (6, 1)
    assert recompress(noise(2, 3), noise(3, 7), rank=3)[0].shape == (2, 2)
    assert recompress(noise(6, 3), noise(3, 5))[0].dtype == torch.float32
    with pytest.raises(ValueError, match="rank=9"):
        recompress(B, A, rank=9)
    with pytest.raises(ValueError, match="give one"):
        recompress(B, A, rank=2, tolerance=0.1)
    with pytest.raises(ValueError, match="tolerance=1"):
        recompress(B, A, tolerance=1.0)
