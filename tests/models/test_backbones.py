"""Backbones: published parameter counts, shapes of features and maps, and what every model must hold."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eigenzoo import testing
from eigenzoo.models.backbones.identity import Identity
from eigenzoo.models.backbones.mlp import MLP
from eigenzoo.models.backbones.resnet import ResNet
from eigenzoo.models.backbones.resnet_cifar import CIFARResNet
from eigenzoo.models.backbones.small_cnn import SmallCNN
from eigenzoo.models.backbones.vgg import VGG

MAKERS: dict[str, Callable[[], nn.Module]] = {
    "small_cnn": lambda: SmallCNN(2, dims=(4, 6)),
    "mlp": lambda: MLP(5, dims=(7, 6)),
    "mlp with norm": lambda: MLP(2, dims=(7, 6), side=3, norm=True),
    "mlp with features": lambda: MLP(5, dims=(7, 6), bias=False, features=4),
    "resnet8": lambda: CIFARResNet(2, depth=8, width=3),
    "resnet14, convolution": lambda: CIFARResNet(2, depth=14, width=4, shortcut="convolution"),
    "resnet18-d": lambda: ResNet(2, depth=18, variant="d", width=4),
    "resnet50-d": lambda: ResNet(2, variant="d", width=4),
    "resnext50": lambda: ResNet(2, groups=2, group_width=32, width=4),
    "vgg": lambda: VGG(2, depth=11, width=2, hidden=6, pool=2, dropout=0.0),
}
DEEP = ("resnet50-d", "resnext50")  # of a hundred submodules and more
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in MAKERS]
CONVOLUTIONAL = [name for name in MAKERS if not name.startswith("mlp")]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    torch.manual_seed(0)
    return request.param


def with_head(backbone: nn.Module, classes: int) -> int:
    return sum(p.numel() for p in backbone.parameters()) + (backbone.dim + 1) * classes


@pytest.mark.parametrize(
    ("make", "classes", "published"),
    [
        (lambda: ResNet(depth=18), 1000, 11_689_512),
        (lambda: ResNet(depth=34), 1000, 21_797_672),
        (lambda: ResNet(depth=50), 1000, 25_557_032),
        (lambda: ResNet(depth=101), 1000, 44_549_160),
        (lambda: ResNet(depth=152), 1000, 60_192_808),
        (lambda: ResNet(depth=50, variant="d"), 1000, 25_576_264),
        (lambda: ResNet(depth=50, groups=32, group_width=4), 1000, 25_028_904),
        (lambda: ResNet(depth=18, stem="cifar"), 10, 11_173_962),
        (lambda: CIFARResNet(depth=20), 10, 269_722),
        (lambda: CIFARResNet(depth=20, shortcut="convolution"), 10, 272_474),
        # The published count has a bias in each of the convolutions, before its norm.
        (lambda: VGG(depth=13), 1000, 133_053_736 - 2 * (64 + 128 + 256 + 512 + 512)),
    ],
)
def test_parameters_are_as_published(make: Callable[[], nn.Module], classes: int, published: int):
    with torch.device("meta"):
        assert with_head(make(), classes) == published


def test_depth_is_the_number_of_layers_with_weights():
    for depth in (8, 20, 32):
        layers = [m for m in CIFARResNet(depth=depth).modules() if isinstance(m, nn.Conv2d)]
        assert len(layers) + 1 == depth
    with torch.device("meta"):
        for depth in (18, 34, 50, 101):
            named = ResNet(depth=depth).named_modules()
            layers = [n for n, m in named if isinstance(m, nn.Conv2d) and "shortcut" not in n]
            assert len(layers) + 1 == depth


@pytest.mark.parametrize(
    ("make", "image", "dim", "side"),
    [
        (lambda: SmallCNN(1), (1, 28, 28), 64, 4),
        (lambda: CIFARResNet(3, depth=8), (3, 32, 32), 64, 8),
        (lambda: ResNet(3, depth=18, stem="cifar"), (3, 32, 32), 512, 4),
        (lambda: ResNet(3, depth=18), (3, 224, 224), 512, 7),
        (lambda: ResNet(3, depth=50, variant="d"), (3, 224, 224), 2048, 7),
    ],
)
def test_sizes_of_maps_and_features(make: Callable[[], nn.Module], image: tuple, dim: int, side: int):
    with torch.device("meta"):
        model, x = make(), torch.empty(2, *image)
        assert model.feature_map(x).shape == (2, dim, side, side)
        assert model(x).shape == (2, dim) and model.dim == dim


@pytest.mark.parametrize("name", [n for n in CONVOLUTIONAL if n not in ("vgg", *DEEP)])
def test_features_are_the_mean_of_the_map(name: str):
    model = MAKERS[name]().eval()
    x = model.example_inputs(2)[0]
    expected = model.feature_map(x).flatten(2).sum(2) / model.feature_map(x)[0, 0].numel()
    testing.assert_close(model(x), expected, 1e-6)


def test_example_inputs_fit(name: str):
    model = MAKERS[name]()
    assert model(*model.example_inputs(2)).shape == (2, model.dim)


def test_every_parameter_gets_a_gradient(name: str):
    model = MAKERS[name]()
    testing.assert_all_gradients(model, model.example_inputs(4))


def test_every_submodule_matters(name: str):
    model = MAKERS[name]()
    testing.assert_all_submodules_matter(model, model.example_inputs(2))


def test_samples_do_not_meet_in_evaluation(name: str):
    model = MAKERS[name]()
    testing.assert_batch_independent(model, model.example_inputs(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_follows(name: str, dtype: torch.dtype):
    model = MAKERS[name]()
    testing.assert_dtype_follows(model, model.example_inputs(2), dtype)


def test_meta_device_and_no_tensor_of_the_host(name: str):
    with torch.device("meta"):
        assert all(p.is_meta for p in MAKERS[name]().parameters())
    model = MAKERS[name]()
    testing.assert_device_follows(model, model.example_inputs(2), "meta")
    testing.assert_stays_on_device(model, model.example_inputs(2))


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("name", ["small_cnn", "mlp with norm", "mlp with features", "resnet8"])
def test_eager_is_compiled(name: str):
    code = f"""
import test_backbones as t
t.torch.manual_seed(0)
m = t.MAKERS[{name!r}]()
t.testing.assert_compiles(m, [m.example_inputs(n) for n in (4, 5)], 1e-3)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def test_padded_shortcut_is_every_second_pixel_between_zeros():
    model = CIFARResNet(1, depth=8, width=2).eval()
    block = model.stages[1][0]
    nn.init.zeros_(block.second[1].weight)  # the other branch is then 0
    x = torch.rand(1, 2, 6, 6)
    y = block(x)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2]) and not y[:, [0, 3]].any()


def test_zero_init_makes_blocks_begin_as_their_shortcuts():
    torch.manual_seed(0)
    model = ResNet(3, depth=18, stem="cifar", width=4, zero_init=True).eval()
    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(model.stages[0](x), x)
    first = model.stages[1][0]
    assert torch.equal(first(x), F.relu(first.shortcut(x)))


def test_shortcut_of_variant_d_averages_all_pixels():
    """With a stride, three of four pixels do not reach the shortcut."""
    x = torch.zeros(1, 16, 6, 6)
    x[..., 1, 1] = 1.0
    plain, mean = (ResNet(depth=50, variant=v, width=4).eval().stages[1][0] for v in ("plain", "d"))
    assert not plain.shortcut(x).any() and mean.shortcut(x).any()


def test_mlp_is_the_written_out_network():
    torch.manual_seed(0)
    model = MLP(1, dims=(5, 4), side=3, features=2)
    x = torch.randn(6, 1, 3, 3)
    first, _, second, _, last = model.layers
    hidden = (x.flatten(1) @ first.weight.T + first.bias).clamp(min=0)
    expected = (hidden @ second.weight.T + second.bias).clamp(min=0) @ last.weight.T
    testing.assert_close(model(x), expected, 1e-6)
    assert last.bias is None and model.dim == 2


def test_published_mlps_can_be_said():
    with torch.device("meta"):
        counts = {
            MLP(1, dims=(256, 256, 256), side=28, features=256): 785 * 256 + 2 * 257 * 256 + 256 * 256,
            MLP(784, dims=(128, 16)): 785 * 128 + 129 * 16,
            MLP(32, dims=(512, 512), norm=True): 32 * 512 + 512 * 512 + 4 * 512,
            MLP(3, dims=(2048,) * 6, side=32, bias=False): 3072 * 2048 + 5 * 2048**2,
        }
    assert all(sum(p.numel() for p in model.parameters()) == count for model, count in counts.items())


def test_identity_returns_its_input():
    model = Identity(5)
    x = model.example_inputs(3)[0]
    assert model(x) is x and model.dim == 5
    with pytest.raises(ValueError, match=r"shape \(1, 5\), wanted vectors of width 5"):
        model(torch.zeros(2, 1, 5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmallCNN(0), "dim_in=0"),
        (lambda: SmallCNN(dims=()), r"dims=\[\]"),
        (lambda: MLP(3, dims=(4, 0)), r"dims=\[4, 0\]"),
        (lambda: MLP(3, side=0), "side=0"),
        (lambda: MLP(3)(torch.zeros(2, 4)), r"shape \(4,\), wanted \(3,\)"),
        (lambda: CIFARResNet(depth=18), r"depth=18: must be 6 n \+ 2"),
        (lambda: CIFARResNet(depth=2), "depth=2"),
        (lambda: CIFARResNet(shortcut="pat"), "did you mean 'pad'"),
        (lambda: ResNet(depth=19), "depth=19: known are 18, 34"),
        (lambda: ResNet(stem="image"), "stem is 'image'"),
        (lambda: ResNet(variant="e"), "variant is 'e'"),
        (lambda: ResNet(depth=18, groups=32), "groups=32, group_width=64: depth 18 has no bottlenecks"),
        (lambda: ResNet(width=1, group_width=4), "does not divide the 0 channels"),
        (lambda: VGG(depth=12), "depth=12: known are 11"),
        (lambda: VGG(dropout=1.0), "dropout=1.0"),
    ],
)
def test_bad_arguments(make: Callable[[], nn.Module], message: str):
    with pytest.raises(ValueError, match=message):
        make()
