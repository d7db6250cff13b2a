"""Adapters on disk: our own format, peft's in both directions, and what peft would pass over in silence."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_adapters import TARGETS, Mixed, moved
from torch import nn

from eigenzoo.models.adapters import (
    SORSA,
    AdaptedModel,
    DoRA,
    FLoRA,
    LoRA,
    PiSSA,
    QLoRA,
    QPiSSA,
    adapter_layers,
    inject,
    load,
    save,
)
from eigenzoo.models.adapters.conversion import combine, plain_pair

PLAIN = ("table", "image", "fused", "layers.*.0")  # without the dilated convolution
OWN = [
    (LoRA(3, alpha=6.0, rslora=True), TARGETS),
    (LoRA(2, init="olora"), TARGETS),
    (DoRA(3), TARGETS),
    (PiSSA(3, alpha=6.0), TARGETS),
    (SORSA(3), TARGETS),
    (FLoRA(2), ("mix", "image", "fused", "layers.*.0")),
    (QLoRA(3), ("layers.*.0",)),
    (QPiSSA(3, rounds=2), ("fused", "layers.*.0")),
]
PEFT = [
    LoRA(3, alpha=6.0),
    LoRA(3, alpha=6.0, rslora=True),
    LoRA(2, init="olora"),
    DoRA(3, alpha=6.0),
    PiSSA(3, alpha=6.0),
    PiSSA(3, alpha=6.0, rslora=True),
    SORSA(3),
]


@pytest.fixture
def base() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().requires_grad_(False).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(1))


def copy_of(base: nn.Module) -> nn.Module:
    twin = Mixed().requires_grad_(False).eval()
    twin.load_state_dict(base.state_dict())
    return twin


def trained(base: nn.Module, kind, targets, **options) -> nn.Module:
    model = copy_of(base)
    inject(model, kind, targets=targets, **options)
    return moved(model)


@pytest.mark.parametrize(("kind", "targets"), OWN, ids=lambda v: repr(v))
def test_own_format_round_trip_is_bit_equal(base, x, tmp_path, kind, targets):
    model = trained(base, kind, targets, trainable=["head"])
    model.head.weight.data.add_(1)
    save(model, tmp_path)
    twin = copy_of(base)
    assert load(twin, tmp_path) == list(adapter_layers(model))
    assert torch.equal(twin(x), model(x))
    ours, theirs = model.state_dict(), twin.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    grad = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (model, twin)]
    assert grad[0] == grad[1]


@pytest.mark.parametrize("kind", PEFT, ids=repr)
def test_peft_reads_what_we_write(base, x, tmp_path, kind):
    peft = pytest.importorskip("peft")
    model = trained(base, kind, PLAIN, trainable=["head"])
    model.head.weight.data.add_(1)
    save(model, tmp_path, format="peft")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        theirs = peft.PeftModel.from_pretrained(_with_conv1d(copy_of(base)), tmp_path)
    assert not [w for w in seen if "missing" in str(w.message)]
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(x), model(x), rtol=1e-5, atol=1e-5)


def _with_conv1d(model: nn.Module) -> nn.Module:
    """With the class that peft knows in place of our stand-in."""
    from transformers.pytorch_utils import Conv1D

    layer = Conv1D(7, 8)
    layer.load_state_dict(model.fused.state_dict())
    model.fused = layer
    return model


@pytest.mark.parametrize("options", [
    {}, {"use_rslora": True}, {"use_dora": True}, {"init_lora_weights": "gaussian"},
    {"rank_pattern": {"layers.1.0": 2}, "alpha_pattern": {"layers.1.0": 5, "fused": 7}},
    {"modules_to_save": ["head"]}, {"target_modules": r"layers\.\d\.0|fused"},
])  # fmt: skip
def test_we_read_what_peft_writes(base, x, tmp_path, options):
    peft = pytest.importorskip("peft")
    words = {
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["table", "image", "fused", "layers.0.0", "layers.1.0"],
    }
    config = peft.LoraConfig(**{**words, **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(_with_conv1d(copy_of(base)), config).eval()
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.2 * torch.randn_like(parameter))
        theirs.save_pretrained(tmp_path)
    model = copy_of(base)
    load(model, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_flora_becomes_a_flat_pair(base, x, tmp_path):
    peft = pytest.importorskip("peft")
    model = trained(base, FLoRA(2), ["image", "layers.*.0"])
    save(model, tmp_path, format="peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(copy_of(base), tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [PiSSA(3, alpha=6.0), PiSSA(3, alpha=6.0, rslora=True), SORSA(3)], ids=repr)
def test_conversion_is_exact_and_of_rank_two_r(base, kind):
    model = trained(base, kind, ["fused", "image"])
    for path, layer in adapter_layers(model).items():
        original = layer.site.as_matrix(base.get_submodule(path).weight)
        pair = plain_pair(layer)
        assert pair.rank == min(6, *layer.site.shape) and pair.scaling == pytest.approx(kind.scaling)
        change = layer.site.matrix() + layer.delta() - original
        torch.testing.assert_close(pair.scaling * pair.B @ pair.A, change, rtol=1e-5, atol=2e-6)
        short = plain_pair(layer, shrink=True)
        assert short.rank <= min(6, *layer.site.shape)
        torch.testing.assert_close(short.scaling * short.B @ short.A, change, rtol=1e-4, atol=1e-5)


def test_residual_export_holds_both_parts(base, x, tmp_path):
    peft = pytest.importorskip("peft")
    model = trained(base, PiSSA(3), ["layers.*.0"])
    save(model, tmp_path, format="peft", export="residual")
    residual = copy_of(base)
    residual.load_state_dict(load_file(tmp_path / "residual.safetensors"))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(residual, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_weighted_sum_of_adapters_is_exact(base):
    model = trained(base, LoRA(3, alpha=6.0), "fused")
    inject(model, PiSSA(2), targets="fused", name="second")
    moved(model)
    layers = model.fused.layers()
    pairs = [plain_pair(layer) for layer in layers]
    total = combine(pairs, [0.5, -2.0])
    wanted = sum(w * p.scaling * p.B @ p.A for w, p in zip((0.5, -2.0), pairs, strict=True))
    torch.testing.assert_close(total.B @ total.A, wanted)
    assert total.rank == sum(p.rank for p in pairs) and total.scaling == 1.0


def _altered(folder: Path, *, config=None, drop=None, add=None, name="adapter_model.safetensors") -> None:
    path = folder / ("adapter_config.json" if name.startswith("adapter_model") else "adapter.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    tensors = {n: t for n, t in load_file(folder / name).items() if n != drop} | (add or {})
    save_file(tensors, folder / name)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"config": {"use_qalora": True}}, "use_qalora=True is not implemented"),
    ({"config": {"lora_bias": True}}, "lora_bias=True is not implemented"),
    ({"config": {"init_lora_weights": "pissa"}}, "init_lora_weights='pissa' took a part out"),
    ({"config": {"peft_type": "IA3"}}, "peft_type is 'IA3'"),
    ({"config": {"r": 9}}, r"rank=9 is above min\(7, 8\) of 'fused'"),
    ({"config": {"r": 2}}, r"'fused.lora_A.weight' is \(3, 8\) in the adapter file; 'fused'.*wants \(2, 8\)"),
    ({"drop": "base_model.model.fused.lora_A.weight"}, "lora_A.weight is missing or too many"),
    ({"config": {"target_modules": ["fused", "head"]}}, "no tensors for head"),
    ({"add": {"base_model.model.fussed.lora_A.weight": torch.zeros(3, 8)}}, "'.*fussed.*', and this model has no such"),
])  # fmt: skip
def test_what_peft_drops_silently_is_an_error(base, tmp_path, change, sentence):
    save(trained(base, LoRA(3), "fused"), tmp_path, format="peft")
    _altered(tmp_path, **change)
    twin = copy_of(base)
    with pytest.raises(ValueError, match=sentence):
        load(twin, tmp_path)
    assert twin.state_dict().keys() == base.state_dict().keys()


def test_an_adapter_for_another_model_is_refused(base, tmp_path):
    save(trained(base, PiSSA(3), "fused"), tmp_path)
    other = copy_of(base)
    other.fused.weight.data.mul_(1.01)
    with pytest.raises(ValueError, match="made for other weights than those of 'fused'"):
        load(other, tmp_path)
    other.fused = nn.Linear(8, 6)
    with pytest.raises(ValueError, match=r"another model's: 'fused' .* has the shape \(7, 8\) there"):
        load(other, tmp_path)
    with pytest.raises(ValueError, match="here is no layer 'fused'"):
        load(nn.Sequential(nn.Linear(2, 2)), tmp_path)
    with pytest.raises(ValueError, match="there is no adapter in"):
        load(other, tmp_path / "nothing")
    (tmp_path / "adapter.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="cannot read"):
        load(copy_of(base), tmp_path)


def test_what_cannot_be_written(base, tmp_path):
    model = trained(base, LoRA(3), ["mix"])
    with pytest.raises(ValueError, match=r"'mix'.*dilation \(2,\).*'circular', which peft's adapter"):
        save(model, tmp_path, format="peft")
    with pytest.raises(ValueError, match="format='hf': must be"):
        save(model, tmp_path, format="hf")
    with pytest.raises(ValueError, match="export='residual': must be"):
        save(model, tmp_path, export="residual")
    with pytest.raises(ValueError, match="there is no adapter 'x'"):
        save(model, tmp_path, name="x")
    inject(model, DoRA(2), targets="fused")
    with pytest.raises(ValueError, match="one `use_dora` for all layers"):
        save(trained_without(model, "mix"), tmp_path, format="peft")
    with pytest.raises(ValueError, match="no pair gives the change"):
        save(trained(base, QPiSSA(2), ["layers.*.0"]), tmp_path, format="peft")
    assert not list(tmp_path.iterdir())


def trained_without(model: nn.Module, path: str) -> nn.Module:
    """The model with the adapter of one layer moved to a plain one."""
    setattr(model, path, model.get_submodule(path).base)
    inject(model, LoRA(2), targets=["table"])
    return model


def test_an_adapted_model_is_saved_under_the_paths_of_its_base(base, x, tmp_path):
    model = AdaptedModel(copy_of(base), adapter=LoRA(2), targets="fused")
    moved(model)
    save(model, tmp_path)
    twin = copy_of(base)
    assert load(twin, tmp_path) == ["fused"]
    assert torch.equal(twin(x), model(x))
    with pytest.raises(ValueError, match="has an adapter 'default' already"):
        load(twin, tmp_path)


@pytest.mark.parametrize("second", [PiSSA(2), SORSA(2)], ids=["pissa", "sorsa"])
def test_one_of_two_adapters_that_split_a_weight_goes_with_the_original(base, x, tmp_path, second):
    model = trained(base, PiSSA(3), "fused", name="first")
    inject(model, second, targets="fused", name="second")
    outputs = moved(model)(x)
    for name in ("first", "second"):
        save(model, tmp_path / name, name=name)
    twin = copy_of(base)
    for name in ("second", "first"):
        load(twin, tmp_path / name, name=name)
    torch.testing.assert_close(twin(x), outputs, rtol=1e-5, atol=1e-5)


def test_a_second_adapter_on_a_quantised_base_is_saved_without_it(base, x, tmp_path):
    model = trained(base, QPiSSA(3, rounds=1), "fused", name="first")
    inject(model, LoRA(2), targets="fused", name="second")
    outputs = moved(model)(x)
    for name in ("first", "second"):
        save(model, tmp_path / name, name=name)
    assert not any(".base." in tensor for tensor in load_file(tmp_path / "second" / "adapter.safetensors"))
    twin = copy_of(base)
    for name in ("first", "second"):
        load(twin, tmp_path / name, name=name)
    assert torch.equal(twin(x), outputs)


def test_a_quantised_base_of_other_weights_is_refused_and_nothing_is_changed(base, tmp_path):
    save(trained(base, QPiSSA(3), "layers.0.0"), tmp_path)
    other = copy_of(base).requires_grad_(True)
    nn.init.normal_(other.layers[0][0].weight)
    bias = other.layers[0][0].bias.clone()
    tensors = load_file(tmp_path / "adapter.safetensors")
    save_file(
        {n: t + 1 if n.endswith("bias") else t for n, t in tensors.items()}, tmp_path / "adapter.safetensors"
    )
    with pytest.raises(ValueError, match=r"made for other weights than those of 'layers.0.0'"):
        load(other, tmp_path)
    save_file({n: t for n, t in tensors.items() if "codes" not in n}, tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match=r"does not fit 'layers.0.0'.*codes"):
        load(other, tmp_path)
    assert torch.equal(other.layers[0][0].bias, bias) and all(p.requires_grad for p in other.parameters())


@pytest.mark.parametrize(("format", "config"), [
    ("eigenzoo", []),
    ("eigenzoo", {"format": 1}),
    ("eigenzoo", {"format": 1, "layers": [1]}),
    ("eigenzoo", {"format": 1, "layers": {"fused": {"shape": [7, 8]}}}),
    ("eigenzoo", {"format": 1, "layers": {"fused": {"shape": [7, 8], "kind": "LoRA", "settings": {"rnk": 2}}}}),
    ("peft", []),
    ("peft", {"r": None, "target_modules": ["fused"]}),
    ("peft", {"r": 2.7, "target_modules": ["fused"]}),
    ("peft", {"r": 3, "target_modules": 3}),
    ("peft", {"r": 3, "target_modules": "("}),
    ("peft", {"r": 3, "target_modules": ["fused"], "rank_pattern": [3]}),
    ("peft", {"r": 3, "target_modules": ["fused"], "lora_alpha": None}),
])  # fmt: skip
def test_a_damaged_config_is_one_sentence(base, tmp_path, format, config):
    save(trained(base, LoRA(3), "fused"), tmp_path, format=format)
    next(tmp_path.glob("*.json")).write_text(json.dumps(config))
    twin = copy_of(base)
    with pytest.raises(ValueError, match=r"is damaged|must be a whole number"):
        load(twin, tmp_path)
    assert twin.state_dict().keys() == base.state_dict().keys()


@pytest.mark.parametrize("format", ["eigenzoo", "peft"])
def test_a_file_with_nan_is_refused(base, tmp_path, format):
    save(trained(base, LoRA(3), "fused"), tmp_path, format=format)
    file = next(tmp_path.glob("*.safetensors"))
    save_file({n: t * torch.nan for n, t in load_file(file).items()}, file)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        load(copy_of(base), tmp_path)


def test_a_residual_keeps_the_names_of_a_model_with_a_base_of_its_own(tmp_path):
    model = nn.ModuleDict({"net": nn.ModuleDict({"base": nn.Linear(4, 4)})})
    inject(model, PiSSA(2), targets="base")
    save(model, tmp_path, format="peft", export="residual")
    assert set(load_file(tmp_path / "residual.safetensors")) == {"net.base.weight", "net.base.bias"}


def test_running_means_of_a_module_that_is_trained_whole_are_saved_with_it(tmp_path):
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))

    model, x = network(), torch.randn(8, 4)
    inject(model, LoRA(2), targets="0", trainable=["1"])
    moved(model).train()(x)
    save(model, tmp_path)
    twin = network()
    load(twin, tmp_path)
    assert torch.equal(twin.eval()(x), model.eval()(x)) and twin[1].weight.requires_grad


def test_an_adapter_read_from_peft_is_written_in_our_format_too(base, x, tmp_path):
    save(trained(base, LoRA(3, alpha=6.0), "fused"), tmp_path / "peft", format="peft")
    model, twin = copy_of(base), copy_of(base)
    load(model, tmp_path / "peft")
    save(model, tmp_path / "own")
    load(twin, tmp_path / "own")
    assert torch.equal(twin(x), model(x))
