"""FNO: its formula, published parameter counts, and what it does on other grids."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eigenzoo import testing
from eigenzoo.models.operators.fno import FNO
from eigenzoo.models.operators.spectral import SpectralConv
from eigenzoo.testing import assert_close


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("dim_in", "modes", "count"),
    [
        (10, (8, 8), 414_357),  # the published 414,517 less four unused batch norms of 40 each
        (10, (12, 12), 926_517 - 160),  # with the modes of the text
        (10, (8, 8, 8), 6_558_377),  # the published 6,558,537 less four unused batch norms
    ],
)
def test_published_parameter_counts(dim_in, modes, count):
    assert parameters(FNO(dim_in, 1, modes=modes, dim=20)) == count


def test_formula():
    """Term by term in double precision, with FFTs and einsum, padding included."""
    torch.manual_seed(0)
    model = FNO(2, 3, modes=(3, 4), dim=5, depth=3, padding=0.2, positions="ends").double()
    x = torch.randn(2, 2, 10, 11, dtype=torch.float64)
    axes = [torch.linspace(0, 1, n, dtype=torch.float64) for n in (10, 11)]
    coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(2, -1, -1, -1)
    p, q = model.lifting, model.projection
    v = torch.einsum("oi,bixy->boxy", p.weight[:, :, 0], torch.cat([x, coordinates], 1)) + p.bias.view(
        -1, 1, 1
    )
    v = F.pad(v, (0, 2, 0, 2))
    rows = torch.arange(-3, 3) % 12
    for number, layer in enumerate(model.layers):
        spectrum = torch.fft.rfft2(v)
        product = torch.zeros(2, 5, 12, 7, dtype=torch.complex128)
        kernel = layer.spectral.dense_weight()
        product[:, :, rows, :4] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, rows, :4], kernel)
        local = torch.einsum("oi,bixy->boxy", layer.skip, v) + layer.bias.view(-1, 1, 1)
        v = torch.fft.irfft2(product, s=(12, 13)) + local
        v = F.gelu(v) if number < 2 else v
    v = v[:, :, :10, :11]
    hidden = F.gelu(torch.einsum("oi,bixy->boxy", q.first, v) + q.first_bias.view(-1, 1, 1))
    y = torch.einsum("oi,bixy->boxy", q.second, hidden) + q.second_bias.view(-1, 1, 1)
    assert_close(model(x), y, 1e-12)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_properties(dim: int, tmp_path: Path):
    make = partial(FNO, 2, 3, modes=(2, 3, 2)[:dim], dim=4, depth=2, padding=0.1)
    inputs = make().example_inputs(2)
    testing.assert_all_gradients(make(), inputs)
    testing.assert_all_submodules_matter(make(), inputs)
    testing.assert_batch_independent(make(), inputs)
    testing.assert_save_load(make, inputs, tmp_path)
    for dtype in (torch.float64, torch.bfloat16):
        testing.assert_dtype_follows(make(), inputs, dtype)
    with torch.device("meta"):
        assert all(p.is_meta for p in make().parameters())
    testing.assert_device_follows(make(), inputs, "meta")


def test_one_set_of_weights_on_every_grid():
    """A smooth field: 32 and 64 points differ by what the nonlinearities alias."""
    torch.manual_seed(0)
    model = FNO(1, 1, modes=(6,), dim=16, positions="none")
    fields = [torch.sin(2 * torch.pi * torch.arange(n) / n).view(1, 1, n) for n in (64, 128)]
    with torch.no_grad():
        outputs = [model(f) for f in fields]
    assert_close(outputs[1][..., ::2], outputs[0], 1e-4)


def test_translation_equivariance_without_positions():
    model = FNO(1, 2, modes=(3, 3), dim=4, positions="none")
    actions = [(lambda x: (x.roll((2, 5), (2, 3)),), lambda y: y.roll((2, 5), (2, 3)))]
    testing.assert_commutes(model, (torch.randn(2, 1, 8, 9),), actions)


def test_positions_are_of_the_kind_that_is_asked_for():
    x = torch.zeros(1, 1, 8, 8)
    torch.manual_seed(0)
    ends = FNO(1, 1, modes=(2, 2), dim=4)
    periodic = FNO(1, 1, modes=(2, 2), dim=4, positions="periodic")
    periodic.load_state_dict(ends.state_dict())
    assert (ends(x) - periodic(x)).abs().max() > 1e-4
    assert FNO(1, 1, modes=(2, 2), dim=4, positions="none").lifting.weight.shape == (4, 1, 1)


def test_padding_of_the_last_axis_only():
    """Zeros after the end of the time axis: the layers see it longer by the fraction."""
    seen = []
    model = FNO(1, 1, modes=(2, 2, 2), dim=4, depth=1, padding=(0.0, 0.0, 0.25))
    model.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert model(torch.randn(1, 1, 6, 6, 8)).shape == (1, 1, 6, 6, 8)
    assert seen[0].shape == (1, 4, 6, 6, 10) and not seen[0][..., 8:].any() and seen[0][..., 7].any()


def test_a_partial_of_the_spectral_layer_is_used():
    spectral = partial(SpectralConv, implementation="fft", clip_modes=True)
    model = FNO(1, 1, modes=(4, 4), dim=4, spectral=spectral)
    assert all(layer.spectral.implementation == "fft" for layer in model.layers)
    x = torch.randn(2, 1, 12, 12)
    products = FNO(1, 1, modes=(4, 4), dim=4, spectral=partial(SpectralConv, implementation="dft"))
    products.load_state_dict(model.state_dict())
    assert_close(products(x), model(x), 1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim=0"),
        ({"depth": 0}, "depth=0"),
        ({"dim_in": 0}, "dim_in=0"),
        ({"modes": (0,)}, "modes="),
        ({"padding": 1.0}, "padding=1.0"),
        ({"padding": (0.1, 0.1, 0.1)}, "padding="),
        ({"positions": "polar"}, "positions is 'polar'"),
        ({"normalise": ("none", "layer")}, "normalise="),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        FNO(**{"dim_in": 1, "dim_out": 1, "modes": (2, 2), "dim": 4} | options)


def test_inputs_that_do_not_fit():
    model = FNO(2, 1, modes=(4, 4), dim=4)
    with pytest.raises(ValueError, match="2 channels"):
        model(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="wants 2 grid axes"):
        model(torch.zeros(1, 2, 8))
    with pytest.raises(ValueError, match="axis 0 of the input has n=7 points"):
        model(torch.zeros(1, 2, 7, 8))
    with pytest.raises(ValueError, match="floating-point"):
        model(torch.zeros(1, 2, 8, 8, dtype=torch.int32))


def test_autocast_is_close():
    torch.manual_seed(0)
    model = FNO(2, 1, modes=(3, 3), dim=8, depth=2)
    x = torch.randn(2, 2, 8, 8)
    plain = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
        y.float().square().sum().backward()
    assert_close(y.float(), plain, 0.05)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_rollout_has_gradients():
    """The recurrent use: outputs are fed back, and the gradient goes through all steps."""
    model = FNO(3, 1, modes=(2, 2), dim=4, depth=2, positions="periodic")
    history, steps = torch.randn(2, 3, 6, 6), []
    for _ in range(3):
        steps.append(model(history))
        history = torch.cat([history[:, 1:], steps[-1]], dim=1)
    torch.cat(steps, 1).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.process
def test_eager_is_compiled():
    """In a process of its own: the runtime shape checks of this one cannot be traced."""
    code = "import test_fno as t; t.compiles()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def compiles() -> None:
    """Run in a child process."""
    model = FNO(2, 1, modes=(3, 3), dim=4, depth=2, padding=0.1)
    testing.assert_compiles(model, [model.example_inputs(b) for b in (2, 3)], 1e-5)
