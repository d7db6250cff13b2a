"""TFNO: the block against its equation, published parameter counts, joint weights, symmetries, errors."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eigenzoo import testing
from eigenzoo.models.operators.channelwise import ChannelMLP, GroupNorm, InstanceNorm, Pointwise, SoftGating
from eigenzoo.models.operators.factorised import CPWeight, Joint, TTWeight, TuckerWeight
from eigenzoo.models.operators.tfno import TFNO, TFNOBlock
from eigenzoo.optim.groups import parameter_groups

INSTANCE = partial(TFNOBlock, norm="instance")
TUCKER = partial(TuckerWeight, rank=0.3)
WEIGHTS = {
    "dense": None,
    "tucker": TUCKER,
    "cp": partial(CPWeight, rank=0.3, implementation="factorised"),
    "tt": partial(TTWeight, rank=0.3, implementation="reconstructed"),
    "joint": Joint(TUCKER),
}


def small(**options) -> TFNO:
    return TFNO(2, 1, **({"modes": (2, 3), "dim": 6, "depth": 2} | options))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Conv(nn.Module):
    """Stands for the spectral convolution: a circular shift with a factor."""

    def forward(self, x):
        return 2 * x.roll(1, -1)


def instance(x):
    flat = x.flatten(2)
    return (
        (flat - flat.mean(-1, keepdim=True)) / (flat.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    ).view_as(x)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("norm", ["none", "instance"])
@pytest.mark.parametrize("shape", [(2, 8, 5), (2, 8, 5, 4), (1, 8, 3, 2, 4)])
def test_block_is_its_equation(shape, norm, last):
    block = TFNOBlock(8, Conv(), last=last, norm=norm)
    with torch.no_grad():
        block.skip2.weight.normal_()
    x = torch.randn(shape)
    normed, act = instance if norm == "instance" else lambda x: x, (lambda x: x) if last else F.gelu

    def affine(weight, bias, x):
        return torch.einsum("oi,bi...->bo...", weight, x) + bias.view(-1, *[1] * (x.ndim - 2))

    mlp = block.mlp
    h = act(normed(2 * x.roll(1, -1)) + affine(block.skip1.weight[:, :, 0], block.skip1.bias, x))
    hidden = F.gelu(affine(mlp.first, mlp.first_bias, h))
    assert hidden.shape[1] == 4
    mlp = affine(mlp.second, mlp.second_bias, hidden)
    gated = x * block.skip2.weight.view(-1, *[1] * (x.ndim - 2))
    testing.assert_close(block(x), act(normed(mlp + gated)), 1e-5)


def test_preactivated_block_is_its_equation():
    block = TFNOBlock(8, Conv(), last=False, preactivation=True, skips=("identity", "none"), norm="instance")
    x = torch.randn(2, 8, 6)
    h = Conv()(F.gelu(instance(x))) + x
    testing.assert_close(block(x), block.mlp(F.gelu(instance(h))), 1e-5)


def test_without_expansion_it_is_the_plain_layer():
    block, x = TFNOBlock(4, Conv(), last=False, expansion=0.0), torch.randn(2, 4, 6)
    assert [n for n, _ in block.named_parameters()] == ["skip1.weight", "skip1.bias"]
    testing.assert_close(block(x), F.gelu(Conv()(x) + block.skip1(x)), 1e-6)


def test_norms_stay_finite():
    """One sample, constant channels, one point."""
    for x in (torch.full((1, 3, 4, 4), 7.0), torch.randn(1, 3, 1)):
        assert torch.equal(InstanceNorm()(x), torch.zeros_like(x))
        assert GroupNorm(3)(x).isfinite().all()


@pytest.mark.parametrize(
    ("weight", "parameters"),
    [
        (None, 671_113),
        (partial(TuckerWeight, rank=0.1), 74_905),
        (partial(TuckerWeight, rank=0.02), 19_169),
        (partial(CPWeight, rank=0.02), 20_585),
    ],
)
def test_parameters_of_the_table(weight, parameters):
    with torch.device("meta"):
        model = TFNO(1, 1, modes=(8, 9), dim=24, weight=weight, block=INSTANCE, positions="periodic")
    assert count(model) == parameters


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_whole_model(weight, tmp_path: Path):
    make = partial(small, weight=weight)
    model = make()
    inputs = model.example_inputs(2)
    testing.assert_all_gradients(model, inputs)
    testing.assert_batch_independent(model, inputs)
    testing.assert_save_load(make, inputs, tmp_path)
    for dtype in (torch.float64, torch.bfloat16):
        testing.assert_dtype_follows(model, inputs, dtype)
    testing.assert_device_follows(model, inputs, "meta")


@pytest.mark.parametrize("block", [INSTANCE, partial(TFNOBlock, preactivation=True, norm="group")])
def test_every_submodule_matters(block):
    model = small(block=block)
    testing.assert_all_submodules_matter(model, model.example_inputs(2))


@pytest.mark.parametrize("weight", [None, TUCKER])
def test_spectral_weights_start_alike(weight):
    """Deviation sqrt(2 / (C + C)) of complex entries, dense or not."""
    convs = [block.conv for block in small(dim=16, depth=20, modes=(4, 5), weight=weight).blocks]
    dense = torch.stack([c.dense_weight() if weight is None else c.weight.dense() for c in convs])
    assert dense.abs().square().mean().sqrt().item() == pytest.approx(0.25, rel=0.1)


def test_joint_weights_are_one_tensor():
    model = small(weight=Joint(TUCKER))
    spectral = [name for name in model.state_dict() if "factors" in name]
    assert len(spectral) == 6 and all(name.startswith("joint_weight.factors") for name in spectral)
    assert model.joint_weight.full_shape == (2, 6, 6, 4, 3)
    twin, x = copy.deepcopy(model), torch.randn(1, 2, 8, 8)
    assert torch.equal(twin(x), model(x))
    with torch.no_grad():
        twin.joint_weight.factors[1][1] = 0  # the second layer's row of the factor of the layers
    assert not torch.equal(twin(x), model(x))


@pytest.mark.parametrize("grid", [(12, 8), (9, 7), (31, 16)])
def test_any_grid_and_periodic_shifts(grid):
    model = small(positions="none", weight=TUCKER, block=INSTANCE)
    x = torch.randn(2, 2, *grid)
    testing.assert_commutes(
        model,
        (x,),
        [(lambda x: (x.roll((2, 3), (2, 3)),), lambda y: y.roll((2, 3), (2, 3)))],
    )


@pytest.mark.parametrize("modes", [(3,), (2, 2, 2)])
def test_one_and_three_axes(modes):
    model = small(modes=modes, weight=partial(TTWeight, rank=0.5))
    y = model(*model.example_inputs(3))
    assert y.shape == (3, 1, *(2 * m + 2 for m in modes)) and y.isfinite().all()


def test_padding_separates_the_ends():
    """Without padding the far end is a neighbour of the first point; the padded domain has room between."""
    x = torch.randn(1, 2, 8, 8)
    plain, padded = small(positions="ends"), small(positions="ends", padding=0.5)
    padded.load_state_dict(plain.state_dict())
    assert padded(x).shape == plain(x).shape and not torch.allclose(padded(x), plain(x))
    small(padding=0.5).check_grid((3, 3))
    with pytest.raises(ValueError, match="axis 0 of the input has n=3 points"):
        small().check_grid((3, 4))


def test_what_decay_leaves_alone():
    model = small(block=partial(TFNOBlock, norm="group"))
    groups = parameter_groups(model, {"no_decay": {"weight_decay": 0.0}})
    spared = {id(p) for g in groups if g.get("weight_decay") == 0.0 for p in g["params"]}
    kinds = (SoftGating, GroupNorm)
    wanted = {id(p) for m in model.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False)}
    wanted |= {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    assert spared == wanted and isinstance(model.lifting, ChannelMLP)
    assert Pointwise(2, 3, bias=False).parameter_tags() == {}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: small(dim=0), "dim=0"),
        (lambda: small(depth=0), "depth=0"),
        (lambda: small(modes=()), "modes=0"),
        (lambda: small(modes=(0, 3)), "modes=0"),
        (lambda: small(padding=1.0), "padding=1.0"),
        (lambda: small(positions="polar"), "positions is 'polar'"),
        (
            lambda: small(block=partial(TFNOBlock, norm="batch")),
            "norm is 'batch', known are none, instance",
        ),
        (lambda: small(block=partial(TFNOBlock, skips=("linear",))), "skips=.*must be two"),
        (lambda: small(block=partial(TFNOBlock, skips=("linear", "gate"))), "skips is 'gate'"),
        (lambda: small(block=partial(TFNOBlock, expansion=0.01)), "expansion=0.01"),
        (lambda: small(block=partial(TFNOBlock, expansion=-1.0)), "expansion=-1.0"),
        (lambda: small()(torch.zeros(1, 2, 8)), r"\(8,\) has 1 axes, this TFNO was built for 2"),
        (lambda: small()(torch.zeros(1, 2, 8, 3)), "axis 1 of the input has n=3 points, enough for 2 modes"),
        (lambda: small()(torch.zeros(1, 3, 8, 8)), "TFNO wants fields"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
