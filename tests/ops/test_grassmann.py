"""Geodesics of the Grassmannian against the SVD form in float64; frames, drift, angles, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.ops import grassmann
from eigenzoo.ops.grassmann import (
    descend_,
    geodesic_step,
    orthonormalise,
    orthonormality_error,
    principal_angles,
    project_tangent,
    random_subspaces,
)

SHAPES = [(3, 4, 20), (1, 1, 5), (2, 6, 6), (5, 8, 40), (2, 16, 33)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def point(shape=(3, 4, 20), size=1.0, dtype=torch.float64, seed=0):
    """A frame and a tangent vector whose largest singular value is `size`."""
    generator = seeded(seed)
    S = random_subspaces(*shape, generator, dtype=torch.float64)
    H = project_tangent(S, torch.randn(shape, generator=generator, dtype=torch.float64))
    norm = torch.linalg.matrix_norm(H, 2, keepdim=True).clamp_min(1e-300)
    return S.to(dtype), (H * (size / norm)).to(dtype)


def by_svd(S, H, t):
    """Columns and a thin SVD, as the paper writes it."""
    U, sigma, Vh = torch.linalg.svd(H.mT, full_matrices=False)
    cos, sin = (f(t * sigma).unsqueeze(-2) for f in (torch.cos, torch.sin))
    return ((S.mT @ Vh.mT * cos + U * sin) @ Vh).mT


def span(S):
    return S.mT @ S


def off(S):
    return float(orthonormality_error(S).max())


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] < s[2]])
@pytest.mark.parametrize("size", [1e-9, 1e-3, 0.3, 0.5, 1.0, 3.0, 15.9, 40.0])
def test_the_gram_form_is_the_svd_form(shape, size):
    S, H = point(shape, size)
    for t in (1.0, -1.0):
        exact = by_svd(S, H, t)
        assert (geodesic_step(S, H, t) - exact).abs().max() < 1e-10 * min(1, size) + 1e-15
        single = geodesic_step(S.float(), H.float(), t).double()
        assert (single - exact).abs().max() < 2e-6 * max(1, size)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 6), st.floats(-2, 2), st.integers(0, 99))
def test_any_shape_and_rank(k, rank, t, seed):
    generator = seeded(seed)
    S = random_subspaces(2, k, 9, generator, dtype=torch.float64)
    factors = [
        torch.randn(2, a, b, generator=generator, dtype=torch.float64) for a, b in ((k, rank), (rank, 9))
    ]
    H = project_tangent(S, factors[0] @ factors[1])
    moved = geodesic_step(S, H, t)
    assert (moved - by_svd(S, H, t)).abs().max() < 1e-10
    assert off(moved) < 1e-12


def test_the_series_and_the_eigendecomposition_agree_at_their_border(monkeypatch):
    for size in (0.49, 0.51, 1.9, 15.9):
        S, H = point((4, 5, 30), size)
        series = geodesic_step(S, H, 1.0)
        with monkeypatch.context() as patch:
            patch.setattr(grassmann, "MOST_DOUBLINGS", -1)
            patch.setattr(grassmann, "_series", None)  # not to be called
            assert (geodesic_step(S, H, 1.0) - series).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_time_and_no_direction_change_nothing(dtype):
    S, H = point(dtype=dtype)
    assert torch.equal(geodesic_step(S, H, 0.0), S)
    assert torch.equal(geodesic_step(S, torch.zeros_like(H), 0.7), S)
    for rate, gradient in ((0.0, H), (0.7, torch.zeros_like(H))):
        for momentum in (None, torch.zeros_like(S)):
            moved = S.clone()
            descend_(moved, gradient, momentum, rate=rate)
            assert torch.equal(moved, S)


def test_tangent_vectors_are_horizontal():
    S = random_subspaces(7, 8, 200, seeded())
    D = torch.randn(S.shape, generator=seeded(1))
    assert (project_tangent(S, D) @ S.mT).abs().max() < 1e-5
    exact = project_tangent(S.double(), D.double())
    assert (project_tangent(S, D) - exact).abs().max() < 1e-5
    assert torch.allclose(project_tangent(S.double(), exact), exact, atol=1e-5)  # S is orthonormal to float32


def test_constant_speed():
    S, H = point((3, 4, 20), 1.5)
    speeds = torch.linalg.svdvals(H).flip(-1)
    for t in (1e-8, 0.01, 0.5, -1.0):
        angles = principal_angles(S, geodesic_step(S, H, t))
        assert (angles - abs(t) * speeds).abs().max() < 1e-10


def test_geodesics_compose():
    S, H = point((3, 4, 20), 1.0)
    t1, t2 = 0.4, 0.9
    middle = geodesic_step(S, H, t1)
    # The velocity at t1: d/dt of the SVD form, which is the transported direction.
    U, sigma, Vh = torch.linalg.svd(H.mT, full_matrices=False)
    sin, cos = (f(t1 * sigma).unsqueeze(-2) for f in (torch.sin, torch.cos))
    velocity = ((-S.mT @ Vh.mT * sin + U * cos) * sigma.unsqueeze(-2) @ Vh).mT
    assert (geodesic_step(middle, velocity, t2) - geodesic_step(S, H, t1 + t2)).abs().max() < 1e-12
    assert (geodesic_step(middle, velocity, -t1) - S).abs().max() < 1e-12


def reference(S, D, M, *, rate, momentum, dampening, transport):
    """One step in float64 by SVD."""
    M = momentum * M + (1 - dampening) * D
    H = project_tangent(S, M)
    return by_svd(S, H, -rate), H if transport == "project" else M


@pytest.mark.parametrize("transport", ["project", "ambient"])
@pytest.mark.parametrize("dampening", [0.0, 0.3])
@pytest.mark.parametrize("cached", [1, 2**18])
def test_descent_is_the_written_out_step(transport, dampening, cached, monkeypatch):
    monkeypatch.setattr(grassmann, "CACHED", cached)
    S, _ = point((5, 3, 12))
    M = torch.zeros_like(S)
    moved, buffer = S.clone(), M.clone()
    options = {"rate": 0.2, "momentum": 0.9, "dampening": dampening, "transport": transport}
    for seed in range(6):
        D = torch.randn(S.shape, generator=seeded(seed), dtype=S.dtype)
        kept = D.clone()
        S, M = reference(S, D, M, **options)
        descend_(moved, D, buffer, **options, orthonormal=seed % 2 == 1)
        assert torch.equal(D, kept)
    assert (moved - S).abs().max() < 1e-12 and (buffer - M).abs().max() < 1e-12


def test_descent_without_a_buffer_follows_the_gradient():
    S, _ = point((5, 3, 12))
    D = torch.randn(S.shape, generator=seeded(3), dtype=S.dtype)
    moved = S.clone()
    descend_(moved, D, None, rate=0.2)
    assert (moved - by_svd(S, project_tangent(S, D), -0.2)).abs().max() < 1e-13


def test_half_precision_is_computed_in_float32():
    S, H = point(dtype=torch.bfloat16)
    moved = geodesic_step(S, H, 1.0)
    exact = geodesic_step(S.float(), H.float(), 1.0)
    assert torch.equal(moved, exact.bfloat16())
    assert torch.equal(orthonormalise(moved), orthonormalise(moved.float()).bfloat16())
    many = geodesic_step(S, 100 * H, 1.0)  # by eigh, which has no half precision
    assert many.dtype == torch.bfloat16 and bool(torch.isfinite(many).all())


def test_autocast_and_fast_products_do_not_reach_the_geometry():
    S, H = point(dtype=torch.float32)
    exact, before = geodesic_step(S, H, 1.0), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(geodesic_step(S, H, 1.0), exact)
            assert torch.equal(orthonormality_error(S), orthonormality_error(S.clone()))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("period", [0, 5])
def test_a_thousand_steps_stay_on_the_manifold(period):
    S = random_subspaces(4, 8, 64, seeded())
    M, generator = torch.zeros_like(S), seeded(1)
    for step in range(1, 1001):
        D = torch.randn(S.shape, generator=generator) * 0.3
        descend_(S, D, M, rate=0.1, momentum=0.9, orthonormal=period > 0 and step % period == 0)
    assert off(S) < 1e-6


def test_descent_mends_frames_where_asked():
    S = random_subspaces(4, 3, 12, seeded())
    S[:, 0] *= 1.001
    D, kept, mended = torch.randn(S.shape, generator=seeded(1)) * 0.01, S.clone(), S.clone()
    descend_(kept, D, None, rate=0.1)
    descend_(mended, D, None, rate=0.1, orthonormal=True)
    assert off(kept) > 1e-3 and off(mended) < 1e-6


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3, 0.02, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthonormalising_keeps_span_and_frame(noise, dtype):
    exact = random_subspaces(6, 8, 50, seeded(), dtype=torch.float64)
    mix = torch.eye(8, dtype=torch.float64) + noise * torch.randn(
        6, 8, 8, generator=seeded(1), dtype=torch.float64
    )
    mix = mix.tril() if noise == 0.5 else mix
    mix.diagonal(dim1=-2, dim2=-1).abs_()
    found = orthonormalise((mix @ exact).to(dtype)).double()
    eps = torch.finfo(dtype).eps
    assert off(found) < 20 * eps
    assert (span(found) - span(exact)).abs().max() < 200 * eps * (1 if noise < 0.5 else 100)
    if noise == 0.5:  # far off: Gram-Schmidt, whose R is the positive triangle that was put on
        assert (found - exact).abs().max() < 2e4 * eps
    else:
        assert (found - exact).abs().max() < 20 * eps + 6 * noise


def test_qr_does_not_flip_rows():
    S = random_subspaces(6, 8, 50, seeded(), dtype=torch.float64)
    assert (grassmann._signed_qr(S) - S).abs().max() < 1e-14
    flipped = torch.linalg.qr(S.mT).Q.mT  # what a plain QR does
    assert (flipped - S).abs().max() > 0.1


def test_random_subspaces_are_frames_and_uniform():
    S = random_subspaces(4000, 2, 3, seeded())
    assert S.dtype == torch.float32 and S.is_contiguous() and off(S) < 1e-6
    assert (span(S).mean(0) - torch.eye(3) * 2 / 3).abs().max() < 0.03
    assert torch.equal(S, random_subspaces(4000, 2, 3, seeded()))
    assert random_subspaces(2, 3, 4, device="meta").shape == (2, 3, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [0.0, 1e-15, 1e-8, 1e-4, 0.5, 0.785, 0.786, 1.2, math.pi / 2])
def test_principal_angles(angle, dtype):
    other = [0.3, math.pi / 2]
    A = torch.eye(3, 7, dtype=torch.float64)
    B = torch.zeros_like(A)
    for i, theta in enumerate([angle, *other]):
        B[i, i], B[i, i + 3] = math.cos(theta), math.sin(theta)
    turn = random_subspaces(1, 3, 3, seeded(), dtype=torch.float64)[0]
    exact = torch.tensor(sorted([angle, *other]), dtype=torch.float64)
    found = principal_angles(A, turn @ B)
    assert (found - exact).abs().max() < 1e-15 + 1e-15 * angle + 5e-16
    if 0 < angle < 1e-3:
        plain = principal_angles(A, B)[0]
        assert abs(float(plain) / angle - 1) < 1e-9
    assert principal_angles(A.to(dtype), B.to(dtype)).dtype == dtype


def test_principal_angles_of_different_dimensions():
    S = random_subspaces(5, 4, 9, seeded(), dtype=torch.float64)
    inside = principal_angles(S, S[:, :2])
    assert inside.shape == (5, 2) and inside.abs().max() < 1e-14
    assert torch.equal(inside, principal_angles(S[:, :2], S))
    assert principal_angles(S[:, None], S[None]).shape == (5, 5, 4)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((0, 1, 2), "classes=0"),
        ((1, 0, 2), "k=0"),
        ((1, 1, 0), "n=0"),
        ((1, 5, 4), "k=5, n=4: a subspace of R.4"),
    ],
)
def test_wrong_sizes(sizes, words):
    with pytest.raises(ValueError, match=words):
        random_subspaces(*sizes)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite(value):
    S, H = point()
    S[0, 0, 0] = value
    with pytest.raises(ValueError, match="not finite"):
        orthonormalise(S)
    assert torch.isnan(geodesic_step(point()[0], H * value, 1.0)).any()  # is seen, as with any optimiser
