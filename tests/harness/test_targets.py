"""What a config may build: a config from somebody else must not be able to run a program."""

from pathlib import Path
from typing import Any

import pytest
from lab import code_of, toy

from eigenzoo.errors import ConfigError
from eigenzoo.harness.build import build
from eigenzoo.harness.check import check, check_node
from eigenzoo.harness.compose import compose
from eigenzoo.harness.targets import resolve

REFUSED = [
    "os.system", "subprocess.Popen", "subprocess.run", "builtins.eval", "builtins.exec", "builtins.open",
    "shutil.rmtree",
    "importlib.import_module", "pickle.loads", "functools.partial", "webbrowser.open", "posix.system",
    "torch.load", "torch.save", "torch.hub.load", "torch.utils.cpp_extension.load", "torch.package.PackageImporter",
    "torch.jit.load", "torch.serialization.os.system", "torch.os.system", "torch.compile",
    "torch.multiprocessing.Process",
    "torch.utils.data.DataLoader", "torch.distributed.launcher.api.elastic_launch", "torch.nn.Module.load_state_dict",
    "lightning.pytorch.LightningModule.load_from_checkpoint", "lightning.pytorch.cli.LightningCLI",
    "lightning.pytorch.core.module.os.system",
    "torchmetrics.functional.accuracy", "transformers.pipeline", "transformers.AutoModel.from_pretrained",
    "eigenzoo.harness.store.os.system", "eigenzoo.data.hub.subprocess.run", "eigenzoo.data.cache.os.remove",
    "eigenzoo.harness.run.run", "eigenzoo.harness.folder.write_text", "eigenzoo.harness.checkpoint.save",
    "eigenzoo.harness.folder.atomic", "eigenzoo.harness.cli.main", "eigenzoo.train.main", "eigenzoo.errors.ConfigError",
    "eigenzoo.tasks.Classification.load_from_checkpoint", "eigenzoo.models.ssm.S4D.__init__.__globals__.get",
    "eigenzoo.models.ssm.S4D.__init__", "torch.nn.Linear.__class__", "eigenzoo.data.Digits.__reduce_ex__",
]  # fmt: skip
ACCEPTED = [
    "eigenzoo.models.ssm.S4D", "eigenzoo.models.ssm.SequenceModel", "eigenzoo.data.Digits", "eigenzoo.tasks.Regression",
    "eigenzoo.optim.AdamW", "eigenzoo.optim.warmup_cosine", "torch.nn.Linear", "torch.optim.SGD",
    "torch.optim.lr_scheduler.StepLR", "lightning.pytorch.Trainer", "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.strategies.DDPStrategy", "torchmetrics.MeanMetric",
]  # fmt: skip


@pytest.mark.parametrize("target", REFUSED)
def test_refused(target: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(target, "model")
    assert caught.value.faults[0].startswith("model._target_: ")
    assert target in str(caught.value)


@pytest.mark.parametrize("target", ACCEPTED)
def test_accepted(target: str) -> None:
    assert callable(resolve(target, "model"))


def test_the_users_own_command_line_opens_a_package_and_no_other() -> None:
    assert resolve("lab.Toy", "data", ["lab"]).__name__ == "Toy"
    for allowed in ([], ["la"], ["lab2"], ["labs"]):
        with pytest.raises(ConfigError):
            resolve("lab.Toy", "data", allowed)


@pytest.mark.parametrize(
    "node, path",
    [
        ({"_target_": "torch.nn.Linear",
        "in_features": {"_target_": "os.getpid"}, "out_features": 2}, "model.in_features"),
        ({"_target_": "torch.nn.Sequential", "args": [1, {"x": {"_target_": "os.abort"}}]}, "model.args[1].x"),
        ({"_target_": "eigenzoo.optim.AdamW",
        "_partial_": True, "groups": {"ssm": {"_target_": "os.abort"}}}, "model.groups.ssm"),
        ({"deep": [[{"_target_": "os.abort", "_partial_": True}]]}, "model.deep[0][0]"),
    ],
)  # fmt: skip
def test_a_target_is_found_however_deep_it_is(node: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_node(node, "model")
    assert any(fault.startswith(f"{path}._target_: 'os.") for fault in caught.value.faults)


@pytest.mark.parametrize("word", ["_args_", "_recursive_", "_convert_", "_mode_"])
def test_words_that_would_get_round_the_check(word: str) -> None:
    with pytest.raises(ConfigError, match="only _target_ and _partial_"):
        check_node({"_target_": "torch.nn.ReLU", word: True}, "model")


def test_a_users_config_runs_nothing_unless_the_command_line_says_so(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "experiment").mkdir()
    mark = tmp_path / "mark"
    (tmp_path / "experiment" / "evil.yaml").write_text(
        "# @package _global_\ndefaults:\n  - s4d_digits\n  - _self_\n"
        f"callbacks: {{x: {{_target_: os.system, command: touch {mark}}}}}\n"
    )
    with pytest.raises(ConfigError, match=r"callbacks\.x\._target_: 'os\.system' is not on the list"):
        check(compose(["experiment=evil"], tmp_path).config)
    assert not mark.exists()


@pytest.mark.parametrize("value", ["[os]", "${paper}", "[lab,os]"])
def test_allow_targets_in_a_file_is_refused_even_if_it_is_typed_too(value: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - s4d_digits\n  - _self_\nallow_targets: {value}\n"
    )
    with pytest.raises(ConfigError, match="allow_targets"):
        compose(["experiment=mine"], tmp_path)
    assert compose(["experiment=mine", "allow_targets=[lab]"], tmp_path).config["allow_targets"] == ["lab"]


def test_an_import_error_inside_the_users_module_comes_out_as_it_is(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "broken_module_of_a_user.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        resolve("broken_module_of_a_user.Model", "model", ["broken_module_of_a_user"])


def test_a_value_error_of_a_constructor_is_a_fault_of_the_config() -> None:
    with pytest.raises(ConfigError, match=r"data: .*batch_size"):
        build({"_target_": "eigenzoo.data.Digits", "batch_size": 0}, "data")


def test_another_error_of_a_constructor_comes_out_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="negative dimension"):
        build({"_target_": "torch.nn.Linear", "in_features": -1, "out_features": 2}, "model")


def test_integers_where_numbers_are_wanted_are_passed_as_numbers() -> None:
    made = build({"_target_": "eigenzoo.tasks.Classification", "_partial_": True, "label_smoothing": 0}, "x")
    assert isinstance(made.keywords["label_smoothing"], float)


@pytest.mark.parametrize(
    "word, said",
    [
        ("optim.groups.smm.lr=0.1",
        "optim: groups.smm: no parameter of this model is tagged 'smm'; did you mean 'ssm'?"),
        ("optim.groups.ssm.lrr=0.1", "optim: groups.ssm.lrr: is not an option; did you mean 'lr'?"),
        ("optim.lr=-1", "optim: Invalid learning rate: -1.0"),
        ("scheduler.warmup_steps=-1", "scheduler: warmup_steps=-1"),
        ("model.pool=men", "model: "), ("model.layer.dt=[1.0]", "model: "), ("model.block.norm=lyer", "model: "),
        ("task.label_smoothing=2", "task: label_smoothing=2.0: must lie in [0, 1)"),
        ("data.batch_size=0", "data: "), ("trainer.accelerator=gpuu", "trainer: "), ("trainer.strategy=dddp",
        "trainer: "),
        ("trainer.devices=two", "trainer: "), ("trainer.accelerator=tpu", "trainer: "),
    ],
)  # fmt: skip
def test_a_value_that_only_the_object_can_judge(word: str, said: str, tmp_path: Path, capsys: Any) -> None:
    """Exit code 2, one sentence, before the first step."""
    code, printed = code_of(toy(tmp_path, word), capsys)
    lines = [line for line in printed.splitlines() if line.startswith("config: ")]
    assert code == 2 and len(lines) == 1 and said in lines[0], printed
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("metrics.jsonl"))
