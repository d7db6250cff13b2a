"""Every fault of a config: one sentence that names where, exit code 2, no traceback, all at once."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest
from torch import nn

from eigenzoo.errors import ConfigError
from eigenzoo.harness.check import check
from eigenzoo.harness.compose import compose
from eigenzoo.harness.entry import guarded
from eigenzoo.harness.fits import adapt, fits, mismatch
from eigenzoo.harness.preflight import build_on_meta

# What is typed -> what the answer must say.
FAULTS = {
    "model.widht=3": "model.widht: eigenzoo.models.ssm.SequenceModel takes no such argument",
    "+model.widht=3": "model.widht: eigenzoo.models.ssm.SequenceModel takes no such argument",
    "model.dmi=3": "model.dmi: eigenzoo.models.ssm.SequenceModel takes no such argument; did you mean 'dim'?",
    "model.layer.state_dmi=3": "model.layer.state_dmi: eigenzoo.models.ssm.S4D takes no such argument; did you mean "
    "'state_dim'?",
    "model.layer.x=1": "model.layer.x: ",
    "model.block.dropuot=0.1": "did you mean 'dropout'?",
    "optim.lrr=0.1": "optim.lrr: eigenzoo.optim.AdamW takes no such argument; did you mean 'lr'?",
    "scheduler.warmup_epoch=1": "scheduler.warmup_epoch: eigenzoo.optim.warmup_cosine takes no such argument; did you "
    "mean 'warmup_epochs'?",
    "trainer.max_epoch=3": "trainer.max_epoch: lightning.pytorch.Trainer takes no such argument; did you mean "
    "'max_epochs'?",
    "data.batch_siz=3": "did you mean 'batch_size'?",
    "task.label_smothing=0.1": "did you mean 'label_smoothing'?",
    "sede=3": "sede: no such key at the root of the config; did you mean 'seed'?",
    "+sede=3": "sede: no such key at the root of the config; did you mean 'seed'?",
    "++sede=3": "sede: no such key at the root of the config; did you mean 'seed'?",
    "sede.x=3": "sede.x: no such key at the root of the config; did you mean 'seed'?",
    "modle.dim=3": "modle.dim: no such key at the root of the config; did you mean 'model'?",
    "row.x=3": "row.x: 'row' has nothing below it",
    "trainer=cpuu": "trainer: there is no 'cpuu'; trainer has auto, cpu",
    "model=s44": "model: there is no 's44'; `eigenzoo list` shows all; did you mean 's4'?",
    "experiment=s4d_digit": "did you mean 's4d_digits'?",
    "logger=wandbb": "did you mean 'wandb'?",
    "data=null": "data: there is no 'null'; `eigenzoo list` shows all",
    "model=": "model: there is no ''; `eigenzoo list` shows all",
    "debug=profil": "debug: there is no 'profil'",
    "scale=smok": "scale: experiment 's4d_digits' has no scale 'smok'; it has",
    "model.dim=eight": "model.dim: eigenzoo.models.ssm.SequenceModel wants a whole number here, not 'eight'",
    "model.dim=[1,2]": "wants a whole number here, not [1, 2]",
    "model.dim={a: 1}": "wants a whole number here, not {'a': 1}",
    "model.dim=1.5": "wants a whole number here, not 1.5",
    "model.dim=true": "wants a whole number here, not True",
    "model.dim=null": "wants a whole number here, not None",
    "model.depth='3'": "wants a whole number here, not '3'",
    "model.dim=": "wants a whole number here, not ''",
    "model.dim={_target_: torch.nn.ReLU}": "model.dim: eigenzoo.models.ssm.SequenceModel wants a whole number here",
    "optim.lr=fast": "optim.lr: eigenzoo.optim.AdamW wants a number here, not 'fast'",
    "optim.betas=0.9": "wants [a number, ...] here, not 0.9",
    "optim.betas=[a,b]": "wants [a number, ...] here, not ['a', 'b']",
    "optim.groups.ssm.lr=fast": "wants {name: {name: a number}} or null here",
    "optim.groups=[1]": "optim.groups: ",
    "model.layer.dt=0.1": "model.layer.dt: ",
    "model.layer=3": "model.layer: ",
    "~model.layer._target_": "wants a node with _target_ and _partial_ here",
    "model.dim=???": "model.dim: eigenzoo.models.ssm.SequenceModel needs a value here and it is missing",
    "trainer.precision=bf17": "or 'bf16-mixed' or",
    "trainer.callbacks=[]": "trainer.callbacks: is set by the harness; use the group callbacks",
    "trainer.enable_checkpointing=false": "last.ckpt and best.ckpt are always written",
    "task.model=3": "task.model: is given by the harness",
    "model._partial_=true": "model._partial_: must be left out",
    "optim._partial_=false": "optim._partial_: must be true",
    "model.layer._partial_=7": "model.layer._partial_: wants true or false, not 7",
    "model.layer._partial_=false": "model.layer.dim: eigenzoo.models.ssm.S4D needs this argument and it is missing",
    "model._args_=[1]": "model._args_: only _target_ and _partial_ are known words with an underscore",
    "model._recursive_=false": "model._recursive_: only",
    "model._target_=eigenzoo.models.ssm.SequenceModl": "did you mean 'SequenceModel'?",
    "model._target_=eigenzoo.modls.ssm.SequenceModel": "there is no 'eigenzoo.modls.ssm.SequenceModel'",
    "model._target_=foo.Bar": "add allow_targets=[foo] to the command line",
    "model._target_=7": "model._target_: 7 is not a dotted name",
    "callbacks.x.y=3": "callbacks.x: has values but no _target_; choose one with callbacks=NAME",
    "callbacks.x._target_=lightning.pytorch.callbacks.EarlyStopping": "callbacks.x.monitor: "
    "lightning.pytorch.callbacks.EarlyStopping needs this argument and it is missing",
    "logger.tensorbord.x=3": "logger.tensorbord: has values but no _target_",
    "~data": "data: has values but no _target_; choose one with data=NAME",
    "data.foo.bar=3": "data.foo: eigenzoo.data.Digits takes no such argument",
    "seed=-1": "seed: -1 is not a whole number from 0 to",
    "seed=x": "seed: wants a whole number, not 'x'",
    "seed=1.5": "seed: wants a whole number, not 1.5",
    "test_weights=bset": "test_weights: 'bset' is neither 'best' nor 'last'",
    "compile=sometimes": "compile: 'sometimes' is neither true, false nor a mode of torch.compile",
    "resume=maybe": "resume: wants true or false, not 'maybe'",
    "checkpoint_every_s=soon": "checkpoint_every_s: wants a number, not 'soon'",
    "checkpoint_every_s=-1": "checkpoint_every_s: -1.0 is negative",
    "run_dir=null": "run_dir: wants text, not None",
    "experiment_name=../x": "experiment_name: '../x' names a folder",
    "scales={smoke: 3}": "scales.smoke: 3 is not a mapping",
    "scales=3": "scales: 3 is not a mapping",
    "foo": "'foo': is not of the form key=value",
    "=3": "'=3': is not of the form key=value",
    "model.dim": "'model.dim': is not of the form key=value",
    "model.dim=[1": "'model.dim=[1': the value cannot be read",
    "model.dim=1,2": "model.dim: has several values; add -m for a sweep",
    "seed=1,2": "seed: has several values; add -m for a sweep",
    "data=digits,smnist": "data: has several values",
    "model.dim=${nope}": "model.dim: Interpolation key 'nope' not found",
    "model.dim=${oc.env:NOPE}": "Environment variable 'NOPE' not found",
    "~model.nothing": "model.nothing: cannot be removed, the config does not have it",
}


@pytest.mark.parametrize(("words", "sentence"), [
    (["experiment=s4d_digits", "data=listops_small"], "SequenceModel needs dim_in, and these data have vocabulary"),
    (["experiment=lra_listops", "data=digits", "scale=paper"], "TokenModel needs vocabulary, and these data have"),
])  # fmt: skip
def test_a_model_of_channels_on_tokens_and_the_other_way_round(words, sentence, capsys):
    code = guarded(lambda: build_on_meta(compose(words).config))
    said = capsys.readouterr().err
    assert code == 2 and sentence in said and "for tokens TokenModel" in said


HYDRA = (
    "Traceback",
    "hydra.cc",
    "HYDRA_FULL_ERROR",
    "Error merging",
    "raised while composing",
    "in struct",
    "object_type",
)


@pytest.mark.parametrize("word", FAULTS)
def test_a_fault_on_the_command_line(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["experiment=s4d_digits", "scale=smoke", *([word] if word else [])]
    code = guarded(lambda: check(compose(words).config))
    said = capsys.readouterr().err
    assert code == 2
    assert FAULTS[word] in said
    assert all(line.startswith("config: ") for line in said.splitlines())
    assert not any(phrase in said for phrase in HYDRA)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """Of the command line, of the root, of several nodes and of a file, together."""
    _write(
        tmp_path,
        "mine",
        "defaults:\n  - s4d_digits\n  - _self_\nsdee: 1\nrwo: x\nmodel: {layer: {state_dmi: 3}}\n",
    )
    words = [
        "experiment=mine",
        "sede=3",
        "trainer=cpuu",
        "trainer.max_epoch=3",
        "optim.lrr=1",
        "model.dim=x",
        "foo",
    ]
    with pytest.raises(ConfigError) as caught:
        check(compose(words, tmp_path).config)
    told = {fault.split(":")[0] for fault in caught.value.faults}
    assert told == {
        "sede", "trainer", "'foo'", "sdee", "rwo", "model.layer.state_dmi", "trainer.max_epoch", "optim.lrr",
        "model.dim"
    }  # fmt: skip


FILES = {
    "sede: 3": "sede: no such key at the root of the config; did you mean 'seed'?",
    "seed: x": "seed: wants a whole number, not 'x'",
    "seed: [1": "line",
    "model: {widht: 3}": "model.widht: ",
    "trainer: {max_epoch: 3}": "did you mean 'max_epochs'?",
    "trainer: 3": "trainer",
    "scales: {small: {sede: 3}}": "sede: no such key",
    "scales: {small: {model: {dmi: 3}}}": "model.dmi: ",
    "model: {dim: '${nope}'}": "model.dim: Interpolation key 'nope' not found",
    "data: {_target_: os.system, command: ls}": "data._target_: 'os.system' is not on the list",
    "allow_targets: [os]": "allow_targets: may only be given on the command line, but a config file sets it to ['os']",
    "scales: {small: {allow_targets: [os]}}": "allow_targets: may only be given on the command line",
    "experiment_name: ../../x": "experiment_name: ",
}


@pytest.mark.parametrize("content", FILES)
def test_a_fault_in_the_users_own_file(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path, "mine", f"defaults:\n  - s4d_digits\n  - _self_\n{content}\n")
    code = guarded(lambda: check(compose(["experiment=mine"], tmp_path).config))
    said = capsys.readouterr().err
    assert code == 2 and FILES[content] in said
    assert not any(phrase in said for phrase in HYDRA)


def test_a_scale_may_build_a_node_from_another_target(tmp_path: Path) -> None:
    """The arguments of the target that it takes the place of go with it; those of the same target are merged."""
    small = "{scheduler: {_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 5}}"
    content = f"defaults:\n  - s4d_digits\n  - _self_\nscheduler: {{warmup_epochs: 2}}\nscales: {{small: {small}}}\n"
    _write(tmp_path, "mine", content)
    config = compose(["experiment=mine"], tmp_path).config
    assert set(config["scheduler"]) == {"_target_", "_partial_", "step_size"}
    check(config)
    assert compose(["experiment=mine", "scale=paper"], tmp_path).config["scheduler"]["warmup_epochs"] == 2
    assert (
        compose(["experiment=mine", "scheduler.step_size=7"], tmp_path).config["scheduler"]["step_size"] == 7
    )


@pytest.mark.parametrize(
    "defaults, said",
    [
        (
            "override /data: digitz",
            "data: there is no 'digitz'; `eigenzoo list` shows all; did you mean 'digits'",
        ),
        (
            "override /dtaa: digits",
            "dtaa: no such key at the root of the config (in experiment/mine.yaml); did you mean",
        ),
        ("nothing_here", "experiment: there is no 'nothing_here'"),
    ],
)
def test_a_fault_in_a_defaults_list(defaults: str, said: str, tmp_path: Path) -> None:
    _write(tmp_path, "mine", f"defaults:\n  - {defaults}\n")
    with pytest.raises(ConfigError) as caught:
        compose(["experiment=mine"], tmp_path)
    assert said in str(caught.value)


def test_a_fault_is_told_without_torch_where_none_is_needed() -> None:
    """A group that does not exist is Hydra's matter; nothing is imported to say so."""
    import sys

    code = (
        "import sys; from eigenzoo.harness.compose import compose\n"
        "compose(['experiment=s4d_digits', 'model.dim=3'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_experiment_passes() -> None:
    from eigenzoo.harness.compose import options

    names = options("experiment")
    assert "s4d_digits" in names
    for name in names:
        check(compose([f"experiment={name}"]).config)


@pytest.mark.parametrize("trainer", ["auto", "cpu", "gpu", "ddp", "fsdp"])
@pytest.mark.parametrize("logger", ["none", "wandb", "tensorboard"])
def test_every_trainer_and_logger_composes(trainer: str, logger: str) -> None:
    check(compose([f"trainer={trainer}", f"logger={logger}", "trainer.precision=bf16-mixed"]).config)


HINTS = [
    (1, int, True), (True, int, False), (1.0, int, False), ("1", int, False), (None, int, False),
    (1, float, True), (1.5, float, True), (True, float, False), ("x", float, False),
    (True, bool, True), (1, bool, False), ("x", str, True), (1, str, False),
    (None, int | None, True), (None, Optional[float], True), ("x", Union[int, str], True),  # noqa: UP007, UP045
    ([1], int | str, False),
    ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False), (True, Literal[1], False),
    (None, Literal["a"] | None, True),
    ([1, 2], list[int], True), ([1, "a"], list[int], False), ("ab", Sequence[str], False), (3, Sequence[int], False),
    ([1, 2.5], tuple[float, float], True), ([1], tuple[float, float], False), ([1, 2, 3], tuple[int, ...], True),
    ([], list, True),
    ({"a": {"lr": 1}}, dict[str, dict[str, float]], True), ({"a": {"lr": "x"}}, dict[str, dict[str, float]], False),
    ({"a": 1}, Mapping[str, int], True), ([1], dict, False),
    (3, nn.Module, False), (None, nn.Module, False), (None, nn.Module | None, True),
    ({"_target_": "a.b"}, nn.Module, True),
    ({"_target_": "a.b"}, int, False), ({"a": 1}, nn.Module, False), (3, Callable[..., int], False),
    ("x", Path, True), (object(), Any, True),
]  # fmt: skip


@pytest.mark.parametrize("value, hint, good", HINTS)
def test_values_against_annotations(value: Any, hint: Any, good: bool) -> None:
    assert fits(value, hint) is good
    assert (mismatch(value, hint) is None) is good


def test_what_was_wanted_in_words() -> None:
    assert mismatch("x", int | None) == "a whole number or null"
    assert mismatch(3, Literal["a", "b"]) == "'a' or 'b'"
    assert mismatch(3, tuple[float, int]) == "[a number, a whole number]"
    assert mismatch(3, dict[str, list[bool]]) == "{name: [true or false, ...]}"


def test_values_take_the_type_that_was_asked_for() -> None:
    assert (
        isinstance(adapt(1, float), float)
        and isinstance(adapt(1, int), int)
        and isinstance(adapt(1, int | float), int)
    )
    assert isinstance(adapt(1, float | None), float) and adapt(None, float | None) is None
    assert adapt([1, 2], tuple[float, float]) == (1.0, 2.0) and isinstance(
        adapt([1, 2], tuple[float, ...])[0], float
    )
    assert isinstance(adapt({"a": {"lr": 1}}, dict[str, dict[str, float]])["a"]["lr"], float)
    assert adapt({"_target_": "x"}, float) == {"_target_": "x"}


def _write(folder: Path, name: str, content: str) -> None:
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{content}")


@pytest.mark.parametrize(
    ("words", "row"),
    [
        ([], "lin"),
        (["seed=3", "trainer=cpu", "logger=tensorboard", "run_dir=x", "trainer.devices=2"], "lin"),
        (["model.dim=8"], None),
        (["model.dim=8", "row=mine"], "mine"),
        (["++trainer.max_epochs=2"], None),
        (["data=smnist14"], None),
    ],
)
def test_a_changed_experiment_is_no_longer_a_row_of_its_table(words, row):
    assert compose(["experiment=s4d_digits", *words]).config["row"] == row
