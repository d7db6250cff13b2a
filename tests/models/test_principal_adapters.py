"""PiSSA and SORSA: exact splits at the start, the spectra of their parts, gradients, merging, export to plain LoRA."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from eigenzoo.models.adapters.inject import adapted, adapter_layers, inject, merge, unmerge
from eigenzoo.models.adapters.model import AdaptedModel
from eigenzoo.models.adapters.pissa import PiSSA
from eigenzoo.models.adapters.sorsa import SORSA
from eigenzoo.optim.orthonormal import OrthonormalAdamW

SHAPES = {"tall": (20, 12), "wide": (12, 20)}
KINDS = ("linear", "conv", "embedding", "transposed")


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


class Conv1D(nn.Module):
    """As in transformers: the weight is (in, out)."""

    def __init__(self, dim_out: int, dim_in: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(noise(dim_in, dim_out, seed=3))
        self.bias = nn.Parameter(noise(dim_out, seed=4))

    def forward(self, x):
        return x @ self.weight + self.bias


def layer_of(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            "linear": lambda: (nn.Linear(12, 20), noise(5, 12)),
            "conv": lambda: (nn.Conv2d(3, 8, 3, stride=2, padding=2, dilation=2), noise(2, 3, 9, 9)),
            "embedding": lambda: (nn.Embedding(15, 6), torch.arange(15)[None]),
            "transposed": lambda: (Conv1D(20, 12), noise(5, 12)),
        }[kind]()


def linear(shape="tall", seed=0, dtype=torch.float32):
    out, into = SHAPES[shape]
    layer = nn.Linear(into, out).to(dtype)
    layer.weight.data = noise(out, into, seed=seed).to(dtype)
    layer.bias.data = noise(out, seed=seed + 50).to(dtype)
    return nn.Sequential(layer)


def adapt(model, adapter):
    inject(model, adapter, targets="0")
    return adapted(model)["0"], adapter_layers(model)["0"]


def change(layer, seed=5):
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter += 0.1 * noise(*parameter.shape, seed=seed + number)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [1.0, 4.0, 16.0])
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("iterations", [None, 1])
@torch.no_grad()
def test_pissa_splits_the_weight(shape, alpha, rslora, iterations):
    model = linear(shape)
    W = model[0].weight.detach().clone()
    wrapper, layer = adapt(model, PiSSA(4, alpha=alpha, rslora=rslora, iterations=iterations, oversample=0))
    c = alpha / (2 if rslora else 4)
    rest = wrapper.base.weight
    s = torch.linalg.svdvals(W)
    assert float((rest + c * layer.B @ layer.A - W).abs().max()) <= 1e-6 * float(s[0])
    if iterations is None:
        assert torch.allclose(layer.A @ layer.A.mT, torch.diag(s[:4]) / c, atol=1e-5 * float(s[0]) / c)
        assert torch.allclose(layer.B.mT @ layer.B, torch.diag(s[:4]) / c, atol=1e-5 * float(s[0]) / c)
        assert float(torch.linalg.svdvals(rest)[0]) == pytest.approx(float(s[4]), rel=1e-5)
        assert float(rest.square().sum()) == pytest.approx(float(s[4:].square().sum()), rel=1e-5)
    assert float(layer.A.detach().norm()) == pytest.approx(float(layer.B.detach().norm()), rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [None, 1.0, 16.0])
@torch.no_grad()
def test_sorsa_splits_the_weight(shape, alpha):
    model = linear(shape)
    W = model[0].weight.detach().clone()
    wrapper, layer = adapt(model, SORSA(4, alpha=alpha))
    c = 1 if alpha is None else alpha / 4
    s = torch.linalg.svdvals(W)
    assert torch.allclose(layer.s, s[:4] / c, rtol=1e-5)
    for factor in (layer.U, layer.Vh.mT):
        assert float((factor.mT @ factor - torch.eye(4)).norm()) <= 1e-5
    product = c * layer.U * layer.s @ layer.Vh
    assert float((wrapper.base.weight + product - W).abs().max()) <= 1e-6 * float(s[0])
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 4 * (20 + 12 + 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapter", [PiSSA(3, alpha=6.0), SORSA(3, alpha=6.0)], ids=["pissa", "sorsa"])
def test_the_function_is_unchanged_and_merging_restores(kind, adapter):
    module, x = layer_of(kind)
    model = nn.Sequential(module)
    y = model(x).detach()
    wrapper, layer = adapt(model, adapter)
    assert torch.allclose(model(x), y, atol=1e-5)
    change(layer)
    changed, rest = model(x).detach(), wrapper.base.weight.detach().clone()
    assert not torch.allclose(changed, y, atol=1e-2)
    merge(model)
    merge(model)
    assert torch.allclose(model(x), changed, atol=1e-5)
    unmerge(model)
    assert torch.allclose(wrapper.base.weight, rest, atol=1e-6)
    base, initial, now = copy.deepcopy(layer_of(kind)[0]), layer.initial_pair(), layer.pair()
    B, A = torch.cat([now[0], -initial[0]], 1), torch.cat([now[1], initial[1]])
    with torch.no_grad():
        base.weight += wrapper.site.as_weight(B @ A)
    assert torch.allclose(base(x), changed, atol=1e-5)


def test_a_full_rank_pair_leaves_nothing():
    model = linear()
    wrapper, _ = adapt(model, PiSSA(12))
    assert float(wrapper.base.weight.abs().max()) < 1e-5


def test_clipped_rank_keeps_the_scaling():
    for adapter in (PiSSA(16, alpha=8.0, clip_rank=True), SORSA(16, alpha=8.0, clip_rank=True)):
        model = linear()
        wrapper, layer = adapt(model, adapter)
        assert (layer.rank, layer.scaling) == (12, 0.5)
        assert float(wrapper.base.weight.abs().max()) < 1e-5


def test_minor_triplets_are_the_smallest():
    model = linear("wide")
    s = torch.linalg.svdvals(model[0].weight.detach())
    wrapper, layer = adapt(model, PiSSA(3, minor=True))
    assert torch.allclose(torch.linalg.svdvals(wrapper.base.weight)[:9], s[:9], rtol=1e-5)
    assert torch.allclose(torch.linalg.svdvals(layer.delta())[:3], s[9:], rtol=1e-4)


def test_first_gradients():
    """dL/dA = c B^T G and dL/dB = c G A^T with G = dL/dW, neither of them zero; of SORSA the like."""
    plain, x, target = linear(), noise(7, 12, seed=1), noise(7, 20, seed=2)
    (plain(x) - target).square().mean().backward()
    G = plain[0].weight.grad
    model = linear()
    _, layer = adapt(model, PiSSA(4, alpha=8.0))
    (model(x) - target).square().mean().backward()
    assert torch.allclose(layer.A.grad, 2 * layer.B.mT @ G, atol=1e-6)
    assert torch.allclose(layer.B.grad, 2 * G @ layer.A.mT, atol=1e-6)
    assert layer.A.grad.norm() > 1e-3 and layer.B.grad.norm() > 1e-3
    model = linear()
    _, layer = adapt(model, SORSA(4))
    (model(x) - target).square().mean().backward()
    assert torch.allclose(layer.s.grad, (layer.U * (G @ layer.Vh.mT)).sum(0), atol=1e-6)
    assert torch.allclose(layer.U.grad, G @ layer.Vh.mT * layer.s, atol=1e-5)
    assert torch.allclose(layer.Vh.grad, (layer.U * layer.s).mT @ G, atol=1e-5)


def test_layers_of_one_shape_start_as_each_would_alone():
    many = nn.ModuleDict({f"layer{seed}": linear(seed=seed)[0] for seed in range(3)})
    inject(many, PiSSA(2, iterations=2, oversample=1), targets="layer*")
    for number, layer in enumerate(adapter_layers(many).values()):
        _, alone = adapt(linear(seed=number), PiSSA(2, iterations=2, oversample=1))
        assert torch.allclose(layer.delta(), alone.delta(), atol=1e-5)


def test_bfloat16_base():
    """The split is made in float32, and costs the output less than the rounding of the weight did."""
    model = linear(dtype=torch.bfloat16)
    exact, x = noise(20, 12), noise(64, 12, seed=9)
    W = model[0].weight.detach().float()
    for adapter in (PiSSA(4), SORSA(4)):
        wrapper, layer = adapt(copy.deepcopy(model), adapter)
        assert {p.dtype for p in layer.parameters()} == {torch.float32}
        assert wrapper.base.weight.dtype == torch.bfloat16
        assert wrapper(x.bfloat16()).dtype == torch.bfloat16
        split = wrapper.base.weight.float() + layer.delta()
        assert (x @ (split - W).mT).norm() < (x @ (exact - W).mT).norm()


@torch.no_grad()
def test_float64_base():
    for adapter in (PiSSA(4), SORSA(4)):
        model = linear(dtype=torch.float64)
        W = model[0].weight.detach().clone()
        wrapper, layer = adapt(model, adapter)
        assert float((wrapper.base.weight + layer.delta() - W).abs().max()) < 1e-14


def test_the_start_works_after_the_structure_was_made_on_the_meta_device():
    for adapter in (PiSSA(4), SORSA(4)):
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(12, 20))
            inject(model, adapter, targets="0", start=False)
            assert model(torch.empty(3, 12)).shape == (3, 20)


@pytest.mark.parametrize("make", [PiSSA, SORSA])
def test_errors_name_the_layer(make):
    with pytest.raises(ValueError, match=r"rank=13 is above min\(20, 12\) of '0' \(Linear, 20 x 12\)"):
        inject(linear(), make(13), targets="0")
    with pytest.raises(ValueError, match=r"'0' \(Conv2d.* 2 groups"):
        inject(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), make(2), targets="0")
    broken = linear()
    with torch.no_grad():
        broken[0].weight[2, 3] = torch.nan
    with pytest.raises(ValueError, match=r"'0'.*NaN"):
        inject(broken, make(2), targets="0")
    for options, words in (
        ({"dropout": 0.1}, "dropout=0.1: must be 0"),
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"rank": 0}, "rank=0"),
        ({"iterations": -1}, "iterations=-1"),
    ):
        with pytest.raises(ValueError, match=words):
            make(**options)


def test_a_quantised_base_is_refused():
    quantised = pytest.importorskip("eigenzoo.models.adapters.quantised")
    model = nn.Sequential(quantised.QuantisedLinear(64, 64))
    for adapter in (PiSSA(2), SORSA(2)):
        with pytest.raises(ValueError, match=r"'0'.*quantised"):
            inject(model, adapter, targets="0")


def test_sorsa_trains_near_orthonormal_factors_and_nothing_else():
    x, target = noise(30, 12, seed=1), noise(30, 20, seed=2)
    ends = {}
    for gamma in (0.0, 1.0):
        model = linear()
        wrapper, layer = adapt(model, SORSA(4))
        rest = wrapper.base.weight.detach().clone()
        optimiser = OrthonormalAdamW(model, lr=1e-2, gamma=gamma)
        for _ in range(40):
            optimiser.zero_grad()
            (model(x) - target).square().mean().backward()
            optimiser.step()
        assert torch.equal(rest, wrapper.base.weight)
        ends[gamma] = (layer.U.mT @ layer.U - torch.eye(4)).norm().item()
    assert ends[1.0] < ends[0.0] / 5


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [PiSSA(3, alpha=6.0), SORSA(3, alpha=6.0)], ids=["pissa", "sorsa"])
def test_the_change_is_a_plain_lora_of_peft_on_the_untouched_base(adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft

        base, x = linear(), noise(5, 12, seed=1)
        untouched = copy.deepcopy(base)
        _, layer = adapt(base, adapter)
        change(layer)
        theirs = peft.get_peft_model(untouched, peft.LoraConfig(r=6, lora_alpha=6, target_modules=["0"]))
    initial, now = layer.initial_pair(), layer.pair()
    part = theirs.base_model.model[0]
    with torch.no_grad():
        part.lora_A["default"].weight.copy_(torch.cat([now[1], initial[1]]))
        part.lora_B["default"].weight.copy_(torch.cat([now[0], -initial[0]], 1))
    assert torch.allclose(theirs(x), base(x), rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize("adapter", [PiSSA(3), SORSA(3)], ids=["pissa", "sorsa"])
def test_a_second_start_begins_with_the_whole_weight(adapter):
    base, x = nn.Sequential(nn.Linear(8, 9), nn.Tanh(), nn.Linear(9, 8)), torch.randn(4, 8)
    before, model = base(x), AdaptedModel(base, adapter=adapter, targets=["0", "2"])
    for _ in range(2):
        model.start()
        torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-6)
