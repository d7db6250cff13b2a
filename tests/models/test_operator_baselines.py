"""The convolutional baselines: U-Net, small CNN, residual net."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eigenzoo import testing
from eigenzoo.models.operators.cnn import CNN, ResNet
from eigenzoo.models.operators.grid import with_positions
from eigenzoo.models.operators.unet import UNet

SMALL = {
    "unet-1d": partial(UNet, 2, 3, dim=4, axes=1),
    "unet-2d": partial(UNet, 2, 3, dim=4, padding_mode="reflect"),
    "cnn-1d": partial(CNN, 2, 3, dim=4, depth=3, kernel=9),
    "cnn-2d": partial(CNN, 2, 3, dim=4, depth=3, kernel=5, axes=2, padding_mode="zeros", positions="ends"),
    "resnet-1d": partial(ResNet, 2, 3, dim=4, depth=2, axes=1),
    "resnet-2d": partial(ResNet, 2, 3, dim=4, depth=2, positions="periodic"),
}
each_network = pytest.mark.parametrize("name", SMALL)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def block_count(a: int, b: int) -> int:
    """Two 3x3 convolutions without bias and two norms of `b` channels."""
    return 9 * (a + b) * b + 4 * b


def test_counts():
    unet = block_count(3, 24) + block_count(24, 48) + block_count(48, 96)
    unet += sum(4 * 2 * c * c + c + block_count(2 * c, c) for c in (24, 48)) + 25
    assert count(UNet(1, 1)) == unet
    assert count(CNN(1, 1)) == 33 * (2 * 32 + 3 * 32 * 32 + 32) + 4 * 32 + 1
    assert count(ResNet(10, 1)) == 259_897


@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize("grid", [(5, 8), (16, 16), (31, 44), (43, 17), (19,), (64,)])
def test_unet_takes_any_grid(padding_mode: str, grid: tuple[int, ...]):
    model = UNet(1, 2, dim=2, axes=len(grid), padding_mode=padding_mode)
    y = model(torch.randn(2, 1, *grid))
    assert y.shape == (2, 2, *grid) and y.is_contiguous() and y.isfinite().all()


def test_unet_is_its_equation():
    model = SMALL["unet-2d"](levels=2, padding_mode="zeros")
    x = torch.randn(2, 2, 9, 12)

    def block(block: nn.Module, h: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip(block.convolutions, block.norms, strict=True):
            h = F.gelu(norm(F.conv2d(h, layer.convolution.weight, padding=1)))
        return h

    fine = block(model.downs[0], with_positions(x, "ends"))
    coarse = block(model.downs[1], F.max_pool2d(F.pad(fine, (0, 0, 0, 1), value=-torch.inf), 2))
    up = model.ups[0](coarse)[:, :, :9]
    y = model.head(block(model.joins[0], torch.cat((up, fine), 1)))
    testing.assert_close(model(x), y, 1e-5)


def test_cnn_is_its_equation():
    model = SMALL["cnn-1d"]()
    x = torch.randn(2, 2, 16)
    layers = [layer.convolution for layer in model.convolutions]
    h = torch.cat((x, (torch.arange(16) / 16).expand(2, 1, 16)), 1)
    for number, layer in enumerate(layers):
        h = F.gelu(h) if number else h
        h = F.conv1d(F.pad(h, (4, 4), mode="circular"), layer.weight, layer.bias)
    testing.assert_close(model(x), h, 1e-5)


def test_an_output_of_the_default_cnn_sees_161_of_256_points():
    x = torch.randn(1, 1, 256, requires_grad=True)
    (seen,) = torch.autograd.grad(CNN(1, 1)(x)[0, 0, 128], x)
    assert seen.count_nonzero() == 161 and seen[0, 0, 48:209].all()


def test_resnet_is_the_identity_plus_changes():
    model = SMALL["resnet-2d"](depth=3)
    (x,) = model.example_inputs(2)
    for block in model.blocks:
        nn.init.zeros_(block.convolutions[1].convolution.weight)
        nn.init.zeros_(block.convolutions[1].convolution.bias)
    h = model.lift(with_positions(x, "periodic"))
    testing.assert_close(model(x), model.head(F.gelu(h)), 1e-6)


@pytest.mark.parametrize(
    "model",
    [
        partial(UNet, axes=1, levels=3),
        partial(UNet, axes=2, levels=3),
        partial(CNN, axes=1, kernel=9),
        partial(ResNet, axes=2, depth=2),
    ],
)
def test_circular_networks_live_on_a_torus(model: partial):
    net = model(1, 2, dim=4, padding_mode="circular", positions="none").double()
    x = torch.randn(2, 1, *(16,) * net.axes, dtype=torch.float64)
    testing.assert_close(net(x.roll(4, -1)), net(x).roll(4, -1), 1e-12)
    assert testing.relative_error(net(x.roll(4, -1)), net(x)) > 1e-3


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (UNet, {"levels": 0}, "levels=0"),
        (UNet, {"axes": 3}, "axes=3: must be 1 or 2"),
        (UNet, {"padding_mode": "none"}, "padding_mode is 'none', known are zeros, circular, reflect"),
        (UNet, {"positions": "middle"}, "positions is 'middle'"),
        (CNN, {"kernel": 32}, "kernel=32: must be odd"),
        (CNN, {"depth": 0}, "depth=0"),
        (ResNet, {"dim": 0}, "dim=0"),
    ],
)
def test_arguments_are_checked(make: type, arguments: dict, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(1, 1, **arguments)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (partial(UNet, dim=2), (1, 1, 3, 9), "at least 4 points each, got (3, 9)"),
        (partial(UNet, dim=2), (1, 1, 16), "grids of 2 axes"),
        (partial(CNN, dim=2), (1, 1, 15), "circular padding by 16 needs 16 points"),
        (partial(CNN, dim=2), (1, 1, 64, 64), "CNN wants grids of 1 axes, got (64, 64)"),
        (partial(ResNet, dim=2), (1, 2, 8, 8), "1 channels"),
    ],
)
def test_fields_are_checked(model: partial, shape: tuple[int, ...], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        model(1, 1)(torch.randn(shape))


@each_network
def test_properties_of_every_model(name: str, tmp_path: Path):
    model = SMALL[name]()
    inputs = model.example_inputs(2)
    testing.assert_all_gradients(model, inputs)
    testing.assert_all_submodules_matter(model, inputs)
    testing.assert_batch_independent(model, inputs)
    testing.assert_dtype_follows(model, inputs, torch.float64)
    testing.assert_device_follows(model, inputs, "meta")
    testing.assert_save_load(SMALL[name], inputs, tmp_path)
