"""`eigenzoo basis`: the file, what is printed, and wrong words."""

import io

import pytest
import torch
from rich.console import Console
from safetensors import safe_open

from eigenzoo.errors import ConfigError
from eigenzoo.harness.basis import basis
from eigenzoo.models.heads.equiangular import EquiangularHead
from eigenzoo.ops.equiangular import equiangular_vectors, max_cosine, welch_bound


def ask(words):
    text = io.StringIO()
    console = Console(file=text, width=200, highlight=False)
    code = basis(dict(word.split("=") for word in words.split()), console)
    return code, text.getvalue()


def test_the_file_holds_what_was_printed_and_a_head_reads_it(tmp_path):
    out = tmp_path / "basis.safetensors"
    code, printed = ask(f"num_classes=30 dim=10 steps=200 seed=2 out={out}")
    with safe_open(out, "pt") as file:
        facts, vectors = file.metadata(), file.get_tensor("vectors")
    assert code == 0 and list(tmp_path.iterdir()) == [out]
    assert torch.equal(vectors, equiangular_vectors(30, 10, steps=200, seed=2).vectors.float())
    assert facts["method"] == "logsumexp" and (facts["count"], facts["dim"], facts["seed"]) == (
        "30",
        "10",
        "2",
    )
    assert float(facts["max_cosine"]) == pytest.approx(max_cosine(vectors), abs=1e-6)
    assert float(facts["welch"]) == welch_bound(30, 10)
    assert f"max |cos|    {max_cosine(vectors):.4f} (" in printed and "logsumexp, 200 steps" in printed
    assert f"Welch bound  {welch_bound(30, 10):.4f}" in printed and f"written: {out}" in printed
    head = EquiangularHead(16, 30, basis_dim=10, vectors=str(out))
    assert torch.allclose(head.vectors, vectors, atol=1e-7)


def test_a_file_that_is_there_stays_unless_told_otherwise(tmp_path):
    out = tmp_path / "basis.safetensors"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="is there already; force=true"):
        ask(f"num_classes=4 dim=4 out={out}")
    assert out.read_text() == "mine"
    assert ask(f"num_classes=4 dim=4 force=true out={out}")[0] == 0
    with safe_open(out, "pt") as file:
        assert file.get_tensor("vectors").shape == (4, 4)


def test_an_alpha_that_no_set_reaches_is_told(tmp_path):
    _, printed = ask(f"num_classes=20 dim=8 alpha=0.05 steps=50 out={tmp_path / 'a'}")
    assert "note: alpha=0.05 is below the Welch bound" in printed
    assert "alpha = 0.0500 was not reached" in printed


@pytest.mark.parametrize(("words", "sentence"), [
    ("dim=4 out=a", "num_classes: is needed"),
    ("num_classes=4 dim=4", "out: is needed"),
    ("num_classes=one dim=4 out=a", "num_classes=one: not a whole number of at least 2"),
    ("num_classes=4 dim=0 out=a", "dim=0: not a whole number of at least 1"),
    ("num_classes=8 dim=4 alpha=2 out=a", "basis: alpha=2.0: must be 'auto' or lie in"),
    ("num_classes=8 dim=4 alpha=low out=a", "alpha=low: neither 'auto' nor a number"),
    ("num_classes=8 dim=4 method=hing out=a", "basis: method is 'hing'"),
    ("num_classes=8 dim=4 method=orthonormal out=a", "count=8: more than dim=4"),
    ("num_classes=8 dim=4 seeds=1 out=a", "seeds: no such word; did you mean 'seed'?"),
    ("num_classes=8 dim=4 device=tpu out=a", "device=tpu: cpu or cuda"),
    ("num_classes=8 dim=4 force=yes out=a", "force=yes: neither true nor false"),
    ("num_classes=8 dim=4 out=.", "is a folder"),
    ("num_classes=8 dim=4 out=none/a", "there is no folder none"),
])  # fmt: skip
def test_wrong_words(tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        ask(words)
    assert sentence in str(error.value) and error.value.exit_code == 2
    assert not list(tmp_path.iterdir())
