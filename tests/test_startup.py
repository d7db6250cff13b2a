"""What answers without torch does so in a fresh interpreter: torch is made impossible to import there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eigenzoo.harness.entry import train_command

ROOT = Path(__file__).resolve().parents[1]
BAN = "import sys; sys.modules.update(torch=None, lightning=None, sklearn=None, datasets=None); "
CLI = "from eigenzoo.harness.cli import main; main({words!r})"
SHIM = "sys.argv = ['train.py', *{words!r}]; import runpy; runpy.run_path({path!r}, run_name='__main__')"


def answer(code: str, folder: Path) -> subprocess.CompletedProcess:
    line = [sys.executable, "-c", BAN + code]
    return subprocess.run(
        line, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )


@pytest.mark.process
@pytest.mark.parametrize(("words", "shown"), [
    (["list"], "s4d_digits"), (["show", "s4d"], "K_l"), (["table", "s4d_init"], "lsq lin"),
    (["--help"], "reproduce"), (["reproduce", "s4d_inti"], "did you mean"),
])  # fmt: skip
def test_eigenzoo(words, shown, tmp_path):
    done = answer(CLI.format(words=words), tmp_path)
    assert shown in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert done.returncode == (2 if "reproduce" in words else 0)


@pytest.mark.process
@pytest.mark.parametrize(("words", "shown"), [
    (["--help"], "submitit_slurm"), (["--cfg", "job", "seed=3"], "seed: 3"), (["--info", "plugins"], "Launcher"),
])  # fmt: skip
def test_train(words, shown, tmp_path):
    done = answer(SHIM.format(words=words, path=str(ROOT / "train.py")), tmp_path)
    assert done.returncode == 0 and shown in done.stdout, done.stderr


@pytest.mark.process
def test_a_finished_run_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["experiment=s4d_init_lsq", "study.state_dim=4"]
    assert train_command(words) == 0
    done = answer(SHIM.format(words=words, path=str(ROOT / "train.py")), tmp_path)
    assert done.returncode == 0 and "finished before" in done.stdout, done.stderr
    sweep = answer(SHIM.format(words=["-m", *words, "seed=0"], path=str(ROOT / "train.py")), tmp_path)
    assert sweep.returncode == 0 and "finished before" in sweep.stdout, sweep.stderr


@pytest.mark.process
def test_the_checkout_runs_uninstalled(tmp_path):
    """With the installed package out of reach, `train.py` finds the code beside it."""
    code = (
        f"sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]; import importlib.util as u; \
assert u.find_spec('eigenzoo') is None; {SHIM.format(words=['--cfg', 'job'], path=str(ROOT / 'train.py'))}"
    )
    done = answer(code, tmp_path)
    assert done.returncode == 0 and "experiment_name: s4d_digits" in done.stdout, done.stderr
