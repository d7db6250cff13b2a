"""`SpectralConv`: what it computes on any grid, its errors, precision and compilation."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from eigenzoo import testing
from eigenzoo.models.operators.spectral import SpectralConv
from eigenzoo.testing import assert_close

FORMS = ("fft", "dft")
each_form = pytest.mark.parametrize("form", FORMS)


class DenseModule(nn.Module):
    """A weight that comes from a factory: complex, kept as a real parameter."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.value = nn.Parameter(torch.randn(*shape, 2))

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        return torch.einsum(
            "bi...,io...->bo...", spectrum, torch.view_as_complex(self.value).to(spectrum.dtype)
        )


def identity(dim: int, modes: tuple[int, ...], **options) -> SpectralConv:
    layer = SpectralConv(dim, dim, modes=modes, **options)
    eye = torch.eye(dim, dtype=torch.complex64).view(dim, dim, *[1] * len(modes))
    layer.set_dense_weight(eye.expand(dim, dim, *(2 * m for m in modes[:-1]), modes[-1]))
    return layer


def band_limited(grid: tuple[int, ...], modes: tuple[int, ...], dtype=torch.float64) -> torch.Tensor:
    """The same three-channel field on every grid: |k| <= m - 1 on all axes but the last, 0 <= k <= m - 1 there."""
    generator = torch.Generator().manual_seed(3)
    points = torch.meshgrid(*(torch.arange(n).double() / n for n in grid), indexing="ij")
    field = torch.zeros(2, 3, *grid, dtype=torch.float64)
    for _ in range(40):
        k = [int(torch.randint(-m + 1, m, (), generator=generator)) for m in modes]
        phase, amplitude = torch.rand(2, 2, 3, *[1] * len(grid), generator=generator, dtype=torch.float64)
        wave = sum(a * p for a, p in zip(k, points, strict=True))
        field += amplitude * torch.cos(2 * torch.pi * (wave + phase))
    return field.to(dtype)


@each_form
@pytest.mark.parametrize(
    ("grid", "modes"),
    [
        ((16,), (6,)),
        ((15,), (6,)),
        ((16, 16), (5, 6)),
        ((15, 17), (5, 6)),
        ((12, 21), (6, 4)),
        ((9, 10, 8), (3, 4, 3)),
    ],
)
def test_identity_weights_return_a_band_limited_field(grid, modes, form):
    x = band_limited(grid, modes, torch.float32)
    assert_close(identity(3, modes, implementation=form)(x), x, 1e-6)


@each_form
@pytest.mark.parametrize(("coarse", "fine"), [(32, 64), (31, 62), (33, 48)])
def test_resolutions_agree_on_common_points(coarse, fine, form):
    step = {(32, 64): (1, 2), (31, 62): (1, 2), (33, 48): (11, 16)}[coarse, fine]
    torch.manual_seed(0)
    layer = SpectralConv(3, 4, modes=(6, 5), implementation=form)
    outputs = [layer(band_limited((n, n), (6, 5), torch.float32)) for n in (coarse, fine)]
    common = [y[..., ::s, ::s] for y, s in zip(outputs, step, strict=True)]
    assert_close(common[1], common[0], 1e-5)


@each_form
@pytest.mark.parametrize(
    "target", [(24, 16), (16, 24), (24, 31), (11, 16), (16, 11), (11, 12), (40, 11), (16, 16)]
)
def test_output_shape_is_trigonometric_interpolation(target, form):
    layer = identity(3, (5, 5), implementation=form)
    y = layer(band_limited((16, 16), (5, 5), torch.float32), output_shape=target)
    assert_close(y, band_limited(target, (5, 5), torch.float32), 1e-5)


@each_form
def test_output_shape_with_the_nyquist_column(form):
    """cos(n/2 theta) is kept whole on other grids, as on its own."""
    layer = identity(3, (3, 5), implementation=form)
    for target in ((8, 8), (8, 12), (10, 16)):
        fields = [torch.cos(2 * torch.pi * 4 * torch.arange(n) / n) for n in (8, target[1])]
        y = layer(fields[0].expand(1, 3, 8, 8), output_shape=target)
        assert_close(y, fields[1].expand(1, 3, *target), 1e-5)


@each_form
def test_output_shape_in_one_and_three_dimensions(form):
    for grid, target, modes in [((16,), (27,), (5,)), ((8, 9, 10), (11, 8, 13), (3, 4, 4))]:
        layer = identity(3, modes, implementation=form)
        y = layer(band_limited(grid, modes, torch.float32), output_shape=target)
        assert_close(y, band_limited(target, modes, torch.float32), 1e-5)


@each_form
def test_translation_equivariance(form):
    layer, x = SpectralConv(3, 4, modes=(4, 5), implementation=form), torch.randn(2, 3, 12, 15)
    actions = [
        (lambda x, s=s: (x.roll(s, (2, 3)),), lambda y, s=s: y.roll(s, (2, 3)))
        for s in [(1, 0), (0, 4), (5, 11)]
    ]
    testing.assert_commutes(layer, (x,), actions)


@each_form
@pytest.mark.parametrize("modes", [(2, 3), (3, 2)])
@pytest.mark.parametrize("grid", [(6, 7), (7, 6)])
def test_gradients(grid, modes, form):
    layer = SpectralConv(3, 3, modes=modes, implementation=form).double()
    x = torch.randn(2, 3, *grid, dtype=torch.float64, requires_grad=True)

    def call(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(call, (x, layer.weight), fast_mode=True)


@pytest.mark.parametrize(("grid", "modes"), [((17,), (5,)), ((8, 9), (3, 4)), ((6, 7, 8), (2, 3, 3))])
def test_the_forms_and_a_weight_module_agree(grid, modes):
    x = torch.randn(2, 3, *grid, dtype=torch.float64)
    dense = SpectralConv(3, 4, modes=modes).double()
    outputs = []
    for form in FORMS:
        module = SpectralConv(3, 4, modes=modes, weight=DenseModule, implementation=form).double()
        module.weight.value.data = torch.view_as_real(dense.dense_weight())
        dense.implementation = form
        outputs += [dense(x), module(x)]
    for output in outputs[1:]:
        assert_close(output, outputs[0], 1e-12)


def test_skip_and_bias_of_a_weight_module():
    module = SpectralConv(3, 4, modes=(3, 3), weight=DenseModule)
    x, skip, bias = torch.randn(2, 3, 8, 8), torch.randn(4, 3), torch.randn(4)
    local = torch.einsum("oi,bixy->boxy", skip, x) + bias.view(-1, 1, 1)
    assert_close(module(x, skip=skip, bias=bias), module(x) + local, 1e-5)
    assert_close(module(x, bias=bias), module(x) + bias.view(-1, 1, 1), 1e-6)


def test_a_factory_gets_the_shape():
    shapes = []
    SpectralConv(2, 3, modes=(4, 5, 6), weight=lambda shape: shapes.append(shape) or nn.Identity())
    assert shapes == [(2, 3, 8, 10, 6)]


def test_weights_start_in_their_range_and_convert():
    layer = SpectralConv(4, 5, modes=(6, 7))
    assert layer.weight.shape == (7, 12, 2, 4, 5) and not layer.weight.is_complex()
    assert layer.weight.min() >= 0 and layer.weight.max() < 1 / 20
    assert abs(layer.weight.mean().item() * 20 - 0.5) < 0.02
    value = torch.randn(4, 5, 12, 7, dtype=torch.complex64)
    layer.set_dense_weight(value)
    assert torch.equal(layer.dense_weight(), value)
    with pytest.raises(ValueError, match=r"shape \(1, 5, 12, 7\), this layer's is \(4, 5, 12, 7\)"):
        layer.set_dense_weight(value[:1])
    # k = (-6, 0), (-1, 0), (0, 0), (5, 6)
    for row, column, place in [(0, 0, 11), (5, 0, 6), (6, 0, 0), (11, 6, 5)]:
        stored = layer.weight[column, place].movedim(0, -1).contiguous()
        assert torch.equal(torch.view_as_complex(stored), value[:, :, row, column])


@pytest.mark.parametrize(
    ("modes", "grid", "message"),
    [
        ((4, 3), (7, 8), "axis 0 of the input has n=7 points, enough for 3 modes, but modes=4"),
        ((4, 6), (8, 9), "axis 1 of the input has n=9 points, enough for 5 modes, but modes=6"),
        ((5,), (6,), "axis 0 of the input has n=6 points, enough for 4 modes, but modes=5"),
        ((1, 1), (1, 4), "axis 0 of the input has n=1 points, enough for 0 modes, but modes=1"),
    ],
)
def test_more_modes_than_the_grid_has(modes, grid, message):
    layer = SpectralConv(2, 2, modes=modes)
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(1, 2, *grid))
    layer.clip_modes = True
    assert layer(torch.randn(1, 2, *grid)).isfinite().all()


def test_output_shape_is_checked():
    layer, x = SpectralConv(2, 2, modes=(3, 3)), torch.zeros(1, 2, 8, 8)
    with pytest.raises(ValueError, match="axis 0 of the output has n=5 points"):
        layer(x, output_shape=(5, 8))
    with pytest.raises(ValueError, match=r"output_shape=\(8,\): must be 2 sizes"):
        layer(x, output_shape=(8,))
    with pytest.raises(ValueError, match="skip needs the grid of the input"):
        layer(x, output_shape=(8, 9), skip=torch.eye(2))


@each_form
@pytest.mark.parametrize("weight", [None, DenseModule])
def test_clipping_uses_the_weights_of_the_modes_that_are_there(weight, form):
    """A layer with fewer modes and the centred weights gives the same."""
    large = SpectralConv(3, 2, modes=(5, 6), weight=weight, clip_modes=True, implementation=form)
    small = SpectralConv(3, 2, modes=(3, 4), implementation=form)
    value = large.dense_weight() if weight is None else torch.view_as_complex(large.weight.value.detach())
    small.set_dense_weight(value[:, :, 2:8, :4])
    x = torch.randn(2, 3, 6, 7)
    assert_close(large(x), small(x), 1e-6)


def test_clipping_leaves_a_whole_odd_grid():
    """All n rows of an odd grid are kept, k = -(n-1)/2 .. (n-1)/2: identity weights return any field."""
    layer, x = identity(3, (9, 9), clip_modes=True), torch.randn(2, 3, 5, 7)
    assert_close(layer(x), x, 1e-5)
    assert_close(layer(torch.ones(1, 3, 1, 1)), torch.ones(1, 3, 1, 1), 1e-6)


@each_form
def test_single_points_and_single_samples(form):
    layer = SpectralConv(2, 3, modes=(2, 1), implementation=form)
    x = torch.randn(1, 2, 5, 1)
    assert layer(x).shape == (1, 3, 5, 1)
    pair = torch.randn(2, 2, 5, 1)
    assert_close(torch.cat([layer(pair[:1]), layer(pair[1:])]), layer(pair), 1e-6)
    one = SpectralConv(2, 3, modes=(1,), implementation=form)
    value = one.dense_weight()[:, :, 0].real
    assert_close(one(pair[:, :, 0, :]), torch.einsum("io,bin->bon", value, pair[:, :, 0, :]), 1e-6)


def test_inputs_that_do_not_fit():
    layer = SpectralConv(3, 4, modes=(2, 2), check_finite=True)
    with pytest.raises(ValueError, match="3 channels, 2 grid axes"):
        layer(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match="3 channels, 2 grid axes"):
        layer(torch.zeros(1, 3, 8))
    with pytest.raises(ValueError, match=r"floating-point fields, got torch\.int64"):
        layer(torch.zeros(1, 3, 8, 8, dtype=torch.int64))
    x = torch.zeros(1, 3, 8, 8)
    x[0, 1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="SpectralConv has 1 values that are not finite"):
        layer(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": (0, 3)}, "modes="),
        ({"modes": ()}, "modes="),
        ({"modes": (2, 2, 2, 2)}, "modes="),
        ({"modes": (2,), "implementation": "slow"}, "implementation is 'slow'"),
        ({"modes": (2,), "dim_in": 0}, "dim_in=0"),
        ({"modes": (2,), "dim_out": 0}, "dim_out=0"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SpectralConv(**{"dim_in": 2, "dim_out": 2} | options)


def test_state_dict_round_trip(tmp_path: Path):
    make = lambda: SpectralConv(3, 4, modes=(3, 4))  # noqa: E731
    testing.assert_save_load(make, (torch.randn(2, 3, 8, 9),), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_follows(dtype):
    testing.assert_dtype_follows(SpectralConv(3, 4, modes=(3, 4)), (torch.randn(2, 3, 8, 9),), dtype)


@pytest.mark.parametrize("weight", [None, DenseModule])
def test_autocast_leaves_the_spectral_part_in_float32(weight):
    layer, x = SpectralConv(3, 4, modes=(3, 4), weight=weight), torch.randn(2, 3, 8, 9)
    skip, bias = torch.randn(4, 3), torch.randn(4)
    plain = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), plain)
        y = layer(x, skip=skip, bias=bias)
        y.float().square().sum().backward()
        assert layer(x.bfloat16()).dtype == torch.bfloat16
    assert_close(y, layer(x, skip=skip, bias=bias), 0.02)


def compiles() -> None:
    """Run in a child process; every form, also with a skip, another grid and a module as weight."""
    for form in FORMS:
        layer = SpectralConv(3, 4, modes=(3, 4), implementation=form)
        batches = [(torch.randn(b, 3, 8, n),) for b, n in ((2, 9), (3, 12))]
        testing.assert_compiles(layer, batches, 1e-5)
    testing.assert_compiles(SpectralConv(3, 4, modes=(4,)), [(torch.randn(2, 3, 16),)], 1e-5)
    testing.assert_compiles(Local(), [(torch.randn(2, 3, 8, 9),)], 1e-5)


class Local(nn.Module):
    """With skip and bias."""

    def __init__(self):
        super().__init__()
        self.layer = SpectralConv(3, 4, modes=(3, 4), clip_modes=True)
        self.skip, self.bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, skip=self.skip, bias=self.bias)


@pytest.mark.slow
@pytest.mark.process
def test_eager_is_compiled():
    """In a process of its own: the runtime shape checks of this one cannot be traced."""
    code = "import test_spectral_conv as t; t.compiles()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
