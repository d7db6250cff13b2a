"""Initial values of A, B and dt."""

import math

import pytest
import torch

from eigenzoo.models.ssm import S4D, DiagonalInit

N = torch.arange(4, dtype=torch.float64)
FORMULAS = {
    "inv": 8 / math.pi * (8 / (2 * N + 1) - 1),
    "lin": math.pi * N,
    "inv2": 8 / math.pi * (8 / (N + 1) - 1),
    "quad": (2 * N + 1) ** 2 / math.pi,
    "legs": torch.tensor([0.427489, 1.957794, 5.354209, 19.857410], dtype=torch.float64),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_frequencies(name: str):
    real, imag, _ = DiagonalInit(name).spectrum(8, 3)
    assert torch.equal(real, torch.full((3, 4), -0.5, dtype=torch.float64))
    assert torch.allclose(imag, FORMULAS[name].expand(3, 4), atol=1e-6)


def test_inv_mimics_legs():
    inv, legs = (DiagonalInit(name).spectrum(64, 1)[1][0].sort().values for name in ("inv", "legs"))
    assert inv[-1].item() == pytest.approx(1283.4254, abs=1e-4)
    assert (inv[-1] / legs[-1] - 1).item() == pytest.approx(-0.015, abs=5e-4)
    assert inv[0].item() == pytest.approx(0.3234, abs=1e-4)
    assert (inv[0] / legs[0] - 1).item() == pytest.approx(0.226, abs=5e-4)


def test_real_and_rand():
    real, imag, b = DiagonalInit("real").spectrum(8, 2)
    assert torch.equal(real, -(N + 1).expand(2, 4)) and not imag.any() and (b == 1).all()
    torch.manual_seed(0)
    imag = DiagonalInit("rand").spectrum(64, 500)[1]
    assert imag.log().mean().abs() < 0.03 and imag.log().std() == pytest.approx(1, abs=0.03)


def test_random_rows():
    torch.manual_seed(0)
    real, imag, _ = DiagonalInit("lin", real_random=True, imag_random=True).spectrum(64, 500)
    for uniform in (-real, imag / (math.pi * 32)):
        assert uniform.min() > 0 and uniform.max() <= 1 and uniform.mean() == pytest.approx(0.5, abs=0.01)
    real, _, _ = DiagonalInit("real", real_random=True).spectrum(64, 500)
    assert real.mean() == pytest.approx(-16, abs=0.3)


def test_scales():
    plain, scaled = (
        DiagonalInit("lin", **s).spectrum(8, 1) for s in ({}, {"real_scale": 3.0, "imag_scale": 0.1})
    )
    assert torch.allclose(scaled[0], 3 * plain[0]) and torch.allclose(scaled[1], 0.1 * plain[1])


def test_legs_input_vector_and_its_clipping():
    b = DiagonalInit("legs").spectrum(64, 1)[2]
    assert b.max().item() == pytest.approx(40.75, abs=5e-3)
    clipped = DiagonalInit("legs", clip_b=2.0).spectrum(64, 1)[2]
    assert torch.equal(clipped, b.clamp(max=2.0))


@pytest.mark.parametrize("transform", ["exp", "relu", "none"])
def test_real_transform_is_undone(transform: str):
    init = DiagonalInit("lin", real_transform=transform)
    real = -torch.tensor([1e-3, 0.5, 30.0], dtype=torch.float64)
    assert torch.allclose(init.decode_real(init.encode_real(real)), real, rtol=1e-12)


def test_both_step_transforms_start_at_the_same_steps():
    layers = []
    for transform in ("exp", "softplus"):
        torch.manual_seed(0)
        layers.append(S4D(200, 2, dt=(1e-3, 1e-1), init=DiagonalInit("lin", dt_transform=transform)))
    first, second = (layer.init.decode_dt(layer.log_dt) for layer in layers)
    assert torch.allclose(first, second, rtol=1e-4)
    assert not torch.allclose(layers[0].log_dt, layers[1].log_dt)
    assert first.min() >= 0.999e-3 and first.max() <= 1.001e-1
    assert first.log10().mean().item() == pytest.approx(-2, abs=0.15)


def test_c_has_unit_second_moment():
    torch.manual_seed(0)
    for init in ("lin", "real"):
        assert S4D(200, 64, init=init).C.square().sum(-1).mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "leg"}, "init is 'leg', known are legs, .*did you mean 'legs'"),
        ({"name": "nplr"}, "init is 'nplr', known are .*rand$"),
        ({"real_transform": "softplus"}, "real_transform is 'softplus'"),
        ({"dt_transform": "relu"}, "dt_transform is 'relu', known are exp, softplus"),
        ({"real_scale": 0.0}, "real_scale is 0.0"),
        ({"clip_b": -1.0}, "clip_b is -1.0"),
        ({"name": "legs", "imag_random": True}, "imag_random does not go with init 'legs'"),
    ],
)
def test_bad_arguments(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DiagonalInit(**options)
