"""A run that starts from another one: the base is found or trained first, and its weights are what is adapted."""

import json
import shutil
from pathlib import Path

import lab
import pytest
import torch
from command_lab import ask
from rich.console import Console
from safetensors.torch import load_file

import eigenzoo
from eigenzoo.errors import ConfigError, DataError
from eigenzoo.harness import base
from eigenzoo.harness.compose import compose
from eigenzoo.harness.preflight import build_on_meta
from eigenzoo.harness.run import folder_of, run
from eigenzoo.models.adapters import load

BASE = (
    "model.dim=8", "model.depth=1", "model.heads=2", "model.context=16", "data.context=16", "data.samples=[64,8,8]",
    "trainer.accelerator=cpu", "callbacks=default",
)  # fmt: skip
TEXT = (
    "experiment=pissa_text", "scale=smoke", "adapter=pissa", "model.adapter.rank=2", "data.samples=[64,8,8]",
    "data.context=16", "trainer=cpu", "trainer.val_check_interval=1", "trainer.max_epochs=1", "task.marks=[1,2]",
    f"base.overrides=[{','.join(repr(w) for w in BASE)}]", "callbacks=default",
)  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def go(*words: str):
    return run(compose([*TEXT, *words]), Console(quiet=True))


def folders(name: str) -> list[Path]:
    return sorted(Path("runs").glob(f"{name}-*"))


def test_the_base_is_trained_once_and_adapted(here):
    first = go()
    (pretrained,) = folders("pretrain_text")
    stamp = (pretrained / "record.json").stat().st_mtime_ns
    second = go("adapter=lora")
    assert (pretrained / "record.json").stat().st_mtime_ns == stamp
    weights, ours = (
        load_file(pretrained / "model.safetensors"),
        load_file(second.folder / "model.safetensors"),
    )
    assert torch.equal(ours["base.blocks.0.q.base.weight"], weights["blocks.0.q.weight"])
    split = load_file(first.folder / "model.safetensors")
    start = (split["base.blocks.0.q.adapters.default." + n] for n in ("B0", "A0"))
    whole = split["base.blocks.0.q.base.weight"] + next(start) @ next(start)
    torch.testing.assert_close(whole, weights["blocks.0.q.weight"], rtol=1e-5, atol=1e-6)
    said = first.record["data"][-1]
    assert said["name"] == "base pretrain_text" and pretrained.name.endswith(said["revision"])
    assert {"val/loss@1", "val/loss@2"} <= set(first.record["metrics"])
    x, model = torch.randint(96, (2, 16)), eigenzoo.load(first.folder)
    plain = eigenzoo.load(pretrained)
    load(plain, first.folder / "adapter")
    torch.testing.assert_close(plain(x), model(x))


def test_a_folder_as_base_and_full_fine_tuning(here):
    go()
    (pretrained,) = folders("pretrain_text")
    tuned = go(f"base.run={pretrained}", "adapter=full", "~model.adapter.rank=2")
    assert tuned.record["params"]["total"] == tuned.record["params"]["trainable"]
    assert len(folders("pretrain_text")) == 1


def test_an_interrupted_adapter_run_resumes_to_the_same_weights(here):
    words = [*TEXT, "adapter=lora", "checkpoint_every_s=0.000001"]
    whole = lab.go([*words, "run_dir=runs"])[0]
    Path("other").mkdir()
    shutil.copytree(folders("pretrain_text")[0], Path("other") / folders("pretrain_text")[0].name)
    lab.bombed([*words, "run_dir=other"], step=1)
    lab.assert_same_end(whole, lab.go([*words, "run_dir=other"])[0])


def test_a_study_gets_the_base(here, capsys):
    words = f"base.overrides=[{','.join(repr(w) for w in BASE)}]"
    answer = ask(
        ["train", "experiment=pissa_quantisation", "scale=smoke", "study.rank=2", "study.rounds=1", words],
        capsys,
    )
    assert answer.code == 0, answer.err
    assert "the pretrained base comes first: pretrain_text-" in answer.out and "reduction/q" in answer.out
    record = json.loads(next(Path("runs").glob("pissa_quantisation-*/record.json")).read_text())
    assert record["data"][-1]["name"] == "base pretrain_text"


def test_the_id_depends_on_the_base(here):
    one, two = (compose([*TEXT, f"base.seed={seed}"]) for seed in (0, 1))
    assert folder_of(one.config) != folder_of(two.config)
    assert one.config["base"]["id"] != two.config["base"]["id"]


@pytest.mark.parametrize(("words", "sentence"), [
    (["base=null"], "base: nothing is chosen, and the model is to be pretrained"),
    (["~base.experiment"], "base: names neither an experiment nor a run"),
    (["base.experimnt=x"], "base.experimnt: no such key; did you mean 'experiment'"),
    (["base.experiment=pretrian_text"], "did you mean 'pretrain_text'"),
    (["base.experiment=pissa_text"], "base.experiment: 'pissa_text' has a base of its own"),
    (["base.overrides=lr"], "base.overrides: wants a list of words"),
    (["base.overrides=[5]"], "base.overrides: wants a list of words"),
    (["base.overrides=[model.dmi=3]", "base.scale=smoke"], None),
])  # fmt: skip
def test_wrong_bases(here, words, sentence):
    if sentence is None:
        with pytest.raises(ConfigError):
            go(*words)
        return
    with pytest.raises(ConfigError, match=sentence):
        compose([*TEXT, *words])


def test_weights_of_another_model_are_a_fault_of_the_base(here):
    composed = compose(TEXT)
    model = torch.nn.Linear(2, 2)
    folder = Path("other")
    folder.mkdir()
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3, 2)}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"base: the weights are those of another model: 'bias' is missing"):
        base.start(model, composed.config, folder, Console(quiet=True))
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match=r"model.safetensors is damaged"):
        base.start(model, composed.config, folder, Console(quiet=True))


def test_a_base_for_other_data_names_the_size_that_it_lacks(here):
    config = compose([*TEXT, "base.experiment=fno_burgers", "base.overrides=[]"]).config
    with pytest.raises(ConfigError, match=r"model.base: eigenzoo.*FNO needs dim_in"):
        build_on_meta(config)


def test_a_base_of_ones_own_is_allowed_by_name(here):
    folder = Path("mine")
    folder.mkdir()
    (folder / "config.yaml").write_text("model: {_target_: my_models.Net}")
    for name in ("model", "probe"):
        (folder / f"{name}.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigError, match="nothing that a model may be made of"):
        compose([*TEXT, "base.run=mine"])
    config = compose([*TEXT, "base.run=mine", "allow_targets=[my_models]"]).config
    assert config["model"]["base"] == {"_target_": "my_models.Net"}
