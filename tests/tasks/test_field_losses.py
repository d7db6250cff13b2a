"""Relative L2 and H1 errors: closed forms of sines, slow references, order of convergence, zeros, gradients."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.tasks.field_losses import RelativeH1, RelativeL2

PI = math.pi
ALL = (
    RelativeL2(),
    RelativeH1(),
    RelativeH1(k_max=3, lengths=(1.0, 2.0)),
    RelativeH1(form="fd"),
    RelativeH1(form="fd", boundary="one_sided", ends=True),
)


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def mesh(*grid, lengths=None):
    """Coordinates on a periodic grid."""
    lengths = lengths or [1.0] * len(grid)
    axes = [torch.arange(n, dtype=torch.float64) / n * L for n, L in zip(grid, lengths, strict=True)]
    return torch.meshgrid(*axes, indexing="ij")


def smooth(n):
    """(u, y, relative H1 error) on the unit square; the error is from the integrals."""
    x, z = mesh(n, n)
    u = torch.sin(2 * PI * x) + 0.25 * torch.cos(4 * PI * z)
    y = torch.sin(2 * PI * x)
    wanted = math.sqrt((1 + (4 * PI) ** 2) / 32 / ((1 + (2 * PI) ** 2) / 2))
    return u[None, None], y[None, None], wanted


def test_l2_of_known_fields():
    y = torch.full((2, 3, 4, 5), 2.0)
    y[1] = -0.5
    u = y.clone()
    u[0] += 1
    u[1, 0] *= 3
    found = RelativeL2()(u, y)
    assert found.tolist() == pytest.approx([0.5, math.sqrt(4 / 3)])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 2), st.lists(st.integers(2, 7), min_size=1, max_size=3))
def test_l2_against_numpy(batch, channels, grid):
    u, y = noise(batch, channels, *grid), noise(batch, channels, *grid, seed=1)
    wanted = [
        float(np.linalg.norm((u - y)[i].numpy().ravel()) / np.linalg.norm(y[i].numpy().ravel()))
        for i in range(batch)
    ]
    assert RelativeL2()(u, y).tolist() == pytest.approx(wanted, rel=1e-12)


def released(u, y, k_max):
    """MgNO's norm: the whole spectrum, every wave number by its own."""

    def norm(v):
        total = 0.0
        for channel in v:
            spectrum = np.fft.fftn(channel, norm="ortho")
            for index in np.ndindex(*spectrum.shape):
                k = [min(i, n - i) for i, n in zip(index, spectrum.shape, strict=True)]
                weight = 1 + sum(a * a for a in k if k_max is None or a < k_max)
                total += weight * abs(spectrum[index]) ** 2
        return math.sqrt(total)

    return norm((u - y).numpy()) / norm(y.numpy())


@pytest.mark.parametrize("grid", [(8,), (7,), (6, 9), (7, 8), (5, 4, 6), (4, 6, 5)])
@pytest.mark.parametrize("k_max", [None, 2, 3])
def test_fourier_h1_against_the_sum_over_the_whole_spectrum(grid, k_max):
    u, y = noise(2, 2, *grid), noise(2, 2, *grid, seed=1)
    wanted = [released(u[i], y[i], k_max) for i in range(2)]
    assert RelativeH1(k_max=k_max)(u, y).tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("grid", "waves"), [((16,), (3,)), ((15, 16), (3, 2)), ((8, 9, 10), (1, 2, 3))])
def test_fourier_h1_of_plane_waves(grid, waves):
    """|u|_H1^2 of cos(k.x) is (1 + |k|^2)/2: whole numbers, or 2 pi k / L."""
    lengths = tuple(0.5 + i for i in range(len(grid)))
    places = mesh(*grid, lengths=lengths)
    phase = sum(2 * PI * k * x / L for k, x, L in zip(waves, places, lengths, strict=True))
    y = torch.cos(2 * PI * places[0] / lengths[0])[None, None]
    u = y + 0.1 * torch.sin(phase)[None, None]
    for given_lengths, scales in ((None, [1.0] * len(grid)), (lengths, [2 * PI / L for L in lengths])):
        above = 1 + sum((k * s) ** 2 for k, s in zip(waves, scales, strict=True))
        wanted = 0.1 * math.sqrt(above / (1 + scales[0] ** 2))
        assert RelativeH1(lengths=given_lengths)(u, y).item() == pytest.approx(wanted, rel=1e-10)


def test_k_max_cuts_each_axis_by_itself():
    x, z = mesh(32, 32)
    y = torch.ones(1, 1, 32, 32, dtype=torch.float64)
    u = y + torch.cos(2 * PI * (5 * x + 2 * z))
    for k_max, weight in ((None, 30.0), (6, 30.0), (5, 5.0), (2, 1.0)):
        assert RelativeH1(k_max=k_max)(u, y).item() == pytest.approx(math.sqrt(weight / 2), rel=1e-10)


def test_fourier_and_differences_agree_to_second_order():
    errors = []
    for n in (16, 32, 64):
        u, y, wanted = smooth(n)
        assert RelativeH1(lengths=(1.0, 1.0))(u, y).item() == pytest.approx(wanted, rel=1e-10)
        errors.append(abs(RelativeH1(form="fd")(u, y).item() / wanted - 1))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 5e-3 and all(abs(order - 2) < 0.1 for order in orders)


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("grid", [(9,), (5, 8), (3, 4, 5)])
def test_one_sided_differences_are_exact_on_linear_fields(ends, grid):
    """u = y + a.x has the slope a everywhere, the ends too; y = 1 has H1 norm 1."""
    lengths = (2.0, 0.5, 3.0)[: len(grid)]
    steps = [L / (n - 1 if ends else n) for n, L in zip(grid, lengths, strict=True)]
    axes = [torch.arange(n, dtype=torch.float64) * h for n, h in zip(grid, steps, strict=True)]
    field = sum((i + 1) * x for i, x in enumerate(torch.meshgrid(*axes, indexing="ij")))[None, None]
    y = torch.ones_like(field)
    wanted = math.sqrt(field.square().mean() + sum((i + 1) ** 2 for i in range(len(grid))))
    loss = RelativeH1(form="fd", boundary="one_sided", ends=ends, lengths=lengths)
    assert loss(y + field, y).item() == pytest.approx(wanted, rel=1e-12)


def test_periodic_differences_wrap_around():
    u = torch.tensor([[[1.0, 2.0, 4.0, 0.0]]], dtype=torch.float64)
    y = torch.ones_like(u)
    slopes = np.array([2.0, 3.0, -2.0, -3.0]) * 2  # over 2h = 1/2
    wanted = math.sqrt(((u - y).square().mean() + (slopes**2).mean()).item())
    assert RelativeH1(form="fd")(u, y).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("loss", ALL)
def test_scale_batch_and_zero(loss):
    u, y = noise(3, 2, 6, 7), noise(3, 2, 6, 7, seed=1)
    errors = loss(u, y)
    torch.testing.assert_close(loss(1e-4 * u, 1e-4 * y), errors, rtol=1e-10, atol=0)
    torch.testing.assert_close(loss(u[1:2], y[1:2]), errors[1:2])
    assert torch.equal(loss(y, y), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(loss(torch.zeros_like(y), y), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("loss", ALL)
def test_a_target_of_zeros_is_finite(loss):
    u = torch.ones(1, 1, 6, 7)
    assert loss(u, torch.zeros_like(u)).item() == pytest.approx(1e8, rel=1e-4)
    assert loss(torch.zeros_like(u), torch.zeros_like(u)).item() == 0


@pytest.mark.parametrize("loss", ALL)
def test_gradients(loss):
    y = noise(2, 1, 4, 5)
    u = noise(2, 1, 4, 5, seed=1).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: loss(v, y), (u,))
    same = y.clone().requires_grad_(True)
    loss(same, y).sum().backward()
    assert torch.equal(same.grad, torch.zeros_like(y))
    nothing = torch.zeros_like(y)
    free = u.detach().clone().requires_grad_(True)
    loss(free, nothing).sum().backward()
    assert torch.isfinite(free.grad).all() and free.grad.any()


@pytest.mark.parametrize("loss", ALL)
def test_nan_is_not_hidden(loss):
    y = noise(2, 1, 4, 5)
    u = y.clone()
    u[0, 0, 1, 1] = float("nan")
    found = loss(u, y)
    assert found[0].isnan() and found[1] == 0


def test_half_precision_is_compared_in_single():
    y = noise(2, 1, 16, 16).float()
    u = (1.01 * y).to(torch.bfloat16)
    for loss in (RelativeL2(), RelativeH1(), RelativeH1(form="fd")):
        found = loss(u, y)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, loss(u.float(), y))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "sobolev"}, "form='sobolev': must be one of fourier, fd"),
        ({"form": "fd", "boundary": "zero"}, "boundary='zero'"),
        ({"k_max": 0}, "k_max=0"),
        ({"form": "fd", "k_max": 20}, "belongs to form='fourier'"),
        ({"boundary": "one_sided"}, "belongs to form='fd'"),
        ({"form": "fd", "ends": True}, "ends=True"),
        ({"lengths": (1.0, 0.0)}, "lengths"),
        ({"lengths": ()}, "lengths"),
        ({"eps": 0.0}, "eps=0.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        RelativeH1(**options)
    if set(options) == {"eps"}:
        with pytest.raises(ValueError, match=message):
            RelativeL2(**options)


@pytest.mark.parametrize(
    ("loss", "shapes", "message"),
    [
        (RelativeL2(), ((2, 1, 4), (2, 1, 5)), r"\(2, 1, 4\) and \(2, 1, 5\)"),
        (RelativeL2(), ((2, 4), (2, 4)), "channels"),
        (RelativeH1(), ((1, 1, 2, 2, 2, 2),) * 2, "1 to 3 grid axes"),
        (RelativeH1(lengths=(1.0,)), ((1, 1, 4, 4),) * 2, "2 grid axes"),
        (RelativeH1(form="fd"), ((1, 1, 4, 1),) * 2, r"at least 2 points per axis, the grid is \(4, 1\)"),
    ],
)
def test_bad_fields(loss, shapes, message):
    with pytest.raises(ValueError, match=message):
        loss(torch.ones(shapes[0]), torch.ones(shapes[1]))
