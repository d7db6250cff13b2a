"""`eigenzoo reproduce`: what is missing is run, once, and the table stands at the end."""

import json
from pathlib import Path

import pytest
from command_lab import FAST, Children, ask, config_folder

from eigenzoo.errors import ConfigError
from eigenzoo.harness import paper as papers
from eigenzoo.harness.reproduce import load_paper, row_names

METRIC = {"name": "test/accuracy", "label": "accuracy", "unit": "%", "factor": 100, "digits": 1}
ROWS = [
    {"name": "lin", "experiment": "small_digits", "overrides": ["model.init=lin"]},
    {"name": "lin, it's a 'b'", "experiment": "small_digits", "overrides": ["model.init=inv"]},
]
PAPER = {
    "title": "A paper", "slug": "made", "table": "a table", "metrics": [METRIC], "seeds": [0, 1], "rows": ROWS,
    "claims": [{"name": "a bar", "kind": "value", "of": ["lin"], "at_least": 0, "scale": "small"}],
}  # fmt: skip
STUDY = {
    "title": "A paper", "slug": "made", "table": "fits", "seeds": [0],
    "metrics": [{"name": "error/tau64_w8", "digits": 3, "higher_is_better": False}],
    "rows": [{"name": n, "experiment": "s4d_init_lsq", "overrides": [f"study.init={n}", "study.state_dim=4"]}
             for n in ("lin", "real")],
}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a paper of two quick rows, in a working folder of its own without records."""
    monkeypatch.chdir(tmp_path)
    small = {"defaults": ["s4d_digits", "_self_"], "experiment_name": "small_digits", "row": None, **FAST,
             "callbacks": None, "scales": {"small": {}}}  # fmt: skip
    return config_folder(
        tmp_path / "own", experiment__small_digits=small, paper__made=PAPER, paper__fits=STUDY
    )


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    return Children(monkeypatch)


def records(folder: str = "runs/results") -> list[tuple[str, int]]:
    lines = Path(folder, "made.jsonl").read_text().splitlines()
    return sorted((r["row"], r["seed"]) for r in map(json.loads, lines))


def test_runs_what_is_missing_and_prints_the_table(own, children, capsys):
    first = ask(f"reproduce made --config-dir {own}", capsys)
    assert first.code == 0, first.err
    assert "made · scale small · 4 runs missing" in first.out
    assert [f"run {k} of 4" in first.out for k in range(1, 6)] == [True] * 4 + [False]
    assert "left" in first.out.split("run 2 of 4")[1].splitlines()[0]
    assert "left" not in first.out.split("run 1 of 4")[1].splitlines()[0]
    assert "(2)" in first.out and "PASS" in first.out
    assert records() == [("lin", 0), ("lin", 1), ("lin, it's a 'b'", 0), ("lin, it's a 'b'", 1)]
    again = ask(f"reproduce made --config-dir {own}", capsys)
    assert again.code == 0 and "0 runs missing" in again.out and len(children.calls) == 4
    table = ask(f"table made --config-dir {own} --format json", capsys)
    assert json.loads(table.out)["claims"][0]["verdict"] == "PASS"


def test_stopped_it_goes_on_with_the_rest(own, children, capsys):
    children.codes[1] = 143
    stopped = ask(f"reproduce made --config-dir {own}", capsys)
    assert stopped.code == 143 and "the same command goes on" in stopped.err
    assert len(children.calls) == 2 and records() == [("lin", 0)]
    assert "3 runs missing" in (rest := ask(f"reproduce made --config-dir {own}", capsys)).out
    assert rest.code == 0 and len(children.calls) == 5 and len(records()) == 4


def test_a_failing_run_is_told_and_the_others_go_on(own, children, capsys):
    children.codes[0] = 3
    answer = ask(f"reproduce made --config-dir {own} seeds=0", capsys)
    assert answer.code == 1 and records() == [("lin, it's a 'b'", 0)]
    assert "failed with exit code 3 · lin · seed 0" in answer.out
    assert answer.out.rstrip().endswith("failed with exit code 3: lin · seed 0")


def test_seeds_rows_results_and_more_words(own, children, capsys):
    words = [f"--config-dir={own}", "seeds=5", "rows=lin, it's a 'b'", "results=kept", "optim.lr=0.02"]
    answer = ask(["reproduce", "made", *words], capsys)
    assert answer.code == 0, answer.err
    assert records("kept") == [("lin, it's a 'b'", 5)] and not Path("runs/results").exists()
    assert children.calls[0][-2:] == ["optim.lr=0.02", "results=kept"]


def test_rerun_does_not_count_what_there_is(own, children, capsys):
    ask(f"reproduce made --config-dir {own} seeds=0 rows=lin", capsys)
    again = ask(f"reproduce made --config-dir {own} seeds=0 rows=lin rerun=true", capsys)
    assert again.code == 0 and len(children.calls) == 2 and records("runs/rerun/results") == [("lin", 0)]


def test_side_by_side(own, children, capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    answer = ask(f"reproduce made --config-dir {own} seeds=0 jobs=2", capsys)
    assert answer.code == 0 and len(records()) == 2
    assert sorted(p.name for p in Path("runs/logs/made").glob("*.log")) == ["1.log", "2.log"]
    assert all(env is not None and int(env["OMP_NUM_THREADS"]) >= 1 for env in children.env)


def test_studies_need_no_process(own, children, capsys):
    answer = ask(f"reproduce fits --config-dir {own} scale=small", capsys)
    assert answer.code == 0, answer.err
    assert children.calls == [] and "run 2 of 2 · real · seed 0" in answer.out


def test_a_broken_row_is_told_before_anything_runs(own, children, capsys):
    bad = {**PAPER, "rows": [ROWS[0], {**ROWS[1], "overrides": ["modle.init=inv"]}]}
    config_folder(own, paper__made=bad)
    answer = ask(f"reproduce made --config-dir {own}", capsys)
    assert answer.code == 2 and children.calls == []
    assert "lin, it's a 'b' · seed 0: modle.init: no such key" in answer.err and "'model'" in answer.err


@pytest.mark.parametrize(("words", "sentence"), [
    ("reproduce s4d_inti", "did you mean 's4d_init'"),
    ("reproduce s4d_init rows=lni", "s4d_init has no row 'lni'"),
    ("reproduce s4d_init scale=smal", "there is no scale 'smal'"),
    ("reproduce s4d_init seed=1", "use seeds=0,1"),
    ("reproduce s4d_init row=x", "row: is given by the table"),
    ("reproduce s4d_init seeds=a", "seeds=a: not a whole number"),
    ("reproduce s4d_init jobs=0", "jobs=0: not a whole number of at least 1"),
    ("reproduce s4d_init rerun=maybe", "rerun=maybe: neither true nor false"),
    ("reproduce s4d_init small", "'small' is not of the form key=value"),
    ("reproduce s4d_init sacle=small", "did you mean 'scale'"),
    ("reproduce s4d_init --config-dir nowhere", "--config-dir: there is no folder nowhere"),
])  # fmt: skip
def test_wrong_words(words, sentence, children, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = ask(words, capsys)
    assert answer.code == 2 and sentence in answer.err and children.calls == []


def test_rows_may_hold_commas():
    found = papers.load("s4d_init")
    for row in found.rows:
        assert row_names(row.name, found) == [row.name]
    everything = [row.name for row in found.rows]
    assert row_names(",".join(everything), found) == everything
    assert row_names("lin,inv , lin, Im x 0.1", found) == ["lin", "inv", "lin, Im x 0.1"]
    with pytest.raises(ConfigError, match="no row 'Im'"):
        row_names("lin, Im", found)


def test_an_own_folder_without_the_paper_takes_the_shipped_one(tmp_path):
    assert load_paper("s4d_init", tmp_path).name == "s4d_init"


@pytest.mark.process
@pytest.mark.slow
def test_a_row_in_a_process_of_its_own(own, capfd):
    answer = ask(f"reproduce made --config-dir {own} seeds=0 rows=lin", capfd)
    assert answer.code == 0 and records() == [("lin", 0)]
