"""The `eigenzoo` command: what each subcommand answers, and what wrong words get."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_lab import ask, config_folder
from made_records import record

import eigenzoo
from eigenzoo.harness import cli

COMMANDS = ("list", "show", "check", "reproduce", "table", "tune", "data", "push")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_help_names_every_command(words, capsys):
    answer = ask(words, capsys)
    assert answer.code == 0 and all(f"eigenzoo {name}" in answer.out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name, capsys):
    answer = ask(f"{name} --help", capsys)
    assert answer.code == 0 and f"usage: eigenzoo {name}" in answer.out


def test_version(capsys):
    assert ask("--version", capsys).out == f"eigenzoo {eigenzoo.__version__}\n"


def test_list_everything(capsys):
    answer = ask("list", capsys)
    assert answer.code == 0
    for word in ("models\n", "experiments\n", "papers\n", "data\n", "s4d_digits", "smnist14", "2206.11893"):
        assert word in answer.out


def test_list_one_kind_by_pattern(capsys):
    answer = ask(["list", "experiments", "*digits"], capsys)
    assert answer.code == 0 and "s4d_digits" in answer.out and "s4d_scifar" not in answer.out


def test_list_and_show_what_is_in_a_folder_of_one_s_own(capsys, tmp_path):
    own = config_folder(tmp_path / "own", experiment__mine={"defaults": ["s4d_digits", "_self_"]})
    assert "mine" in ask(f"list experiments --config-dir {own}", capsys).out
    assert "experiment mine" in ask(f"show mine --config-dir {own}", capsys).out


@pytest.mark.parametrize(("name", "words"), [
    ("s4d", "K_l"), ("s4d_digits", "python train.py experiment=s4d_digits"), ("s4d_init", "2206.11893"),
    ("digits", "scikit-learn"),
])  # fmt: skip
def test_show(name, words, capsys):
    answer = ask(f"show {name}", capsys)
    assert answer.code == 0 and words in answer.out


@pytest.mark.parametrize("form", ["text", "md", "csv", "latex", "json"])
def test_table_in_every_format(form, capsys, tmp_path):
    from eigenzoo.harness import store

    store.append(record(paper="s4d_init", row="lin", metrics={"test/accuracy": 0.5}), tmp_path / "kept")
    answer = ask(f"table s4d_init --format {form} --results kept", capsys)
    assert answer.code == 0 and "lin" in answer.out and "50" in answer.out


def test_data(capsys):
    assert "digits" in ask("data", capsys).out
    assert "scikit-learn" in ask("data verify digits", capsys).out
    missing = ask("data where sc35", capsys)
    assert missing.code == 2 and "EIGENZOO_DATA" in missing.err


@pytest.mark.parametrize(("words", "sentence"), [
    ("reprodcue s4d_init", "there is no command 'reprodcue'; did you mean 'reproduce'?"),
    ("xyz", "there is train, list"),
    ("list modles", "there is no kind 'modles'"),
    ("list models zzz", "no models match 'zzz'"),
    ("show s4d_digist", "did you mean 's4d_digits'"),
    ("show", "the following arguments are required: name"),
    ("table s4d_inti", "did you mean 's4d_init'"),
    ("table s4d_init --format tex", "invalid choice: 'tex'"),
    ("table s4d_init --scale big", "invalid choice: 'big'"),
    ("table", "the following arguments are required: paper"),
    ("data fetch", "which set?"),
    ("data fetch cifra", "cifra"),
    ("data eat", "invalid choice: 'eat'"),
    ("reproduce", "the following arguments are required: paper"),
    ("push nowhere me/mine", "nowhere"),
    ("push nowhere", "the following arguments are required: repo"),
    ("check s4d_digist", "did you mean 's4d_digits'"),
    ("list --config-dir nowhere", "--config-dir: there is no folder nowhere"),
])  # fmt: skip
def test_wrong_words(words, sentence, capsys):
    answer = ask(words, capsys)
    assert answer.code == 2 and sentence in answer.err and "Traceback" not in answer.err


def test_a_reader_that_goes_away_is_no_fault():
    line = [sys.executable, "-c", "from eigenzoo.harness.cli import main; main(['show', 's4d'])"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(line, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 0 and done.stderr == ""


def test_main_leaves_with_the_code(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["nothing"])
    assert end.value.code == 2


def test_push_uploads(monkeypatch, capsys):
    from eigenzoo.harness import export

    seen = []
    monkeypatch.setattr(export, "push", lambda *a, **k: seen.append((a, k)) or "https://hub/me/mine")
    assert ask("push run me/mine --private", capsys).out == "https://hub/me/mine\n"
    assert seen == [((Path("run"), "me/mine"), {"private": True})]
