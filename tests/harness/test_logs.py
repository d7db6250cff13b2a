"""What a run writes and shows: lines, CSV, loggers, progress, profile, precision."""

import csv
import io
import json
from pathlib import Path
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
from lab import go, log, place, toy
from rich.console import Console

import eigenzoo.harness.run as run_module
import eigenzoo.harness.training as training
from eigenzoo.harness.folder import atomic, read_json, write_text
from eigenzoo.harness.logs import RunLog, read_log
from eigenzoo.harness.progress import Progress, banner
from eigenzoo.harness.words import duration


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_leave", lambda *args: None)
    monkeypatch.setattr(run_module, "changes", lambda composed: {})


def test_a_whole_run_leaves_its_files_and_says_what_came_out(tmp_path: Path) -> None:
    done, printed = go(toy(tmp_path, "seed=5"))
    have = {p.name for p in done.folder.iterdir()}
    assert have >= {
        "config.yaml", "state.json", "lock", "metrics.jsonl", "metrics.csv", "last.ckpt", "previous.ckpt", "best.ckpt",
        "figures", "model.safetensors", "README.md", "record.json",
    }  # fmt: skip
    assert json.loads((done.folder / "state.json").read_text())["status"] == "finished"
    for line in (
        "parameters",
        "data        train 40 · val 12 · test 12",
        "device",
        "steps       12",
        "folder",
        "changed",
    ):
        assert line in printed
    assert f"run folder: {done.folder}" in printed and "test/accuracy" in printed
    assert done.record["steps"] == 12 and done.record["epochs"] == 3 and done.record["seed"] == 5
    assert done.record["weights"] == "best" and done.record["config"]["seed"] == 5
    rows = list(csv.DictReader(io.StringIO((done.folder / "metrics.csv").read_text())))
    assert (
        len(rows) == len(log(done.folder))
        and float(rows[0]["train/loss"]) == log(done.folder)[0]["train/loss"]
    )


def test_every_step_is_logged_once_with_its_rate(tmp_path: Path, bare: None) -> None:
    done, _ = go(toy(tmp_path))
    rows = [r for r in log(done.folder) if "train/loss" in r]
    assert [r["step"] for r in rows] == list(range(12))
    # Linear warm-up over the first epoch of 4 steps, then half a cosine; the second group is the SSM's.
    assert [r["lr"] for r in rows[:4]] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rows[-1]["lr"] < rows[5]["lr"] and rows[0]["lr/1"] == pytest.approx(rows[0]["lr"] / 2)


def test_rewinding_drops_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    text = "".join(json.dumps({"step": s, "x": s}) + "\n" for s in range(5))
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 5, "x"')
    assert [r["step"] for r in read_log(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    RunLog(tmp_path).rewind(3)
    assert [r["step"] for r in read_log(tmp_path / "metrics.jsonl")] == [0, 1, 2]


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    line = RunLog(tmp_path)
    line.log_metrics({"a": float("nan"), "b": 1.0, "epoch": 3.0}, step=4)
    line.log_metrics({"epoch": 3.0}, step=5)
    assert read_log(tmp_path / "metrics.jsonl") == [{"step": 4, "a": None, "b": 1.0}]


def test_an_atomic_file_is_the_old_one_until_it_is_complete(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(RuntimeError), atomic(tmp_path / "x") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "x").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x"]
    assert read_json(tmp_path / "absent") is None


@pytest.mark.parametrize(
    "seconds, text",
    [(0.0, "0 s"), (0.042, "0.042 s"), (51.2, "51 s"),
    (-3.0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185.0, "3 min 05 s"),
    (7620.0, "2 h 07 min"), (273600.0, "3 d 04 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_banner_says_what_is_frozen_and_where_it_goes_on() -> None:
    text = banner(
        title="t", changes={"model.dim": 3}, parameters=(1000, 400), counts={"train": 7, "val": 0}, device="d",
        steps=10, estimate_s=65.0, folder="f", resumed=4,
    )  # fmt: skip
    assert "1,000 (400 trainable)" in text and "train 7" in text and "val" not in text
    assert "10, about 1 min 05 s" in text and "model.dim = 3" in text and "resumed     at step 4" in text


def test_plain_lines_where_there_is_no_terminal(
    tmp_path: Path, bare: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eigenzoo.harness.progress.PLAIN_EVERY_S", 0.0)
    _, printed = go(toy(tmp_path))
    lines = [line for line in printed.splitlines() if line.startswith("epoch ")]
    assert lines[0].startswith("epoch 1/3 · step 1/12 · ") and " left" in lines[0]
    assert any("best val/accuracy" in line for line in lines[5:])


def test_a_moving_line_on_a_terminal(tmp_path: Path, bare: None) -> None:
    from lab import composed

    from eigenzoo.harness.run import run

    text = io.StringIO()
    run(composed(toy(tmp_path)), Console(file=text, force_terminal=True, width=120))
    assert "test/accuracy" in text.getvalue()


def test_time_left_is_that_of_the_whole_run() -> None:
    trainer = Mock(
        spec=pl.Trainer, estimated_stepping_batches=100, global_step=30, current_epoch=0, max_epochs=4
    )
    progress = Progress("m")
    progress._started, progress._first = 0.0, 10
    line = progress.line(trainer, Mock(terms={}), 40.0)
    # 20 steps in 40 s; 70 are left.
    assert "2.0 s/step" in line and line.endswith("2 min 20 s left")


def test_tensorboard_gets_the_same_numbers(tmp_path: Path, bare: None) -> None:
    pytest.importorskip("tensorboard")
    done, _ = go(toy(tmp_path, "logger=tensorboard", "trainer.max_epochs=1"))
    assert list(done.folder.rglob("events.out.tfevents*"))


@pytest.mark.slow
def test_wandb_writes_offline(tmp_path: Path, bare: None) -> None:
    done, _ = go(toy(tmp_path, "logger=wandb", "trainer.max_epochs=1"))
    assert list(done.folder.rglob("offline-run-*")), "no offline run"
    assert any(done.record["id"] in p.name for p in done.folder.rglob("offline-run-*"))


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_run(tmp_path: Path, bare: None, precision: str) -> None:
    done, _ = go(toy(tmp_path, f"trainer.precision={precision}", "trainer.max_steps=2", "test_weights=last"))
    assert done.record["steps"] == 2 and done.record["metrics"]["test/loss"] > 0


def test_a_profile_names_the_costliest_operations(tmp_path: Path, bare: None) -> None:
    words = toy(tmp_path, "debug=profile", "data.count=300", "checkpoint_every_s=0")
    done, printed = go([w for w in words if not w.startswith("test_weights")])
    assert "profile of 20 steps" in printed and "for data" in printed
    costs = [float(line.split("%")[0]) for line in printed.splitlines() if "% " in line and " x  " in line]
    assert len(costs) == 10 and costs == sorted(costs, reverse=True)
    assert json.loads((done.folder / "profile" / "trace.json").read_text())["traceEvents"]


def test_overfitting_brings_the_loss_near_zero(tmp_path: Path, bare: None) -> None:
    kept = ("trainer.max_epochs", "test_weights", "model.dim", "model.layer", "model.block.dropout")
    words = [w for w in toy(tmp_path, "debug=overfit", "checkpoint_every_s=0") if not w.startswith(kept)]
    done, _ = go([*words, "model.block.dropout=0", "model.dim=16", "optim.lr=0.02"])
    rows = [r for r in log(done.folder) if "train/loss" in r]
    assert len(rows) == 200 and rows[-1]["train/loss"] < 0.2 and rows[0]["train/loss"] > 0.6


def test_a_run_in_another_place_is_another_folder(tmp_path: Path) -> None:
    assert place(toy(tmp_path / "a")).parent == tmp_path / "a"
