"""The `train` command line: what it asks for, and how it ends."""

import os
import sys
from pathlib import Path

import pytest
import yaml
from command_lab import ask

from eigenzoo import errors
from eigenzoo.harness.compose import compose
from eigenzoo.harness.entry import guarded, use_folder


def test_help_names_the_groups_and_what_is_in_them(capsys):
    answer = ask("train --help", capsys)
    assert answer.code == 0
    for word in ("experiment", "s4d_digits", "submitit_slurm", "allow_targets", "143"):
        assert word in answer.out


def test_cfg_prints_yaml_that_can_be_read_and_runs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = ask("train experiment=s4d_digits scale=smoke model.dim=5 --cfg job", capsys)
    shown = yaml.safe_load(answer.out)
    assert answer.code == 0 and shown["model"]["dim"] == 5 and shown["trainer"]["max_epochs"] == 1
    assert "scales" not in shown and not list(tmp_path.iterdir())


def test_options_may_stand_anywhere(capsys, tmp_path):
    answer = ask(f"train --cfg job experiment=s4d_digits --config-dir {tmp_path} seed=4", capsys)
    assert answer.code == 0 and yaml.safe_load(answer.out)["seed"] == 4


@pytest.mark.parametrize(("words", "sentence"), [
    ("seed=0,1", "has several values; add -m for a sweep"),
    ("model.init", "'model.init': is not of the form key=value"),
    ("experiment=s4d_digist", "did you mean 's4d_digits'"),
    ("--config-dir nowhere", "--config-dir: there is no folder"),
    ("sede=3", "did you mean 'seed'"),
])  # fmt: skip
def test_wrong_words(words, sentence, capsys):
    answer = ask(f"train {words}", capsys)
    assert answer.code == 2 and sentence in answer.err and answer.err.startswith("config: ")


def test_hydra_s_own_flags_are_handed_on(capsys, monkeypatch):
    argv = list(sys.argv)
    assert ask("train --info plugins", capsys).code == 0
    assert sys.argv == argv


@pytest.mark.parametrize(("error", "code", "text"), [
    (errors.ConfigError("a: b", "c: d"), 2, "config: a: b\nconfig: c: d\n"),
    (errors.DataError("no data"), 2, "error: no data\n"),
    (errors.NonFiniteError("nan"), 3, "error: nan\n"),
    (errors.StorageError("full"), 4, "error: full\n"),
    (errors.Interrupted("stopped"), 143, "stopped\n"),
    (KeyboardInterrupt(), 130, "stopped by the keyboard; the same command goes on from the last checkpoint\n"),
])  # fmt: skip
def test_exit_codes(error, code, text, capsys):
    def action() -> None:
        raise error

    assert guarded(action) == code and capsys.readouterr().err == text


def test_a_fault_in_code_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)


def test_own_code_is_found_only_where_it_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    configs = tmp_path / "deep" / "configs"
    configs.mkdir(parents=True)
    before = list(sys.path)
    use_folder(compose(["experiment=s4d_digits"], configs))
    assert sys.path == before
    use_folder(compose(["experiment=s4d_digits", "allow_targets=[mine]"], configs))
    assert [Path(p) for p in sys.path[len(before) :]] == [tmp_path, configs.parent]
    assert os.getcwd() == str(tmp_path)
