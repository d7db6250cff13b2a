"""load, create_model and list_models: the round trip, and everything that must not get through."""

import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

import eigenzoo
from eigenzoo.errors import ConfigError, DataError
from eigenzoo.harness import zoo
from eigenzoo.harness.export import export, save_tensors

NODE = {
    "_target_": "eigenzoo.models.ssm.SequenceModel", "dim_in": 1, "dim_out": 3, "dim": 4, "depth": 1,
    "layer": {"_target_": "eigenzoo.models.ssm.S4D", "_partial_": True, "state_dim": 4},
    "block": {"_target_": "eigenzoo.models.ssm.Block", "_partial_": True, "dropout": 0.2},
}  # fmt: skip
CONFIG = {"experiment_name": "tiny", "paper": None, "seed": 0, "scale": "smoke", "model": NODE}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    export(
        zoo.create_model("s4d", **{k: v for k, v in NODE.items() if k != "_target_"}),
        CONFIG,
        tmp_path,
        inputs(),
    )
    return tmp_path


def inputs():
    return (torch.linspace(-1, 1, 24).reshape(3, 8, 1), torch.tensor([8, 5, 1]))


def rewrite(folder, change):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    change(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_round_trip_is_exact_and_in_eval_mode(folder):
    model = eigenzoo.load(folder)
    assert not model.training
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    probe = load_file(folder / "probe.safetensors")
    torch.testing.assert_close(model(*inputs()).detach(), probe["output"], rtol=1e-5, atol=1e-6)
    assert type(eigenzoo.load(str(folder))) is type(model)


def test_loading_leaves_the_random_state_alone(folder):
    before = torch.get_rng_state()
    eigenzoo.load(folder)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["decoder.weight", "blocks.0.layer.C", "blocks.0.layer.log_dt"])
def test_altered_weights_fail_the_probe(folder, name):
    weights = load_file(folder / "model.safetensors")
    weights[name] = weights[name] * 1.5
    save_tensors(weights, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"differ from the stored ones by up to \d"):
        eigenzoo.load(folder)


def test_nan_weights_fail_the_probe(folder):
    weights = load_file(folder / "model.safetensors")
    save_tensors({k: v * float("nan") for k, v in weights.items()}, folder / "model.safetensors")
    with pytest.raises(DataError, match="up to nan"):
        eigenzoo.load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "probe.safetensors"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\x80\x04}." + b])
def test_damaged_safetensors_are_named(folder, name, damage):
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{name} is damaged"):
        eigenzoo.load(folder)


def test_weights_that_do_not_fit_are_told_in_one_sentence(folder):
    weights = load_file(folder / "model.safetensors")
    weights["more"] = weights.pop("encoder.bias")
    weights["decoder.weight"] = weights["decoder.weight"][:2]
    save_tensors(weights, folder / "model.safetensors")
    with pytest.raises(DataError) as error:
        eigenzoo.load(folder)
    assert "lacks 'encoder.bias'" in str(error.value)
    assert "no 'more'" in str(error.value)
    assert "(2, 4) in the file, (3, 4) in the model" in str(error.value)


def test_missing_files_are_named(folder):
    (folder / "probe.safetensors").unlink()
    with pytest.raises(DataError, match=r"it has no probe\.safetensors"):
        eigenzoo.load(folder)


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "builtins.eval", "torch.load", "torch.nn.functional.relu", "torch.hub.load",
        "eigenzoo.harness.zoo.load", "eigenzoo.data.Digits", "eigenzoo.models.ssm.s4d.nn.Linear",
        "lightning.pytorch.loggers.CSVLogger", "torchmetrics.text.bert.BERTScore",
        "torch_geometric.nn.Sequential",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["model", "model.layer"])
def test_a_config_cannot_run_a_program(folder, target, place, monkeypatch):
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("a config has run a program"))

    def change(config):
        node = config["model"] if place == "model" else config["model"]["layer"]
        node.clear()
        node.update({"_target_": target, "command": "true"})

    rewrite(folder, change)
    with pytest.raises(ConfigError, match=r"nothing that a (model may be made of|config may build)") as error:
        eigenzoo.load(folder)
    assert f"{place}._target_: '{target}'" in str(error.value)


@pytest.mark.parametrize("key", ["_args_", "_recursive_", "_convert_"])
def test_words_of_hydra_are_refused(folder, key):
    rewrite(folder, lambda c: c["model"].update({key: ["true"]}))
    with pytest.raises(ConfigError, match=key):
        eigenzoo.load(folder)


def test_interpolations_and_yaml_tags_are_refused(folder):
    rewrite(folder, lambda c: c["model"].update({"pool": "${oc.env:HOME}"}))
    with pytest.raises(ConfigError, match="interpolation"):
        eigenzoo.load(folder)
    (folder / "config.yaml").write_text("model: !!python/object/apply:os.system ['true']")
    with pytest.raises(ConfigError, match="not plain YAML"):
        eigenzoo.load(folder)


@pytest.mark.parametrize("text", ["", "model: 3", "[1, 2]", "model: {dim: 3}"])
def test_config_without_a_model_is_named(folder, text):
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="no model node"):
        eigenzoo.load(folder)


def test_a_users_own_class_needs_their_word(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text("import torch\nclass Net(torch.nn.Linear):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "theirs.Net", "in_features": 2, "out_features": 1}
    export(torch.nn.Linear(2, 1), CONFIG | {"model": node}, tmp_path, (torch.ones(1, 2),))
    with pytest.raises(ConfigError, match="allow_targets"):
        eigenzoo.load(tmp_path)
    assert type(eigenzoo.load(tmp_path, allow_targets=["theirs"])).__name__ == "Net"


def test_nothing_found_names_what_was_tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="tried a folder nonsense, a shipped model"):
        eigenzoo.load("nonsense")
    with pytest.raises(DataError, match="tried a folder"):
        eigenzoo.load(tmp_path / "absent")


def test_a_hub_id_offline_fails_fast(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    with pytest.raises(DataError, match="the hub repository nobody/nothing at v1"):
        eigenzoo.load("nobody/nothing", revision="v1")
    assert time.monotonic() - began < 10


def test_a_hub_id_loads_the_needed_files(folder, monkeypatch):
    asked = {}

    def download(repo, revision, allow_patterns):
        asked.update(repo=repo, revision=revision, files=set(allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert eigenzoo.load("user/name", revision="main").dim == 4
    assert asked == {
        "repo": "user/name", "revision": "main",
        "files": {"config.yaml", "model.safetensors", "probe.safetensors"},
    }  # fmt: skip


def test_a_shipped_name_loads_and_a_folder_goes_first(folder, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(zoo, "SHIPPED", folder.parent)
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    assert folder.name in zoo.shipped()
    assert eigenzoo.load(folder.name).dim == 4
    (here / folder.name).mkdir()
    with pytest.raises(DataError, match="not the folder of a finished run"):
        eigenzoo.load(folder.name)


@pytest.mark.parametrize("name", zoo.shipped())
def test_every_shipped_model_loads_and_is_small(name):
    eigenzoo.load(name)
    assert sum(p.stat().st_size for p in (zoo.SHIPPED / name).iterdir()) <= 1_000_000


def test_create_model_takes_names_nodes_and_dotted_keys():
    model = eigenzoo.create_model(
        "s4d", d_input=2, d_output=5, dim=8, depth=2, layer={"state_dim": 6}, **{"layer.dt": [0.01, 0.1]}
    )
    assert (model.dim_in, model.dim_out, model.dim, len(model.blocks)) == (2, 5, 8, 2)
    assert model.blocks[0].layer.state_dim == 6
    assert 0.01 <= model.blocks[0].layer.log_dt.exp().min() <= model.blocks[0].layer.log_dt.exp().max() <= 0.1
    assert model.training


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"deepth": 2}, "did you mean 'depth'"),
        ({"layer": {"state_dims": 2}}, "did you mean 'state_dim'"),
        ({"layer.state_dims": 2}, "did you mean 'state_dim'"),
        ({"depth": "two"}, "a whole number"),
        ({"pool": "mean", "pool.x": 1}, "not a node"),
        ({"dim_in": 3}, "the same is given"),
        ({"init": object()}, "object is not plain data"),
        ({"dim": 0}, "dim is 0"),
        ({"init": "linn"}, "did you mean 'lin'"),
    ],
)
def test_create_model_names_every_fault(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        eigenzoo.create_model("s4d", d_input=1, d_output=2, **overrides)


def test_create_model_needs_its_sizes_and_a_known_name():
    with pytest.raises(ConfigError, match=r"s4d\.dim_in: .* missing"):
        eigenzoo.create_model("s4d", d_output=2)
    with pytest.raises(ConfigError, match="did you mean 's4d'"):
        eigenzoo.create_model("s4dd", d_input=1, d_output=2)


def test_create_model_inside_a_hydra_program_leaves_it_alone():
    from hydra import compose, initialize_config_dir

    from eigenzoo.harness.schema import config_dir

    with initialize_config_dir(str(config_dir() / "model"), version_base="1.3"):
        eigenzoo.create_model("s4d", d_input=1, d_output=2, dim=4, depth=1)
        assert "layer" in compose("s4d")


def test_listing_models_needs_no_torch():
    code = "import sys, eigenzoo; print(eigenzoo.list_models('s4*'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'s4d'" in done.stdout
    assert done.stdout.strip().endswith("False")


def test_create_model_follows_the_seed():
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(eigenzoo.create_model("s4d", d_input=1, d_output=2, dim=4, depth=1).decoder.weight)
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])
