"""Frames of principal axes: their number, equivariance as sets, degenerate clouds, gradients, the Jacobi method."""

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.ops.frames import (
    GROUPS,
    covariance_frames,
    eigenspace_rotations,
    from_frames,
    into_frames,
    jacobi_eigh,
    pca_frames,
    sample_frames,
)


def cloud(d: int, seed: int = 0, n: int = 8, batch: int = 4) -> torch.Tensor:
    """Clouds with eigenvalues far from each other."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, n, d, generator=generator, dtype=torch.float64)
    columns, _ = torch.linalg.qr(x - x.mean(1, keepdim=True))
    turns, _ = torch.linalg.qr(torch.randn(batch, d, d, generator=generator, dtype=torch.float64))
    return (columns * torch.arange(1, d + 1)) @ turns


def orthogonal(d: int, proper: bool, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    wanted = 1.0 if proper else -1.0
    return q if torch.linalg.det(q) * wanted > 0 else torch.cat([-q[:, :1], q[:, 1:]], 1)


@settings(max_examples=25, deadline=None)
@given(d=st.integers(1, 4), group=st.sampled_from(GROUPS), seed=st.integers(0, 50))
def test_a_moved_cloud_has_the_moved_frame(d: int, group: str, seed: int):
    proper, moved = "S" in group, "E" in group
    x, turn = cloud(d, seed), orthogonal(d, proper, seed)
    shift = torch.full((d,), 3.0, dtype=torch.float64) * moved
    first, second = pca_frames(x, group), pca_frames(x @ turn.T + shift, group)
    assert first.axes.shape == (4, 2 ** (d - proper), d, d)
    gram = first.axes.mT @ first.axes
    torch.testing.assert_close(gram, torch.eye(d, dtype=x.dtype).expand_as(gram), atol=1e-12, rtol=0)
    if proper:
        assert (torch.linalg.det(first.axes) - 1).abs().max() < 1e-12
    # As sets: every element of g F(X) has one of F(gX) near it, and these are as many.
    apart = (turn @ first.axes)[:, :, None] - second.axes[:, None]
    nearest = apart.abs().amax((-2, -1)).min(-1)
    assert nearest.values.max() < 1e-10
    assert all(len(set(row)) == first.axes.shape[1] for row in nearest.indices.tolist())
    centre = (first.centre @ turn.T + shift) if moved else torch.zeros_like(second.centre)
    torch.testing.assert_close(second.centre, centre, atol=1e-12, rtol=0)


def test_proper_frames_are_no_frames_of_reflections():
    x = cloud(3)
    first, second = pca_frames(x, "SE(d)"), pca_frames(-x, "SE(d)")
    apart = (-first.axes)[:, :, None] - second.axes[:, None]
    assert apart.abs().amax((-2, -1)).min(-1).values.min() > 0.1


def test_covariance_is_divided_by_the_number_of_points():
    x = cloud(3)
    wanted = torch.linalg.eigvalsh(torch.stack([torch.cov(c.T, correction=0) for c in x]))
    torch.testing.assert_close(pca_frames(x, "E(d)").eigenvalues, wanted)
    about = torch.linalg.eigvalsh((x + 1).mT @ (x + 1) / 8)
    torch.testing.assert_close(pca_frames(x + 1, "O(d)").eigenvalues, about)


def test_absent_points_do_not_enter():
    x = cloud(3)
    padded = torch.cat([x, torch.full((4, 3, 3), 1e6, dtype=x.dtype)], 1)
    present = torch.arange(11).expand(4, -1) < 8
    first, second = pca_frames(x, "E(d)"), pca_frames(padded, "E(d)", present=present)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


CUBE = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
TETRAHEDRON = CUBE[[0, 3, 5, 6]]
LINE = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None] * torch.tensor([1.0, 2.0, -1.0])
DEGENERATE = {
    "cube": CUBE,
    "tetrahedron": TETRAHEDRON,
    "line": LINE,
    "two points": LINE[:2],
    "one point": LINE[1:2],
    "equal points": torch.full((6, 3), 0.1, dtype=torch.float64) * torch.tensor([1.0, 3.0, 7.0]),
    "zeros": torch.zeros(6, 3, dtype=torch.float64),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_degenerate_clouds_are_flagged_and_have_finite_orthonormal_axes(name: str, kind: torch.dtype):
    x = DEGENERATE[name].to(kind)[None]
    for mode, elements in (("flag", 8), ("average", 192)):
        found = pca_frames(x, "E(d)", on_degenerate=mode)
        assert found.degenerate.tolist() == [True] and found.axes.shape == (1, elements, 3, 3)
        gram = found.axes.mT @ found.axes
        torch.testing.assert_close(gram, torch.eye(3, dtype=kind).expand_as(gram), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="1 of 1 clouds have no frame"):
        pca_frames(x, "E(d)", on_degenerate="error")


def test_coplanar_points_have_a_frame():
    x = cloud(3) * torch.tensor([1.0, 1.0, 0.0])
    assert not pca_frames(x, "E(d)", on_degenerate="error").degenerate.any()


def test_error_names_the_cloud_and_average_leaves_the_others_alone():
    x = torch.stack([cloud(3)[0], CUBE])
    with pytest.raises(ValueError, match=r"1 of 2 clouds .* number 1: .*1\.0, 1\.0, 1\.0"):
        pca_frames(x, "E(d)", on_degenerate="error")
    found = pca_frames(x, "E(d)", on_degenerate="average")
    alone = pca_frames(x[:1], "E(d)", on_degenerate="average")
    assert alone.axes.shape[1] == 8
    assert torch.equal(found.axes[0].reshape(24, 8, 3, 3), alone.axes.expand(24, 8, 3, 3))


def test_rotations_of_a_plane_leave_the_third_axis():
    found = eigenspace_rotations(torch.tensor([[True, False], [False, False]]))
    assert torch.equal(found[1], torch.eye(3, dtype=torch.float64).expand(24, 3, 3))
    assert torch.equal(found[0, :, 2], torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(24, 3))
    angles = torch.atan2(found[0, :, 1, 0], found[0, :, 0, 0])
    wanted = torch.arange(24, dtype=torch.float64) * torch.pi / 24
    torch.testing.assert_close(angles.sort().values, wanted)
    assert (torch.linalg.det(eigenspace_rotations(torch.ones(3, dtype=torch.bool))) - 1).abs().max() < 1e-12


@settings(max_examples=20, deadline=None)
@given(d=st.integers(1, 4), seed=st.integers(0, 100), gap=st.sampled_from([1.0, 1e-4, 1e-9, 0.0]))
def test_jacobi_is_the_eigen_decomposition(d: int, seed: int, gap: float):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(5, d, d, generator=generator, dtype=torch.float64))
    values = 1e-12 * (1 + gap * torch.arange(d, dtype=torch.float64))
    matrix = (q * values) @ q.mT
    matrix = (matrix + matrix.mT) / 2
    found, axes = jacobi_eigh(matrix)
    torch.testing.assert_close(found, torch.linalg.eigvalsh(matrix), atol=1e-26, rtol=1e-13)
    torch.testing.assert_close((axes * found[:, None]) @ axes.mT, matrix, atol=1e-26, rtol=1e-13)
    torch.testing.assert_close(
        axes.mT @ axes, torch.eye(d, dtype=axes.dtype).expand(5, d, d), atol=1e-14, rtol=0
    )


def test_gradient_through_the_axes_is_that_of_finite_differences():
    x = cloud(3, batch=2).requires_grad_()
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def outer(points: torch.Tensor) -> torch.Tensor:
        # A function that does not see the sign of an axis, as an average over the frame.
        axes = pca_frames(points, "E(d)", differentiable=True).axes[:, 0]
        return ((axes.mT @ weight @ axes).diagonal(dim1=1, dim2=2)).sum(-1)

    assert torch.autograd.gradcheck(outer, (x,), atol=1e-6)
    assert not pca_frames(x, "O(d)").axes.requires_grad
    cube = CUBE[None].clone().requires_grad_()
    pca_frames(cube, "E(d)", differentiable=True).axes.sum().backward()
    assert cube.grad is not None and cube.grad.isfinite().all()


def test_there_and_back():
    x = cloud(3)
    frames = pca_frames(x, "E(d)")
    torch.testing.assert_close(from_frames(into_frames(x, frames, translate=True), frames, translate=True), x)


def test_a_drawn_part_of_the_frame_is_right_in_the_mean():
    torch.manual_seed(0)
    frames = pca_frames(cloud(3, batch=1), "E(d)")
    function = torch.randn(3, 3, dtype=torch.float64)

    def mean(some: torch.Tensor) -> torch.Tensor:
        return ((some @ function).relu()).sum((-2, -1)).mean(-1)

    one = sample_frames(frames, 3)
    distances = (one.axes[0, :, None] - frames.axes[0]).abs().amax((-2, -1))
    assert sorted((distances == 0).sum(1).tolist()) == [1, 1, 1] and (distances == 0).sum(0).max() == 1
    many = frames._replace(axes=frames.axes.expand(4000, -1, -1, -1))
    drawn = mean(sample_frames(many, 3).axes)
    error = drawn.std() / 4000**0.5
    assert drawn.std() > 0.1 and (drawn.mean() - mean(frames.axes)[0]).abs() < 4 * error
    for count in (0, 9):
        with pytest.raises(ValueError, match="from 1 to the 8 elements"):
            sample_frames(frames, count)


def test_bad_input():
    x = cloud(3)
    with pytest.raises(ValueError, match="group is 'E\\(3\\)'"):
        pca_frames(x, "E(3)")
    with pytest.raises(ValueError, match="on_degenerate is 'skip'"):
        pca_frames(x, "E(d)", on_degenerate="skip")
    with pytest.raises(ValueError, match="at least one point"):
        pca_frames(x[:, :0], "E(d)")
    x[1, 2, 0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinite, first at index \[1, 2, 0\]"):
        pca_frames(x, "E(d)")
    with pytest.raises(ValueError, match="on_degenerate"):
        covariance_frames(torch.eye(3), "E(d)", on_degenerate="x")


def test_sixteen_bit_points():
    found = pca_frames(cloud(3).bfloat16(), "SE(d)")
    assert found.axes.dtype == torch.bfloat16 and found.eigenvalues.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.process
def test_compiles():
    code = """
import torch
from eigenzoo.ops.frames import pca_frames
x = torch.randn(3, 6, 3)
for mode in ("flag", "average"):
    f = torch.compile(lambda x: pca_frames(x, "SE(d)", on_degenerate=mode).axes.abs().mean(1), fullgraph=True)
    torch.testing.assert_close(f(x), pca_frames(x, "SE(d)", on_degenerate=mode).axes.abs().mean(1))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
