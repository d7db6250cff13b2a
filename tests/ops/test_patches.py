"""Multi-grid patches: geometry, round trips, symmetries, errors."""

from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eigenzoo.ops.patches import domain_compression, extract_patches, stitch, window_grid, window_rows


@st.composite
def cuttings(draw):
    """(grid, levels, padding) with one to three axes of different lengths."""
    levels, axes = draw(st.integers(0, 2)), draw(st.integers(1, 3))
    grid = tuple(2 ** (levels + 1) * draw(st.integers(1, 3)) for _ in range(axes))
    points = [draw(st.integers(0, (n - 1) // 2)) for n in grid]
    return grid, levels, draw(st.sampled_from([0.0, 1 / 16, 0.125, 0.3, 0.49, points]))


@settings(max_examples=60, deadline=None)
@given(cuttings(), st.sampled_from(["circular", "reflect", "zeros"]))
@example(((16, 24), 1, [0, 3]), "circular")
@example(((16, 24), 2, [2, 0]), "reflect")
def test_patch_crop_stitch_is_the_identity(cutting, pad_mode):
    grid, levels, padding = cutting
    x = torch.randn(2, 3, *grid)
    patches = extract_patches(x, levels, padding, pad_mode=pad_mode)
    count = 2 ** (levels * len(grid))
    assert patches.shape == (2 * count, 3 * (levels + 1), *window_grid(grid, levels, padding))
    assert torch.equal(stitch(patches[:, :3], grid, levels=levels, padding=padding), x)


@pytest.mark.parametrize("padding", [0.125, [0, 3], [2, 0]])
def test_windows_hold_the_rows_of_the_equation(padding):
    """The coordinate fields of a 16 x 24 grid, two levels of context, against the equation written out."""
    grid, levels = (16, 24), 2
    x = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in grid), indexing="ij"))[None]
    patches = extract_patches(x, levels, padding)
    window = window_grid(grid, levels, padding)
    for number, (a, b) in enumerate(product(range(4), range(4))):
        for level, axis in product(range(3), range(2)):
            q, w, patch = grid[axis] // 4, window[axis], (a, b)[axis]
            rows = [(patch * q + q // 2 + 2**level * (j - w // 2)) % grid[axis] for j in range(w)]
            shape = (w, 1) if axis == 0 else (1, w)
            want = torch.tensor(rows, dtype=torch.float32).view(shape).expand(window)
            assert torch.equal(patches[number, 2 * level + axis], want)


def test_samples_are_batch_major():
    x = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    assert torch.equal(extract_patches(x, 1, 0.0)[:, 0, 0, 0], torch.arange(3.0).repeat_interleave(4))


def test_outside_the_grid():
    x = torch.arange(1.0, 9.0).view(1, 1, 8)
    first = {m: extract_patches(x, 1, [3], pad_mode=m)[0] for m in ("circular", "reflect", "zeros")}
    assert first["circular"][0].tolist() == [6, 7, 8, 1, 2, 3, 4, 5, 6, 7]
    assert first["reflect"][0].tolist() == [4, 3, 2, 1, 2, 3, 4, 5, 6, 7]
    assert first["zeros"][0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    # rows -8, -6, .., 10 at level 1
    assert first["circular"][1].tolist() == [1, 3, 5, 7, 1, 3, 5, 7, 1, 3]
    assert first["reflect"][1].tolist() == [7, 7, 5, 3, 1, 3, 5, 7, 7, 5]
    assert first["zeros"][1].tolist() == [0, 0, 0, 0, 1, 3, 5, 7, 0, 0]


@pytest.mark.parametrize(("axis", "step"), [(2, 4), (3, 6)])
def test_a_shift_by_a_patch_shifts_the_patches(axis, step):
    x = torch.randn(2, 1, 16, 24)
    patches = extract_patches(x, 2, 0.2).unflatten(0, (2, 4, 4))
    moved = extract_patches(x.roll(step, axis), 2, 0.2).unflatten(0, (2, 4, 4))
    assert torch.equal(moved, patches.roll(1, axis - 1))


def test_targets_can_be_cut_alike():
    y = torch.randn(2, 1, 16, 8)
    cut = extract_patches(y, 1, 0.0, coarse_views=False)
    padded = extract_patches(y, 1, [2, 1])
    assert torch.equal(cut, padded[:, :1, 2:-2, 1:-1])


def test_compressions_of_the_paper():
    found = [domain_compression((128, 128), *case) for case in ((1, 0.125), (2, 1 / 16), (1, [22, 22]))]
    assert found == pytest.approx([1.78, 7.1, 1.40], rel=0.01)


def test_gradient_counts_how_often_a_point_is_seen():
    x = torch.zeros(1, 1, 8, dtype=torch.float64, requires_grad=True)
    extract_patches(x, 1, [1]).sum().backward()
    rows = torch.cat([window_rows(8, 1, 1, level).flatten() % 8 for level in (0, 1)])
    assert x.grad is not None and torch.equal(x.grad[0, 0], rows.bincount(minlength=8).double())


@pytest.mark.parametrize(
    ("grid", "levels", "padding", "words"),
    [
        ((66, 64), 1, 0.1, r"axis 0 has 66 points.*2\^\(levels \+ 1\) = 4"),
        ((64, 20), 2, 0.1, r"axis 1 has 20 points.*= 8"),
        ((7,), 0, 0.0, "axis 0 has 7 points"),
        ((8, 8), -1, 0.0, "levels=-1"),
        ((8, 8), 1, 0.5, r"padding=0.5: .*\[0, 0.5\)"),
        ((8, 8), 1, -0.1, "padding=-0.1"),
        ((8, 8), 1, [1], "one number of points per axis"),
        ((8, 8), 1, [1, 4], "each below half"),
    ],
)
def test_what_cannot_be_cut(grid, levels, padding, words):
    with pytest.raises(ValueError, match=words):
        extract_patches(torch.zeros(1, 1, *grid), levels, padding)
    with pytest.raises(ValueError, match=words):
        stitch(torch.zeros(4, 1, *grid), grid, levels=levels, padding=padding)


def test_other_wrong_arguments():
    with pytest.raises(ValueError, match="pad_mode='wrap'"):
        extract_patches(torch.zeros(1, 1, 8), 1, 0.0, pad_mode="wrap")
    with pytest.raises(
        ValueError, match=r"patches of shape \(4, 1, 5\) do not make fields on the grid \(8,\)"
    ):
        stitch(torch.zeros(4, 1, 5), (8,), levels=1, padding=0.0)
    with pytest.raises(ValueError, match="a multiple of 2 windows"):
        stitch(torch.zeros(3, 1, 4), (8,), levels=1, padding=0.0)
