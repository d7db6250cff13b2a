"""The command line as a process: exit codes, signals, a real kill, two at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import assert_same_end, go, place, toy

import eigenzoo.harness.run as run_module
import eigenzoo.harness.training as training
from eigenzoo.errors import StorageError
from eigenzoo.harness.run import Outcome

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
# Slow enough to be killed in the middle, quick enough to be waited for.
LONG = ("data.count=400", "trainer.max_epochs=5", "data.batch_size=10")


def start(words: list[str]) -> subprocess.Popen[str]:
    """The command line in a process of its own, which finds `lab`; its output goes into a pipe."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(ROOT / "train.py"), *words],
        cwd=HERE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until the run has logged `step`."""
    log = folder / "metrics.jsonl"
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) > step:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run did not get to step {step}: {process.communicate()[0]}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_leave", lambda *args: None)
        patch.setattr(run_module, "changes", lambda composed: {})
        return go(toy(tmp_path_factory.mktemp("whole"), *LONG))[0]


@pytest.mark.process
def test_killed_and_told_to_stop_at_any_moment(
    whole: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9, then SIGTERM while another process wants the same run, then to the end: bit-equal."""
    words = toy(tmp_path, *LONG)
    folder = place(words)
    process = start(words)
    wait_for_step(folder, 30, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    process = start(words)
    wait_for_step(folder, 60, process)
    with pytest.raises(StorageError, match=f"is in use by process {process.pid} on "):
        go(words)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 143
    assert "SIGTERM at step" in said and "the same command goes on from there" in said and "resumed" in said
    assert "Traceback" not in said
    assert json.loads((folder / "state.json").read_text())["status"] == "Interrupted"

    monkeypatch.setattr(training, "_leave", lambda *args: None)
    assert_same_end(whole, go(words)[0])


@pytest.mark.process
@pytest.mark.slow
def test_sigusr1_is_sigterm(whole: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = toy(tmp_path, *LONG)
    process = start(words)
    wait_for_step(place(words), 40, process)
    process.send_signal(signal.SIGUSR1)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and "SIGUSR1 at step" in said
    monkeypatch.setattr(training, "_leave", lambda *args: None)
    assert_same_end(whole, go(words)[0])


@pytest.mark.process
def test_faults_end_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    process = start(["experiment=s4d_digits", "trainer.max_epoch=3", "sede=1", f"run_dir={tmp_path}"])
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 2 and "Traceback" not in said
    assert [line.split(":")[1].strip() for line in said.splitlines()] == ["sede", "trainer.max_epoch"]
    assert list(tmp_path.iterdir()) == []
