"""Operators on multi-grid patches."""

import pytest
import torch
from torch import Tensor, nn

from eigenzoo import testing
from eigenzoo.models.operators.channelwise import ChannelMLP, Pointwise
from eigenzoo.models.operators.operator import Operator
from eigenzoo.models.operators.patched import PatchedOperator
from eigenzoo.ops.patches import extract_patches


class Level0(nn.Module):
    """A pointwise network of the first channels alone."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.dim_in, self.net = dim_in, ChannelMLP(2, 8, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.dim_in
        return self.net(x[:, :2])


class Whole(nn.Module):
    """Whole numbers of the first channels to whole numbers: exact in whatever order a library adds."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.dim_in, self.dim_out = dim_in, dim_out

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([k * x[:, 0] + (x[:, 1] - k).abs() for k in range(self.dim_out)], dim=1)


class Mixer(Operator):
    """Pointwise in all channels, a mean over the window, and grids of at least 6 points."""

    def __init__(self, dim_in: int, dim_out: int, *, axes: int = 2, normalise=("none", "none")):
        super().__init__(dim_in, dim_out, normalise=normalise)
        self.net, self.axes = Pointwise(dim_in, dim_out), axes

    def operate(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.net(x))
        return y + y.flatten(2).mean(-1).view(*y.shape[:2], *[1] * self.axes)

    def check_grid(self, grid) -> None:
        if min(grid) < 6:
            raise ValueError(f"window of {grid}")

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        return (torch.randn(batch, self.dim_in, *[6] * self.axes),)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("grid", [(16,), (16, 24), (8, 16, 8)])
def test_a_pointwise_network_does_not_see_the_patches(grid, sequential):
    model = PatchedOperator(2, 3, operator=Level0, levels=1, padding=0.125, sequential=sequential)
    x = torch.randn(2, 2, *grid)
    testing.assert_close(model(x), model.operator.net(x), 1e-6)


@pytest.mark.parametrize("pad_mode", ["circular", "reflect", "zeros"])
@pytest.mark.parametrize(("grid", "levels"), [((16,), 2), ((16, 24), 1), ((16, 24), 2), ((8, 16, 8), 1)])
def test_a_pointwise_network_is_exactly_itself(grid, levels, pad_mode):
    model = PatchedOperator(2, 3, operator=Whole, levels=levels, padding=0.125, pad_mode=pad_mode)
    x = torch.randint(-9, 10, (2, 2, *grid)).float()
    assert torch.equal(model(x), model.operator(x))


def test_whole_model():
    model = PatchedOperator(1, 2, operator=Mixer, levels=1, padding=0.125, normalise=("channel", "none"))
    inputs = model.example_inputs(3)
    assert inputs[0].shape == (3, 1, 8, 8)
    model.check_grid((8, 12))
    testing.assert_all_gradients(model, inputs)
    testing.assert_all_submodules_matter(model, inputs)
    testing.assert_batch_independent(model, inputs)
    assert model(torch.randn(2, 1, 16, 40)).shape == (2, 2, 16, 40)


def test_example_fits_a_wide_margin():
    model = PatchedOperator(1, 1, operator=Mixer, levels=2, padding=[5, 0])
    assert model.example_inputs(1)[0].shape == (1, 1, 24, 24)
    model.check_grid(model.example_inputs(1)[0].shape[2:])


def test_sequential_is_all_at_once():
    at_once = PatchedOperator(2, 1, operator=Mixer, levels=1, padding=0.25)
    one_by_one = PatchedOperator(2, 1, operator=Mixer, levels=1, padding=0.25, sequential=True)
    one_by_one.load_state_dict(at_once.state_dict())
    x, found = torch.randn(3, 2, 8, 16), []
    for model in (at_once, one_by_one):
        loss = model(x).square().sum()
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for one, other in zip(*found, strict=True):
        testing.assert_close(other, one, 1e-5)
    with torch.no_grad():
        testing.assert_close(one_by_one(x), at_once(x), 1e-6)


def test_sequential_keeps_no_activations():
    kept = {}
    for sequential in (False, True):
        model = PatchedOperator(2, 1, operator=Mixer, levels=1, padding=0.0, sequential=sequential)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t), lambda t: t):
            model(torch.randn(3, 2, 16, 16))
        kept[sequential] = sum(t.requires_grad and t.grad_fn is not None for t in saved)
    assert kept[True] < kept[False]


def test_views_are_channels_of_the_inner_operator():
    with_views = PatchedOperator(2, 1, operator=Mixer, levels=2, padding=0.0)
    without = PatchedOperator(2, 1, operator=Mixer, levels=2, padding=0.0, coarse_views=False)
    assert (with_views.operator.dim_in, without.operator.dim_in) == (6, 2)
    x = torch.randn(1, 2, 32, 32)
    patch = extract_patches(x, 2, 0.0)[5:6, :2]
    testing.assert_close(without(x)[:, :, 8:16, 8:16], without.operator(patch), 1e-6)


def test_pad_mode_reaches_the_patches():
    x = torch.randn(1, 1, 8, 8)
    outputs = []
    for mode in ("circular", "reflect", "zeros"):
        torch.manual_seed(1)
        outputs.append(PatchedOperator(1, 1, operator=Mixer, padding=0.25, pad_mode=mode)(x))
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[1], outputs[2])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": -1}, "levels=-1"),
        ({"padding": 0.5}, r"padding=0.5: .*\[0, 0.5\)"),
        ({"padding": [-1, 0]}, r"padding=\[-1, 0\]"),
        ({"pad_mode": "wrap"}, "pad_mode is 'wrap', known are circular, reflect, zeros"),
        (
            {"operator": lambda dim_in, dim_out: Mixer(dim_in, dim_out, normalise=("channel", "none"))},
            "operator normalises",
        ),
    ],
)
def test_what_cannot_be_built(options, words):
    with pytest.raises(ValueError, match=words):
        PatchedOperator(1, 1, **({"operator": Mixer} | options))


def test_grids_that_do_not_fit():
    model = PatchedOperator(1, 1, operator=Mixer, levels=1, padding=0.0)
    for act in (model.check_grid, lambda grid: model(torch.zeros(1, 1, *grid))):
        with pytest.raises(ValueError, match=r"axis 1 has 18 points.*2\^\(levels \+ 1\) = 4"):
            act((16, 18))
    with pytest.raises(ValueError, match="window of"):
        model.check_grid((8, 8))
