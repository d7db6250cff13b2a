"""LoRA, rsLoRA and DoRA; putting adapters in by name, merging, and what must stay as it is."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eigenzoo.models import adapters
from eigenzoo.models.adapters import (
    DoRA,
    Full,
    LoRA,
    Placement,
    adapted,
    find_sites,
    inject,
    merge,
    unload,
    unmerge,
)
from eigenzoo.models.adapters.layer import check_whole
from eigenzoo.models.adapters.model import AdaptedModel

KINDS = [
    LoRA(3),
    LoRA(3, alpha=8.0, rslora=True, init="gaussian"),
    LoRA(4, init="orthogonal"),
    LoRA(3, alpha=6.0, init="olora"),
    DoRA(3, alpha=6.0),
]


class Conv1D(nn.Module):
    """Like that of transformers: a linear layer with its weight (in, out)."""

    def __init__(self, dim_out: int, dim_in: int):
        super().__init__()
        self.nf = dim_out
        self.weight = nn.Parameter(torch.randn(dim_in, dim_out) / 3)
        self.bias = nn.Parameter(torch.randn(dim_out))

    def forward(self, x):
        return x @ self.weight + self.bias


class Mixed(nn.Module):
    """Every kind of layer that an adapter knows."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.mix = nn.Conv1d(6, 8, 3, padding=2, dilation=2, padding_mode="circular")
        self.image = nn.Conv2d(1, 5, 3, stride=2, padding=1, bias=False)
        self.fused = Conv1D(7, 8)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(7, 7), nn.GELU()) for _ in range(2))
        self.head = nn.Linear(7, 3)

    def forward(self, x):
        h = self.mix(self.table(x).mT)
        h = h + self.image(h[:, None]).mean((1, 2, 3))[:, None, None]
        h = self.fused(h.mT.contiguous())
        for layer in self.layers:
            h = h + layer(h)
        return self.head(h)


TARGETS = ("table", "mix", "image", "fused", "layers.*.0")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().requires_grad_(False)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(1))


def moved(model: nn.Module) -> nn.Module:
    """After some imagined training."""
    for layers in adapted(model).values():
        for parameter in layers.adapters.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_the_function_is_unchanged_at_the_start(model, x, kind):
    before, state = model(x), copy.deepcopy(model.state_dict())
    paths = inject(model, kind, targets=TARGETS[3:] if isinstance(kind, LoRA) and kind.rank == 4 else TARGETS)
    after = model(x)
    if kind.__class__ is LoRA and kind.init != "olora":
        assert torch.equal(before, after)
        held = model.state_dict()
        assert all(torch.equal(held.get(n, held.get(_inside(n, paths))), t) for n, t in state.items())
    else:
        assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained and all(".adapters.default." in n for n in trained)


def _inside(name: str, paths: list[str]) -> str:
    owner = next((p for p in paths if name.startswith(p + ".")), None)
    return name if owner is None else name.replace(owner, owner + ".base", 1)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_merged_is_unmerged_and_comes_apart_again(model, x, kind):
    inject(model, kind, targets=("mix", "fused", "layers.*.0") if kind.rank == 4 else TARGETS)
    moved(model)
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        apart = model(x)
        merge(model)
        once = model(x)
        merge(model)
        assert torch.equal(model(x), once)
        assert (once - apart).abs().max() <= 1e-5 * apart.abs().max()
        unmerge(model)
        for name, tensor in model.state_dict().items():
            assert (tensor - state[name]).abs().max() <= 4e-7 * state[name].abs().max().clamp(min=1), name
        merge(model, exact_unmerge=True)
        unmerge(model)
        merge(model, exact_unmerge=True)
        unmerge(model)
        plain = unload(copy.deepcopy(model))
        assert not adapted(plain) and (plain(x) - apart).abs().max() <= 1e-5 * apart.abs().max()


def test_exact_unmerge_is_bit_equal_in_sixteen_bits_and_else_refused(model):
    model = model.bfloat16()
    inject(model, LoRA(3), targets="layers.*.0")
    moved(model)
    before = model.layers[0][0].base.weight.clone()
    merge(model, exact_unmerge=True)
    assert not torch.equal(model.layers[0][0].base.weight, before)
    unmerge(model)
    assert torch.equal(model.layers[0][0].base.weight, before)
    merge(model)
    with pytest.raises(ValueError, match=r"'layers.0.0'.*bfloat16.*exact_unmerge=True"):
        unmerge(model)


def test_a_merged_model_is_not_saved_beside_its_adapters(model):
    inject(model, LoRA(3), targets="fused")
    merge(model)
    with pytest.raises(ValueError, match="'fused' is merged: unmerge before saving"):
        model.state_dict()


def test_sixteen_bit_base_with_float32_factors_rounds_once():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(32, 16, bias=False)).bfloat16()
    inject(layer, LoRA(4), targets="0")
    moved(layer)
    x = torch.randn(5, 32).bfloat16()
    factors = layer[0].adapters["default"]
    assert factors.A.dtype == torch.float32
    wanted = (layer[0].base(x).float() + x.float() @ factors.A.T @ factors.B.T).bfloat16()
    assert layer(x).dtype == torch.bfloat16 and torch.equal(layer(x), wanted)


def test_the_scaling():
    assert LoRA(16, alpha=8.0).scaling == 0.5
    assert LoRA(16, alpha=8.0, rslora=True).scaling == 2.0
    assert LoRA(16).scaling == 1.0


def test_the_starts():
    torch.manual_seed(0)
    linear = nn.Linear(300, 200)
    layer = LoRA(8).build(find_sites(nn.Sequential(linear, nn.Linear(2, 2)), "0")["0"])
    assert not layer.B.any() and abs(layer.A.var().item() * 3 * 300 - 1) < 0.1
    assert layer.A.abs().max() <= 1 / math.sqrt(300)
    even = LoRA(8, init="orthogonal").build(layer.site)
    assert even.A.any() and even.B.any() and (even.B @ even.A).abs().max() < 1e-6
    table = LoRA(8).build(find_sites(nn.Sequential(nn.Embedding(50, 20), nn.Linear(2, 2)), "0")["0"])
    assert not table.A.any() and abs(table.B.std().item() - 1) < 0.2


def test_parameters_are_r_times_in_plus_out(model):
    inject(model, LoRA(3), targets=TARGETS)
    counts = {path: sum(p.numel() for p in w.adapters.parameters()) for path, w in adapted(model).items()}
    assert counts == {
        "table": 3 * (11 + 6), "mix": 3 * (18 + 8), "image": 3 * (9 + 5), "fused": 3 * 15,
        "layers.0.0": 42, "layers.1.0": 42,
    }  # fmt: skip


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_leaves_the_frozen_part_bitwise_and_without_gradient(model, x, dropout):
    inject(model, LoRA(3, dropout=dropout), targets=TARGETS, trainable=["head"])
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model.train()(x).square().mean().backward()
        optimizer.step()
    held = dict(model.named_parameters())
    assert len(frozen) == 10 and all(torch.equal(held[n], t) for n, t in frozen.items())
    assert all(held[n].grad is None for n in frozen)
    assert set(optimizer.state) == {p for p in held.values() if p.requires_grad}
    assert "head.weight" not in frozen


def test_several_adapters_add_up_and_can_be_chosen(model, x):
    inject(model, LoRA(3), targets="fused", name="a")
    inject(model, LoRA(2), targets=["fused", "table"], name="b")
    moved(model)
    wrapper = model.fused
    h = torch.randn(4, 8)
    delta = wrapper.adapters["a"].delta() + wrapper.adapters["b"].delta()
    torch.testing.assert_close(wrapper(h), wrapper.base(h) + h @ delta.T)
    adapters.activate(model, ["a"])
    torch.testing.assert_close(wrapper(h), wrapper.base(h) + h @ wrapper.adapters["a"].delta().T)
    adapters.activate(model, [])
    assert torch.equal(wrapper(h), wrapper.base(h))
    assert set(adapters.adapter_layers(model, "b")) == {"fused", "table"}


def test_kinds_and_ranks_may_be_mixed(x):
    torch.manual_seed(0)
    whole = AdaptedModel(
        Mixed(), adapter=LoRA(2), targets="layers.*.0", also=[Placement(DoRA(3), ["fused"], name="other")]
    )
    assert {type(layer).__name__ for w in adapted(whole).values() for layer in w.layers()} == {
        "LoRALayer", "DoRALayer",
    }  # fmt: skip
    weights = Mixed().state_dict()
    plain = Mixed()
    plain.load_state_dict(weights)
    whole.start(weights)
    torch.testing.assert_close(whole(x), plain(x), rtol=1e-5, atol=1e-6)


def test_code_that_reads_the_weight_sees_the_effective_one():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    inject(attention, LoRA(2), targets="out_proj")
    moved(attention)
    x = torch.randn(2, 5, 8)
    adapted_output = attention(x, x, x, need_weights=False)[0]
    unload(attention)
    torch.testing.assert_close(attention(x, x, x, need_weights=False)[0], adapted_output)


def _dense_dora(linear: nn.Linear, layer, x):
    direction = linear.weight + layer.scaling * layer.B @ layer.A
    norms = direction.norm(dim=1).detach()
    return F.linear(x, (layer.magnitude / norms)[:, None] * direction, linear.bias)


def test_dora_is_its_dense_form_with_its_gradients():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 9)).double()
    inject(net, DoRA(3, alpha=6.0), targets="0")
    moved(net)
    layer, x, g = net[0].adapters["default"], torch.randn(7, 12).double(), torch.randn(7, 9).double()
    names = [n for n, _ in layer.named_parameters()]
    ours = torch.autograd.grad((net(x) * g).sum(), list(layer.parameters()))
    dense = torch.autograd.grad((_dense_dora(net[0].base, layer, x) * g).sum(), list(layer.parameters()))
    for name, a, b in zip(names, ours, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)
    merge(net)
    torch.testing.assert_close(net[0].base.weight.norm(dim=1), layer.magnitude.abs())


def test_dora_with_dropout_drops_for_the_direction_too():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 9)).double()
    inject(net, DoRA(3, dropout=0.5), targets="0")
    moved(net)
    layer, x = net[0].adapters["default"], torch.randn(7, 12).double()
    torch.manual_seed(3)
    ours = net.train()(x)
    torch.manual_seed(3)
    dropped = F.dropout(x, 0.5)
    correction = _dense_dora(net[0].base, layer, dropped) - net[0].base(dropped)
    torch.testing.assert_close(ours, net[0].base(x) + correction)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: inject(m, LoRA(3), targets="fuse"), "no module matches 'fuse'; near names are fused"),
        (lambda m: inject(m, LoRA(3), targets="layers.*.q"), "no module matches"),
        (lambda m: inject(m, LoRA(3), targets="layers.0"), "'layers.0' is a Sequential"),
        (lambda m: inject(m, LoRA(3), targets=[]), "targets is empty"),
        (lambda m: inject(m, LoRA(9), targets="fused"), r"rank=9 is above min\(7, 8\) of 'fused' \(Conv1D, 7 x 8\)"),
        (lambda m: inject(m, LoRA(0), targets="fused"), "rank=0: must be at least 1"),
        (lambda m: LoRA(2, alpha=0.0), "alpha=0.0: must be a positive number"),
        (lambda m: LoRA(2, dropout=1.0), r"dropout=1.0: must lie in \[0, 1\)"),
        (lambda m: LoRA(2, init="kaming"), "did you mean 'kaiming'"),
        (lambda m: LoRA(3, init="orthogonal"), "rank=3: must be even"),
        (lambda m: DoRA(3, init="olora"), "DoRA starts from"),
        (lambda m: inject(m, LoRA(2), targets="fused", trainable=["hed"]), "'hed'; near names are head"),
        (lambda m: inject(m, LoRA(2), targets="fused", trainable=["head", "hed"]), "'hed'; near names are head"),
        (lambda m: inject(m, LoRA(2), targets="head", trainable=["head"]), "adapted, and 'head' to be trained whole"),
        (lambda m: inject(m, LoRA(2), targets="layers.0.0", trainable=["layers"]), "'layers' to be trained whole"),
        (lambda m: inject(m, LoRA(2), targets="fused", exclude=["hed"]), "'hed'; near names are head"),
        (lambda m: inject(m, LoRA(2), targets="fused", exclude=["fused"]), "every module that matches 'fused' is ex"),
        (lambda m: inject(m, LoRA(2), targets="fused", name="a.b"), "must be a word without dots"),
        (lambda m: inject(m, LoRA(2), targets="fused", name="/tmp/a"), "must be a word without dots, slashes"),
        (lambda m: inject(m, LoRA(2), targets="fused", name="keys"), "name='keys': is an attribute of"),
        (lambda m: check_whole(2.5), "rank=2.5: must be a whole number"),
        (lambda m: check_whole(True), "rank=True: must be a whole number"),
        (lambda m: AdaptedModel(m, adapter=Full(), also=[Placement(LoRA(2), "fused")]), "takes no other adapter"),
        (lambda m: adapters.activate(m, ["x"]), "there is no adapter 'x'; there are none"),
    ],
)  # fmt: skip
def test_wrong_arguments(model, call, sentence):
    state = list(model.state_dict())
    with pytest.raises(ValueError, match=sentence):
        call(model)
    assert list(model.state_dict()) == state


def test_what_cannot_be_adapted(model):
    inject(model, LoRA(2), targets="fused")
    with pytest.raises(ValueError, match="has an adapter 'default' already"):
        inject(model, LoRA(2), targets="fused")
    with pytest.raises(ValueError, match="cannot hold LoRALayer, DoRALayer together"):
        inject(model, DoRA(2), targets=["head", "fused"], name="second")
    assert list(adapted(model)) == ["fused"]  # after an error none is adapted
    model.head.weight = model.layers[0][0].weight
    with pytest.raises(ValueError, match=r"'layers.0.0'.*is shared \(layers.0.0.weight, head.weight\)"):
        inject(model, LoRA(2), targets="layers.0.0")
    model.layers[1][0].weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"the weight of 'layers.1.0'.*holds NaN"):
        inject(model, LoRA(2), targets="layers.1.0")
    with pytest.raises(ValueError, match="has 2 groups; LoRA wants"):
        inject(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), LoRA(2), targets="0")


def test_all_linear_leaves_the_head_out(model):
    assert inject(model, LoRA(2)) == ["fused", "layers.0.0", "layers.1.0"]


def test_progress_counts_the_layers(model):
    seen = []
    inject(model, LoRA(2), targets=TARGETS, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6) and [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_weights_of_another_model_are_refused():
    whole = AdaptedModel(Mixed(), adapter=LoRA(2), targets="fused")
    other = Mixed().state_dict()
    other["head.weight"] = torch.zeros(4, 7)
    del other["fused.bias"]
    with pytest.raises(ValueError, match=r"'fused.bias' is missing; 'head.weight' is \(4, 7\), the"):
        whole.start(other)


def test_what_is_trained_whole_stays_trained_after_another_injection(model):
    inject(model, LoRA(2), targets="fused", trainable=["head"])
    inject(model, LoRA(2), targets="layers.*.0", name="more")
    trained = {n for n, p in model.named_parameters() if p.requires_grad and "adapters" not in n}
    assert trained == {"head.weight", "head.bias"}
    with pytest.raises(ValueError, match=r"Full\(\) is no adapter"):
        inject(model, adapters.Full(), targets="head")


def test_on_the_meta_device_there_is_the_structure_alone():
    with torch.device("meta"):
        model = Mixed()
    inject(model, adapters.PiSSA(2), targets="fused")
    assert model.fused.adapters["default"].A.is_meta


def test_frozen_batch_norms_keep_their_statistics_and_trained_ones_do_not():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)
    )
    inject(net, LoRA(2), targets="0", trainable=["4"])
    before = [net[i].running_mean.clone() for i in (1, 4)]
    x = torch.randn(8, 1, 4, 4)
    trained = net.train()(x)
    assert torch.equal(net[1].running_mean, before[0]) and not torch.equal(net[4].running_mean, before[1])
    net[1].eval()
    torch.testing.assert_close(net(x), trained)
    unload(copy.deepcopy(net))
    unload(net).train()(x)
    assert not torch.equal(net[1].running_mean, before[0])


def test_an_embedding_that_rewrites_its_weight_is_refused():
    with pytest.raises(ValueError, match="has max_norm"):
        inject(nn.Sequential(nn.Embedding(5, 4, max_norm=1.0)), LoRA(2), targets="0")
