"""Truncated transforms against `rfftn` and `irfftn`, and against sums of exponentials."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.ops import spectral
from eigenzoo.ops.fourier_layer import fourier_layer
from eigenzoo.ops.pointwise import CHUNK, pointwise_mlp
from eigenzoo.ops.spectral_forms import choose
from eigenzoo.testing import assert_close

FORMS = ("fft", "dft")
CASES = [
    ((9,), (3,)),
    ((8,), (5,)),
    ((1,), (1,)),
    ((8, 8), (4, 5)),
    ((7, 9), (3, 2)),
    ((6, 8, 10), (2, 4, 3)),
    ((7, 6, 5), (3, 3, 3)),
]
each_form = pytest.mark.parametrize("form", FORMS)
each_case = pytest.mark.parametrize(("grid", "modes"), CASES)


def wavenumbers(grid: tuple[int, ...], modes: tuple[int, ...]) -> list[torch.Tensor]:
    rows = [torch.arange(-m, m) for m in modes[:-1]]
    return [*rows, torch.arange(modes[-1])]


def kept_of_rfftn(x: torch.Tensor, modes: tuple[int, ...]) -> torch.Tensor:
    grid = x.shape[2:]
    axes = [k % n for k, n in zip(wavenumbers(grid, modes), grid, strict=True)]
    full = torch.fft.rfftn(x, dim=tuple(range(2, x.ndim)))
    return full[(slice(None), slice(None), *torch.meshgrid(*axes, indexing="ij"))]


def slow_synthesis(spectrum: torch.Tensor, grid: tuple[int, ...], source: tuple[int, ...]) -> torch.Tensor:
    """Term by term: `Re sum_k w_k Y[k] exp(i k theta) / N`."""
    modes = (*(k // 2 for k in spectrum.shape[2:-1]), spectrum.shape[-1])
    points = torch.meshgrid(*(2 * math.pi * torch.arange(n).double() / n for n in grid), indexing="ij")
    result = torch.zeros(*spectrum.shape[:2], *grid, dtype=torch.float64)
    numbers = [k.tolist() for k in wavenumbers(grid, modes)]
    for index in itertools.product(*(range(len(k)) for k in numbers)):
        k = [axis[i] for axis, i in zip(numbers, index, strict=True)]
        weight = 1.0 if k[-1] == 0 or 2 * k[-1] == source[-1] else 2.0
        phase = sum(a * b for a, b in zip(k, points, strict=True))
        term = spectrum[(..., *index)].reshape(*spectrum.shape[:2], *[1] * len(grid)) * torch.exp(1j * phase)
        result += weight * term.real
    return result / math.prod(source)


@each_form
@each_case
def test_analysis_is_rfftn_of_the_kept_modes(grid, modes, form):
    x = torch.randn(2, 3, *grid, dtype=torch.float64)
    assert_close(spectral.truncated_rfftn(x, modes, form).abs(), kept_of_rfftn(x, modes).abs(), 1e-12)
    difference = spectral.truncated_rfftn(x, modes, form) - kept_of_rfftn(x, modes)
    assert difference.abs().max() < 1e-12


@each_form
@each_case
def test_synthesis_is_the_real_sum_and_irfftn(grid, modes, form):
    y = torch.randn(2, 1, *(2 * m for m in modes[:-1]), modes[-1], dtype=torch.complex128)
    u = spectral.truncated_irfftn(y, grid, implementation=form)
    assert_close(u, slow_synthesis(y, grid, grid), 1e-12)
    full = torch.zeros(2, 1, *grid[:-1], grid[-1] // 2 + 1, dtype=y.dtype)
    axes = [k % n for k, n in zip(wavenumbers(grid, modes), grid, strict=True)]
    full[(slice(None), slice(None), *torch.meshgrid(*axes, indexing="ij"))] = y
    assert_close(u, torch.fft.irfftn(full, s=grid, dim=tuple(range(2, y.ndim))), 1e-12)


@each_form
@pytest.mark.parametrize(("source", "grid"), [((8, 8), (12, 10)), ((12, 12), (8, 8)), ((8, 8), (8, 16))])
def test_synthesis_on_another_grid_is_the_real_sum(source, grid, form):
    y = torch.randn(2, 1, 6, 5, dtype=torch.complex128)
    u = spectral.truncated_irfftn(y, grid, source=source, implementation=form)
    assert_close(u, slow_synthesis(y, grid, source), 1e-12)


@each_form
@pytest.mark.parametrize(
    ("grid", "modes"), [((9, 8), (3, 4)), ((9, 8), (4, 5)), ((8, 9), (4, 5)), ((5,) * 3, (2,) * 3)]
)
def test_the_anti_hermitian_part_of_the_first_column_has_no_effect(grid, modes, form):
    """And of the Nyquist column, where the grid is even and it is kept."""
    y = torch.randn(1, 2, *(2 * m for m in modes[:-1]), modes[-1], dtype=torch.complex128)
    before = spectral.truncated_irfftn(y, grid, implementation=form)
    rows = tuple(range(2, y.ndim - 1))
    for column in [0] + [grid[-1] // 2] * (2 * (modes[-1] - 1) == grid[-1]):
        noise = torch.randn_like(y[..., 0])
        inner = noise[(..., *(slice(1, None) for _ in rows))]  # the rows whose mirror is kept
        anti = (inner - inner.flip(rows).conj()) / 2
        y[(..., *(slice(1, None) for _ in rows), column)] += anti
    assert_close(spectral.truncated_irfftn(y, grid, implementation=form), before, 1e-12)
    y[..., 0].mul_(1.5)
    assert (spectral.truncated_irfftn(y, grid, implementation=form) - before).abs().max() > 1e-3


@settings(deadline=None, max_examples=40)
@given(
    grid=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    modes=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    target=st.lists(st.integers(1, 9), min_size=3, max_size=3),
)
def test_the_forms_agree_and_are_transposes_of_each_other(grid, modes, target):
    """With clipped modes, other grids and every parity; `<A x, y> = <x, A^T y>`."""
    modes, target = modes[: len(grid)], target[: len(grid)]
    kept = spectral.common_modes(spectral.kept_modes(grid, modes), spectral.kept_modes(target, modes))
    scale = spectral.scale_of(grid)
    x = torch.randn(2, 1, *target, dtype=torch.float64)
    y = torch.randn(*spectral.packed_shape(kept), 2, 2, 1, dtype=torch.float64)
    a = [spectral.analyse(x, kept, scale, form) for form in FORMS]
    s = [spectral.synthesise(y, kept, target, scale, form) for form in FORMS]
    assert (a[0] - a[1]).abs().max() < 1e-12 and (s[0] - s[1]).abs().max() < 1e-12
    for i, j in itertools.product(range(2), range(2)):
        assert torch.allclose((a[i] * y).sum(), (s[j] * x).sum(), rtol=1e-10, atol=1e-12)


@each_form
def test_float32_is_close_to_float64(form):
    x = torch.randn(2, 3, 64, 48)
    exact = torch.view_as_real(kept_of_rfftn(x.double(), (12, 12)))
    assert_close(torch.view_as_real(spectral.truncated_rfftn(x, (12, 12), form)).double(), exact, 1e-6)


def test_half_precision_is_computed_in_float32():
    x = torch.randn(2, 3, 16).bfloat16()
    modes = spectral.truncated_rfftn(x, (4,))
    assert modes.dtype == torch.complex64
    assert torch.equal(modes, spectral.truncated_rfftn(x.float(), (4,)))


@each_form
def test_autocast_leaves_transforms_and_derivatives_alone(form):
    x, kept = torch.randn(2, 3, 8, 9, requires_grad=True), ((3, 3), (4, 0))

    def found() -> list[torch.Tensor]:
        modes = spectral.analyse(x, kept, implementation=form)
        fields = spectral.synthesise(modes, kept, (8, 9), implementation=form)
        return [modes, fields, *torch.autograd.grad(fields.square().sum(), x)]

    plain = found()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = found()
    assert all(torch.equal(a, b) for a, b in zip(plain, under_autocast, strict=True))


@pytest.mark.parametrize("kept", [((2, 3), (4, 0)), ((3, 2), (2, 2), (1, 0)), ((5, 0),)])
def test_pack_is_the_inverse_of_unpack(kept):
    packed = torch.randn(*spectral.packed_shape(kept), 2, 3, 4)
    assert torch.equal(spectral.pack(spectral.unpack(packed, kept), kept), packed)


def test_rows_of_an_odd_whole_grid():
    """2m + 1 rows are k = -m .. m: the spectrum of a grid that has fewer modes than asked for comes back."""
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    modes = spectral.truncated_rfftn(x, (9, 9))
    assert modes.shape[2:] == (5, 4)
    assert_close(spectral.truncated_irfftn(modes, (5, 6)), x, 1e-12)


def test_a_grid_without_the_modes_is_an_error():
    modes = torch.zeros(1, 1, 6, 3, dtype=torch.complex64)
    with pytest.raises(ValueError, match="axis 0 of the spectrum holds 6 modes, more than a grid of 5"):
        spectral.truncated_irfftn(modes, (5, 8))
    with pytest.raises(ValueError, match="axis 1 of the spectrum holds 3 modes"):
        spectral.truncated_irfftn(modes, (6, 3))


@each_form
@pytest.mark.parametrize("grid", [(6, 7), (7, 6)])
def test_derivatives_of_any_order(grid, form):
    kept = spectral.kept_modes(grid, (2, 3))
    x = torch.randn(1, 2, *grid, dtype=torch.float64, requires_grad=True)
    y = torch.randn(*spectral.packed_shape(kept), 2, 1, 2, dtype=torch.float64, requires_grad=True)
    scale = spectral.scale_of(grid)
    assert torch.autograd.gradcheck(lambda x: spectral.analyse(x, kept, scale, form), x)
    assert torch.autograd.gradgradcheck(
        lambda x: spectral.analyse(x, kept, scale, form).square(), x, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(
        lambda y: spectral.synthesise(y, kept, grid, scale, form).square(), y, fast_mode=True
    )


def test_the_choice_follows_the_work():
    """Few modes of a large grid: products; nearly all modes of a large grid: FFTs."""
    for grid, modes, form in [
        ((64, 64), (12, 12), "dft"),
        ((1024,), (512,), "fft"),
        ((256, 256), (128, 128), "fft"),
    ]:
        assert choose(grid, spectral.kept_modes(grid, modes)) == form


@each_form
def test_fourier_layer_is_its_formula(form):
    """Through `rfftn`, complex products and `irfftn`, with derivatives of everything."""
    x = torch.randn(2, 3, 8, 7, dtype=torch.float64, requires_grad=True)
    kept = spectral.kept_modes((8, 7), (3, 2))
    weight = torch.randn(2, 6, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    full = torch.fft.rfftn(x, dim=(2, 3))
    kernel = spectral.unpack(weight, kept)
    product = torch.zeros(2, 4, 8, 4, dtype=torch.complex128)
    rows = torch.arange(-3, 3) % 8
    product[:, :, rows, :2] = torch.einsum("bixy,ioxy->boxy", full[:, :, rows, :2], kernel)
    expected = torch.fft.irfftn(product, s=(8, 7), dim=(2, 3))
    expected = expected + torch.einsum("oi,bixy->boxy", skip, x) + bias.view(-1, 1, 1)
    result = fourier_layer(x, weight, kept, (8, 7), skip=skip, bias=bias, implementation=form)
    assert_close(result, expected, 1e-12)
    leaves, direction = (x, weight, skip, bias), torch.randn_like(result)
    pairs = (torch.autograd.grad(y, leaves, direction) for y in (result, expected))
    for ours, reference in zip(*pairs, strict=True):
        assert_close(ours, reference, 1e-12)


@each_form
def test_fourier_layer_gradients_on_another_grid(form):
    kept = spectral.kept_modes((6, 7), (2, 3))
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    layer = lambda x, w, b: fourier_layer(x, w, kept, (7, 9), bias=b, implementation=form)  # noqa: E731
    assert torch.autograd.gradcheck(layer, (x, weight, bias), fast_mode=True)


@pytest.mark.parametrize("points", [3, CHUNK, CHUNK + 5])
def test_pointwise_mlp_is_its_formula(points):
    x = torch.randn(2, 3, points, dtype=torch.float64, requires_grad=True)
    shapes = ((5, 3), (5,), (2, 5), (2,))
    weights = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]
    result = pointwise_mlp(x, *weights)
    first, first_bias, second, second_bias = weights
    hidden = torch.einsum("hi,bin->bhn", first, x) + first_bias.view(-1, 1)
    expected = torch.einsum("oh,bhn->bon", second, torch.nn.functional.gelu(hidden)) + second_bias.view(-1, 1)
    assert_close(result, expected, 1e-12)
    direction = torch.randn_like(result)
    pairs = (torch.autograd.grad(y, (x, *weights), direction) for y in (result, expected))
    for ours, reference in zip(*pairs, strict=True):
        assert_close(ours, reference, 1e-12)


def test_pointwise_mlp_under_autocast():
    x, weights = torch.randn(2, 3, 4, 4), [torch.randn(*s) for s in ((5, 3), (5,), (2, 5), (2,))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = pointwise_mlp(x, *weights)
    assert result.dtype == torch.bfloat16
    assert_close(result.float(), pointwise_mlp(x, *weights), 0.05)
