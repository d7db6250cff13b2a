"""Export: complete files, a card that the hub's own reader understands, clear refusals of push."""

import json

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file

from eigenzoo.errors import ConfigError, DataError, StorageError
from eigenzoo.harness.card import citations, front_matter, model_card
from eigenzoo.harness.export import export, push, save_tensors

CONFIG = {
    "experiment_name": "s4d_digits", "paper": "s4d_digits", "row": "lin", "seed": 3, "scale": "small",
    "run_dir": "/somewhere/private", "task": {"_target_": "eigenzoo.tasks.Classification"},
    "model": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2},
}  # fmt: skip
S4D = {
    "_target_": "eigenzoo.models.ssm.SequenceModel", "dim_in": 1, "dim_out": 10,
    "layer": {"_target_": "eigenzoo.models.ssm.S4D", "_partial_": True},
}  # fmt: skip
RECORD = {
    "metrics": {"val/accuracy": 0.5, "test/accuracy": 0.98765432, "test/loss": None}, "weights": "last",
    "steps": 1350, "epochs": 30, "wall_s": 31.7, "device": "a processor",
    "data": [
        {"name": "mnist", "revision": "abc", "sha256": "123"},
        {"name": "own", "revision": None, "sha256": "4"},
    ],
    "versions": {"torch": "2.13.0"}, "git": {"commit": "0123456789abcdef", "dirty": True},
}  # fmt: skip


@pytest.fixture
def exported(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    export(model, CONFIG, tmp_path, (torch.randn(9, 3),), RECORD)
    return tmp_path, model


def test_files_hold_weights_config_and_probe(exported):
    folder, model = exported
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors", "config.yaml", "probe.safetensors", "README.md",
    }  # fmt: skip
    weights, probe = load_file(folder / "model.safetensors"), load_file(folder / "probe.safetensors")
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert probe["input.0"].shape == (4, 3)
    torch.testing.assert_close(probe["output"], model(probe["input.0"]).detach())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"] == CONFIG["model"]
    assert "run_dir" not in config


def test_export_leaves_mode_dtype_and_device_alone(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5)).double().train()
    config = CONFIG | {"model": {"_target_": "torch.nn.Sequential"}}
    export(model, config, tmp_path, (torch.randn(2, 3).double(),))
    assert model.training
    assert model[0].weight.dtype == torch.float64
    probe = load_file(tmp_path / "probe.safetensors")
    # eval mode: no dropout; computed in float32 whatever the model's own precision
    assert probe["output"].dtype == torch.float32
    wanted = model[0](probe["input.0"]).detach().float()
    torch.testing.assert_close(probe["output"], wanted, rtol=1e-5, atol=1e-6)


def test_tied_weights_are_written_under_both_names(tmp_path):
    shared = torch.randn(4)
    save_tensors({"a": shared, "b": shared[:2], "c": shared.view(2, 2).T}, tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert torch.equal(found["a"][:2], found["b"])
    assert torch.equal(found["c"], shared.view(2, 2).T)


def test_several_outputs_are_all_probed(tmp_path):
    config = {"_target_": "torch.nn.GRU", "input_size": 3, "hidden_size": 2}
    export(torch.nn.GRU(3, 2), CONFIG | {"model": config}, tmp_path, (torch.randn(4, 5, 3),))
    assert set(load_file(tmp_path / "probe.safetensors")) == {"input.0", "output.0", "output.1"}


def test_config_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="_target_"):
        export(torch.nn.Linear(1, 1), {"model": {"dim": 1}}, tmp_path, (torch.ones(1, 1),))


def test_card_is_understood_by_the_hub(exported):
    card = ModelCard((exported[0] / "README.md").read_text())
    assert card.data.library_name == "eigenzoo"
    assert card.data.license == "apache-2.0"
    assert card.data.datasets == ["ylecun/mnist"]
    results = {(r.metric_name, r.metric_value) for r in card.data.eval_results}
    assert results == {("test/accuracy", 0.987654), ("val/accuracy", 0.5)}
    for text in ("1,350 steps", "0123456789 with changes", "not finite", "8 parameters", "eigenzoo.load"):
        assert text in card.text


def test_card_without_a_record_has_no_numbers():
    assert "model-index" not in front_matter(CONFIG, None)
    assert "## Results" not in model_card(CONFIG, None, 8)


def test_card_cites_the_papers_of_the_parts():
    assert "2206.11893" in model_card(CONFIG | {"model": S4D}, RECORD, 8).split("## Citation")[1]
    assert citations("torch.nn.Linear") == []
    assert {"ssm", "s4d"} <= set(front_matter(CONFIG | {"model": S4D}, None)["tags"])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_tensors({"a": torch.ones(2)}, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        save_tensors({"a": torch.zeros(2)}, path)
    assert torch.equal(load_file(path)["a"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_push_refuses_what_is_not_an_exported_run(tmp_path):
    with pytest.raises(DataError, match=r"has no config\.yaml, model\.safetensors, probe\.safetensors"):
        push(tmp_path, "me/it")
    with pytest.raises(DataError, match="there is no folder"):
        push(tmp_path / "nowhere", "me/it")


def test_push_says_when_it_is_offline_or_not_logged_in(exported, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="HF_HUB_OFFLINE"):
        push(exported[0], "me/it")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(StorageError, match="not logged in"):
        push(exported[0], "me/it")


def test_push_uploads_the_exported_files_only(exported, monkeypatch):
    folder, sent = exported[0], {}
    (folder / "record.json").write_text(json.dumps(RECORD))
    (folder / "last.ckpt").write_bytes(b"large")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a-token")

    class Api:
        def create_repo(self, repo, private, exist_ok):
            sent["repo"] = (repo, private, exist_ok)
            return type("Url", (str,), {"repo_id": repo})(f"https://huggingface.co/{repo}")

        def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
            sent["files"] = {p.name for p in folder_path.iterdir() if p.name in allow_patterns}

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert push(folder, "me/it", private=True) == "https://huggingface.co/me/it"
    assert sent["repo"] == ("me/it", True, True)
    assert sent["files"] == {
        "model.safetensors", "config.yaml", "probe.safetensors", "README.md", "record.json",
    }  # fmt: skip
