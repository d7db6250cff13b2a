"""Two processes give the curve of one, one folder, one record, and resume exactly."""

from pathlib import Path

import pytest
from lab import assert_same_end, go, log, place, toy
from test_process import start, wait_for_step

import eigenzoo.harness.run as run_module
import eigenzoo.harness.store as store
import eigenzoo.harness.training as training
from eigenzoo.harness.run import Outcome

# 45 = 4 whole batches of 10 and one of 5, which does not divide by 2.
# Batch norm is the harder case: its statistics must be those of both processes' samples together.
WORDS = ("data.count=45", "model.block.dropout=0", "model.block.norm=batch")
DDP = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")


@pytest.fixture(autouse=True)
def _no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_leave", lambda *args: None)
    monkeypatch.setattr(run_module, "changes", lambda composed: {})


def finish(words: list[str]) -> Outcome:
    """Run to the end in processes of its own; what is left in the folder."""
    process = start(words)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    folder = place(words)
    record = run_module.read_json(folder / "record.json")
    assert record is not None
    return Outcome(record, folder, fresh=True)


@pytest.mark.process
def test_two_processes_have_the_curve_of_one(tmp_path: Path) -> None:
    one, _ = go(toy(tmp_path / "one", *WORDS))
    two = finish(toy(tmp_path / "two", *WORDS, *DDP))
    mine, theirs = log(one.folder), log(two.folder)
    assert [row["step"] for row in mine] == [row["step"] for row in theirs] and len(mine) > 15
    for a, b in zip(mine, theirs, strict=True):
        assert a.keys() == b.keys()
        assert all(abs(a[k] - b[k]) < 1e-5 for k in a), (a, b)
    assert two.record["metrics"] == pytest.approx(one.record["metrics"], abs=1e-5)
    assert two.record["steps"] == one.record["steps"] and "2 processes" in two.record["device"]
    assert len(store.read([tmp_path / "two" / "results"])) == 1
    assert len([p for p in (tmp_path / "two").iterdir() if p.name.startswith("s4d_digits-")]) == 1


@pytest.mark.process
@pytest.mark.slow
def test_two_processes_resume_exactly(tmp_path: Path) -> None:
    """With dropout: each process has its own noise, and has it again after a kill in the middle of an epoch."""
    words = ("data.count=405", "trainer.max_epochs=4", *DDP)
    whole = finish(toy(tmp_path / "whole", *words))
    killed = toy(tmp_path / "killed", *words)
    process = start(killed)
    wait_for_step(place(killed), 60, process)
    process.kill()
    process.communicate()
    assert_same_end(whole, finish(killed))
