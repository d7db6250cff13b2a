"""`eigenzoo tune`: a search that goes on where it was, and counts what fails."""

import sys
from pathlib import Path

import pytest
from command_lab import FAST, Children, ask, config_folder

from eigenzoo.errors import ConfigError
from eigenzoo.harness.tune import check_space

SPACE = {
    "optim.lr": {"low": 1e-3, "high": 0.1, "log": True},
    "model.depth": {"low": 1, "high": 3},
    "model.layer.bidirectional": {"choices": [True, False]},
}
TUNE = {"metric": "val/loss", "higher_is_better": False, "fixed": {"model.dim": 8}, "space": SPACE}


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Children:
    """Runs without training, in a folder of their own, with an experiment `quick` whose best lr is 0.01."""
    monkeypatch.chdir(tmp_path)
    quick = {"defaults": ["s4d_init", "_self_"], "experiment_name": "quick", **FAST, "tune": TUNE}
    config_folder(tmp_path / "own", experiment__quick=quick)
    return Children(monkeypatch)


def search(capsys, words: str = "", trials: int = 3):
    return ask(f"tune experiment=quick trials={trials} --config-dir own {words}", capsys)


def chosen(call: list[str], key: str) -> str:
    return next(word.partition("=")[2] for word in reversed(call) if word.partition("=")[0] == key)


def test_searches_the_space_and_names_the_best(children, capsys):
    answer = search(capsys, "study=mine", trials=4)
    assert answer.code == 0, answer.err
    assert "trial 4 of 4 · mine" in answer.out and "4 trials finished, 0 failed" in answer.out
    rates = [float(chosen(call, "optim.lr")) for call in children.calls]
    assert len(set(rates)) == 4 and all(1e-3 <= rate <= 0.1 for rate in rates)
    assert {chosen(call, "model.depth") for call in children.calls} <= {"1", "2", "3"}
    assert {chosen(call, "model.layer.bidirectional") for call in children.calls} <= {"true", "false"}
    assert all("model.dim=8" in call and "row=null" in call for call in children.calls)
    best = min(rates, key=lambda rate: abs(rate - 0.01))
    assert f"optim.lr={best}" in answer.out.splitlines()[-1]


def test_goes_on_and_draws_what_it_would_have_drawn(children, capsys, tmp_path):
    search(capsys, trials=2)
    search(capsys, trials=3)
    assert len(children.calls) == 3
    search(capsys, "run_dir=whole", trials=3)
    once, twice = children.calls[3:], children.calls[:3]
    assert [chosen(c, "optim.lr") for c in once] == [chosen(c, "optim.lr") for c in twice]
    assert "3 trials finished" in search(capsys, trials=3).out and len(children.calls) == 6


def test_a_trial_that_was_stopped_is_asked_for_again(children, capsys):
    children.codes[1] = 143
    assert search(capsys).code == 143
    assert search(capsys).code == 0
    assert len(children.calls) == 4 and children.calls[2] == children.calls[1]


def test_a_failing_trial_is_counted_and_the_search_goes_on(children, capsys):
    children.codes[0] = 3
    answer = search(capsys)
    assert answer.code == 0 and "2 trials finished, 1 failed" in answer.out and len(children.calls) == 3


def test_nothing_but_failures_is_a_failure(children, capsys):
    children.codes = {0: 3, 1: 1}
    assert search(capsys, trials=2).code == 1


def test_a_metric_that_the_record_does_not_have(children, capsys):
    answer = search(capsys, "tune.metric=val/los")
    assert (
        answer.code == 2
        and "no 'val/los'; did you mean 'val/loss'" in answer.err
        and len(children.calls) == 1
    )
    assert search(capsys).code == 0 and len(children.calls) == 3, "the run that was made counts"


def test_an_unknown_key_of_the_space_stops_the_search(children, capsys):
    answer = search(capsys, "tune.space.modle={choices:[1]}")
    assert answer.code == 2 and "modle: no such key" in answer.err and children.calls == []


def test_without_optuna(children, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    answer = search(capsys)
    assert answer.code == 2 and "pip install 'eigenzoo[tune]'" in answer.err


@pytest.mark.parametrize(("words", "sentence"), [
    ("trials=0", "trials=0: not a whole number of at least 1"),
    ("experiment=s4d_digist", "did you mean 's4d_digits'"),
    ("experiment=s4d_init", "the experiment has no search space"),
])  # fmt: skip
def test_wrong_words(words, sentence, children, capsys):
    answer = ask(f"tune {words}", capsys)
    assert answer.code == 2 and sentence in answer.err


@pytest.mark.parametrize(("change", "sentence"), [
    ({"metrik": 1}, "tune.metrik: no such key; did you mean 'metric'"),
    ({"metric": None}, "tune.metric: wants the name of a metric"),
    ({"metric": "test/accuracy"}, "of the test set, which must not choose"),
    ({"higher_is_better": "yes"}, "tune.higher_is_better: wants true or false"),
    ({"fixed": [1]}, "tune.fixed: wants keys with values"),
    ({"space": {}}, "no search space"),
    ({"space": {"optim.lr": {"low": 1}}}, "tune.space.optim.lr: wants {choices"),
    ({"space": {"optim.lr": {"low": 1, "high": 2, "lgo": True}}}, "tune.space.optim.lr: wants {choices"),
    ({"space": {"optim.lr": {"low": 2, "high": 1}}}, "low=2 is above high=1"),
    ({"space": {"optim.lr": {"low": "a", "high": 1}}}, "low and high want numbers"),
    ({"space": {"optim.lr": {"low": 0, "high": 1, "log": True}}}, "must be above 0 on a logarithmic scale"),
    ({"space": {"optim.lr": {"choices": []}}}, "choices wants a list"),
])  # fmt: skip
def test_faults_of_a_space(change, sentence):
    check_space(TUNE)
    with pytest.raises(ConfigError, match="tune") as caught:
        check_space({**TUNE, **change})
    assert sentence in str(caught.value)


def test_the_shipped_spaces_are_sound():
    import yaml

    from eigenzoo.harness.schema import config_dir

    nodes = [
        yaml.safe_load(path.read_text()).get("tune") for path in (config_dir() / "experiment").glob("*.yaml")
    ]
    assert any(nodes)
    for node in filter(None, nodes):
        check_space(node)
