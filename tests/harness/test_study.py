"""Runs without training: recorded like the others, the same numbers each time."""

import json
from pathlib import Path

from command_lab import Children, ask

STUDY = "train experiment=s4d_init_lsq study.state_dim=4 study.dt_tau=[1.0]"


def test_a_study_is_recorded_once_and_deterministic(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first = ask(STUDY, capsys)
    assert first.code == 0, first.err
    assert "error/tau64_w8" in first.out and "0 steps" in first.out
    again = ask(STUDY, capsys)
    assert (
        "finished before" in again.out
        and len(Path("runs/results/s4d_init.jsonl").read_text().splitlines()) == 1
    )
    ask(STUDY + " run_dir=other", capsys)
    one, two = (json.loads(Path(f, "results/s4d_init.jsonl").read_text()) for f in ("runs", "other"))
    assert one["metrics"] == two["metrics"] and one["row"] is None
    assert one["params"] == {"total": 0, "trainable": 0} and one["weights"] is None


def test_a_study_in_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    children = Children(monkeypatch)
    answer = ask(f"train -m {STUDY.removeprefix('train ')} study.init=lin,real", capsys)
    assert answer.code == 0 and len(children.calls) == 2
    assert "study.init" in answer.out and "error/tau64_w8" in answer.out.split("\n\n")[-1]


def test_faults_of_a_study(capsys):
    answer = ask(f"{STUDY} study.inti=lin", capsys)
    assert answer.code == 2 and "DelayFit takes no such argument; did you mean 'init'" in answer.err
