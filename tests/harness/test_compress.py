"""`eigenzoo compress` and `eigenzoo analyse` on the model that ships with the package."""

import json
from pathlib import Path

import pytest
from command_lab import ask

import eigenzoo
from eigenzoo.harness import zoo


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", ["method=svd ratio=0.8", "method=magnitude ratio=0.8 rule=uniform"])
def test_a_compressed_run_is_tested_and_loads(here, capsys, words):
    answer = ask(f"compress s4d_digits {words} out=small", capsys)
    assert answer.code == 0, answer.err
    assert "parameters 26,122 -> " in answer.out and "test/accuracy      0.9889 -> 0.9" in answer.out
    report = json.loads(Path("small/compression.json").read_text())
    assert 0.6 < report["ratio_reached"] <= 0.8 and report["after"]["test/accuracy"] > 0.9
    assert {"layer", "rank", "before", "after", "discarded"} <= set(report["layers"][0])
    assert sum(p.count_nonzero().item() for p in eigenzoo.load("small").parameters()) < 26122
    again = ask("compress small method=svd ratio=0.9 out=smaller", capsys)
    assert again.code == 0, again.err


def test_the_folder_of_a_compressed_run_is_not_written_where_nothing_was_made(here, capsys):
    assert ask("compress s4d_digits method=svd ratio=0.5 targets=nothing out=small", capsys).code == 2
    assert not Path("small").exists()


def test_a_run_is_not_overwritten_by_what_is_made_of_it(here, capsys):
    (here / "mine").symlink_to(zoo.SHIPPED / "s4d_digits")
    answer = ask("compress s4d_digits method=svd ratio=0.5 out=mine", capsys)
    assert answer.code == 2 and "is the folder of the run itself" in answer.err


@pytest.mark.parametrize(("words", "sentence"), [
    ("s4d_digits method=svt ratio=0.5", "method: 'svt' is none; there are svd,"),
    ("s4d_digits method=svd", "ratio: say what share"),
    ("s4d_digits method=svd ratio=0", "ratio=0: must lie in (0, 1]"),
    ("s4d_digits method=svd ratio=half", "ratio=half: not a number"),
    ("s4d_digits method=svd ratio=0.5 samples=-1", "samples=-1: not a whole number"),
    ("s4d_digits method=svd ratio=0.5 eps=0.1", "eps: is no word of method svd"),
    ("s4d_digits method=svd ratio=0.5 rato=1", "'rato=1': no such word; did you mean 'ratio'?"),
    ("s4d_digits method=maestro ratio=0.5", "maestro is for models trained with ordered ranks"),
    ("s4d_digits method=svd ratio=0.5 targets=decodr", "no module matches 'decodr'; near names are decoder"),
    ("s4d_digist method=svd ratio=0.5", "cannot load 's4d_digist'"),
])  # fmt: skip
def test_wrong_words(here, capsys, words, sentence):
    answer = ask(f"compress {words}", capsys)
    assert answer.code == 2 and sentence in answer.err, answer.err


def test_the_spectra_of_a_model_as_a_table_and_a_figure(here, capsys):
    answer = ask("analyse s4d_digits --out found", capsys)
    assert answer.code == 0, answer.err
    assert "alpha (FARMS)" in answer.out and "blocks.0.mix" in answer.out
    assert Path("found/spectra.png").read_bytes().startswith(b"\x89PNG")
    assert Path("found/spectra.csv").read_text().startswith("layer,kind,shape")
    assert "did you mean 'median'" in ask("analyse s4d_digits --rule medan", capsys).err
    assert ask("analyse nothing", capsys).code == 2


def test_a_model_of_ordered_ranks_is_measured_as_what_it_stands_for(here, capsys, monkeypatch):
    from eigenzoo.harness import zoo
    from eigenzoo.models.compression import LeNet5, Maestro

    monkeypatch.setattr(zoo, "load", lambda source: Maestro(LeNet5(side=20), layers=["fc1", "fc2"]))
    answer = ask("analyse anything --out found", capsys)
    assert answer.code == 0 and "fc1" in answer.out and "conv1" in answer.out
