"""Quantised bases: the layer itself, QPiSSA, LoftQ and QLoRA in a model, merging, and what is refused."""

import copy

import pytest
import torch
from torch import nn

from eigenzoo.models.adapters.dora import DoRA
from eigenzoo.models.adapters.inject import adapted, inject, merge, unload, unmerge
from eigenzoo.models.adapters.loftq import LoftQ
from eigenzoo.models.adapters.lora import LoRA
from eigenzoo.models.adapters.model import AdaptedModel
from eigenzoo.models.adapters.qlora import QLoRA
from eigenzoo.models.adapters.qpissa import QPiSSA
from eigenzoo.models.adapters.quantised import QuantisedLinear
from eigenzoo.models.adapters.quantised_start import quantised_layer
from eigenzoo.models.adapters.site import site_of
from eigenzoo.ops.quantisation import dequantise, quantise
from eigenzoo.testing import assert_save_load

ADAPTERS = [
    QPiSSA(4),
    QPiSSA(4, rounds=1, alpha=16.0),
    LoftQ(4, bits="int8", rslora=True),
    QLoRA(4, block=32),
]
NAMES = [type(adapter).__name__ + str(i) for i, adapter in enumerate(ADAPTERS)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Conv1D(nn.Module):
    """The transposed linear layer of transformers."""

    def __init__(self, dim_out: int, dim_in: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim_in, dim_out))
        self.bias = nn.Parameter(torch.randn(dim_out))

    def forward(self, x):
        return x @ self.weight + self.bias


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(12, 24), nn.GELU(), Conv1D(20, 24), nn.GELU(), nn.Linear(20, 6, bias=False)
    )


def held(kind: str = "nf4", **arguments) -> QuantisedLinear:
    layer = QuantisedLinear(12, 10, kind=kind, **arguments)
    layer.hold(torch.randn(10, 12))
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_the_layer_is_a_linear_layer_of_its_dense_weight(kind):
    layer, x = held(kind), torch.randn(2, 3, 12, requires_grad=True)
    dense = nn.Linear(12, 10)
    dense.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    y, expected = layer(x), dense(x)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
    seed = torch.randn_like(y)
    found, wanted = (torch.autograd.grad(out, x, seed)[0] for out in (y, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert not any(p.requires_grad for p in layer.parameters())


def test_the_layer_follows_the_dtype_of_its_input_and_keeps_its_weight():
    layer = held()
    weight, x = layer.weight, torch.randn(4, 12)
    for dtype in (torch.bfloat16, torch.float64):
        moved = copy.deepcopy(layer).to(dtype)
        assert moved(x.to(dtype)).dtype == dtype
        assert torch.equal(moved.weight, weight) and moved.scales.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_the_layer_round_trips_through_safetensors(tmp_path):
    assert_save_load(held, (torch.randn(3, 12),), tmp_path)


def test_the_layer_takes_an_eighth_of_the_memory():
    layer = QuantisedLinear(256, 256, bias=False)
    assert layer.bytes * 8 == 4.5 * 256 * 256
    assert layer.bytes == sum(b.nbytes for b in layer.buffers())
    assert held().bytes == 64 + 4 * 2 + 4 * 10


def test_the_layer_runs_on_the_meta_device():
    with torch.device("meta"):
        layer = QuantisedLinear(12, 10)
    assert layer(torch.empty(3, 12, device="meta")).shape == (3, 10)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=NAMES)
def test_a_model_starts_near_its_original(adapter):
    model = network().double()
    x = torch.randn(5, 12, dtype=torch.float64)
    before = model(x)
    weights = {n: m.detach().clone() for n, m in model.named_parameters()}
    inject(model, adapter, targets=["0", "2"])
    assert isinstance(model[0].base, QuantisedLinear) and isinstance(model[2].base, QuantisedLinear)
    assert torch.equal(model[2].base.bias, weights["2.bias"])
    assert 0 < (model(x) - before).norm() < 0.35 * before.norm()
    for name, weight in (("0", weights["0.weight"]), ("2", weights["2.weight"].mT)):
        wrapper = model.get_submodule(name)
        plain = dequantise(quantise(weight, adapter.bits, adapter.block), torch.float64)
        error = (wrapper.weight - weight).norm() / (plain - weight).norm()
        assert error < (0.95 if not isinstance(adapter, QLoRA) else 1 + 1e-6)


def test_one_round_of_qpissa_quantises_the_residual_of_pissa():
    weight = torch.randn(3, 16, 24, dtype=torch.float64)
    Q, B, A = QPiSSA(4, rounds=1).split(weight)
    U, s, Vh = torch.linalg.svd(weight, full_matrices=False)
    principal = (U[..., :4] * s[..., None, :4]) @ Vh[..., :4, :]
    torch.testing.assert_close(B @ A, principal, rtol=0, atol=1e-12)
    torch.testing.assert_close(B.square().sum(-2), s[..., :4], rtol=1e-12, atol=0)
    for one, q in zip(weight - B @ A, Q, strict=True):
        assert torch.equal(q, dequantise(quantise(one), torch.float64))


def test_rounds_follow_the_papers_steps():
    weight, rank = torch.randn(16, 24, dtype=torch.float64), 4

    def principal(matrix):
        U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
        return U[:, :rank] @ s[:rank].diag() @ Vh[:rank]

    error = weight
    for _ in range(3):
        part = principal(error)
        q = dequantise(quantise(weight - part), torch.float64)
        error = weight - q
    Q, B, A = QPiSSA(rank, rounds=3).split(weight)
    torch.testing.assert_close(Q, q, rtol=0, atol=1e-6)
    torch.testing.assert_close(B @ A, part, rtol=0, atol=1e-6)
    assert (principal(error) - B @ A).abs().max() > 1e-2  # not fitted again
    part = torch.zeros_like(weight)
    for _ in range(3):
        q = dequantise(quantise(weight - part), torch.float64)
        part = principal(weight - q)
    Q, B, A = LoftQ(rank, rounds=3).split(weight)
    torch.testing.assert_close(Q, q, rtol=0, atol=1e-6)
    torch.testing.assert_close(B @ A, part, rtol=0, atol=1e-6)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=NAMES)
def test_training_leaves_codes_and_scales_as_they_are(adapter):
    model = network()
    inject(model, adapter, targets=["0", "2"])
    frozen = {n: b.clone() for n, b in model.state_dict().items() if ".adapters." not in n}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 4
    optimiser = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model(torch.randn(8, 12)).square().sum().backward()
        assert all(p.grad is not None for p in trained[2:])
        optimiser.step()
    assert any("codes" in name for name in frozen)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in frozen.items())


def test_merging_into_codes_needs_to_be_asked_for():
    model, x = network(), torch.randn(5, 12)
    inject(model, QPiSSA(4), targets="0")
    nn.init.normal_(model[0].adapters["default"].B)
    weight, before = model[0].weight.detach(), model(x)
    codes = model[0].base.codes.clone()
    for attempt in (merge, unload):
        with pytest.raises(ValueError, match=r"'0' .* is quantised: .* requantise=True"):
            attempt(model)
    assert torch.equal(model(x), before)
    merge(model, requantise=True, exact_unmerge=True)
    assert torch.equal(model[0].base.weight, dequantise(quantise(weight)))
    unmerge(model)
    assert torch.equal(model[0].base.codes, codes)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    merge(model, requantise=True)
    with pytest.raises(ValueError, match="is quantised: taking an adapter out"):
        unmerge(model)
    assert isinstance(unload(model)[0], QuantisedLinear)


def test_another_adapter_may_sit_on_a_quantised_base():
    model, x = network(), torch.randn(5, 12)
    inject(model, QLoRA(4), targets="0")
    before = model(x)
    inject(model, LoRA(2), targets="0", name="second")
    assert torch.equal(model(x), before)
    assert isinstance(model[0].base, QuantisedLinear) and len(adapted(model)["0"].active) == 2


def test_a_model_by_config_starts_from_dense_weights_and_loads_quantised_ones():
    base, x = network(), torch.randn(5, 12)
    direct = copy.deepcopy(base)
    inject(direct, QPiSSA(4), targets=["0", "2"])
    models = []
    for _ in range(2):
        models.append(AdaptedModel(network(), adapter=QPiSSA(4), targets=["0", "2"]))
    models[0].start(base.state_dict())
    assert torch.equal(models[0](x), direct(x))
    models[1].load_state_dict(models[0].state_dict())
    assert torch.equal(models[1](x), direct(x))
    whole = {n: m.weight for n, m in adapted(models[0]).items()}
    models[0].start()  # from the weights that it has, what the pairs had taken included
    for name, wrapper in adapted(models[0]).items():
        assert (wrapper.weight - whole[name]).norm() < 0.1 * whole[name].norm()
    with torch.device("meta"):
        shape = AdaptedModel(network(), adapter=QPiSSA(4), targets=["0", "2"]).state_dict()
    assert {n: t.shape for n, t in shape.items()} == {n: t.shape for n, t in models[0].state_dict().items()}


@pytest.mark.parametrize("adapter", [QPiSSA(2), LoftQ(2), QLoRA(2)])
def test_only_linear_layers_that_are_not_quantised_are_taken(adapter):
    for module, words in (
        (held(), "is quantised already"),
        (nn.Conv2d(4, 4, 3), "no linear layer"),
        (nn.Embedding(9, 4), "no linear layer"),
    ):
        site = site_of("layer", module)
        assert site is not None
        with pytest.raises(ValueError, match=f"'layer' .*{words}"):
            adapter.build(site)


def test_a_start_that_takes_a_part_of_the_weight_refuses_a_quantised_base():
    model = nn.Sequential(held())
    with pytest.raises(ValueError, match=r"'0' .* is quantised"):
        inject(model, LoRA(2, init="olora"), targets="0")
    assert isinstance(model[0], QuantisedLinear)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: QPiSSA(0), "rank=0"),
        (lambda: QPiSSA(2, rounds=0), "rounds=0"),
        (lambda: LoftQ(2, bits="nf5"), "bits is 'nf5', known are nf4, int8; did you mean 'nf4'"),
        (lambda: QLoRA(2, block=3), "block=3"),
        (lambda: QLoRA(2, init="olora"), "use QPiSSA or LoftQ"),
        (lambda: QuantisedLinear(0, 3), "dim_in=0"),
        (lambda: inject(network(), QPiSSA(13), targets="0"), "rank=13 .*'0'"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_dropout_of_dora_on_a_quantised_base_in_sixteen_bits():
    model = nn.Sequential(quantised_layer(site_of("0", nn.Linear(12, 24)))).to(torch.bfloat16)
    inject(model, DoRA(2, dropout=0.5), targets="0")
    y = model.train()(torch.randn(5, 12, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and y.isfinite().all()
