"""docs/adding-a-paper.md does what it says: its files are laid into a copy of the project and its commands run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "adding-a-paper.md"


@pytest.mark.process
def test_the_page_can_be_followed(tmp_path):
    copy = tmp_path / "project"
    ignore = shutil.ignore_patterns("__pycache__", "*.jsonl")
    for folder in ("src", "configs", "tests/models"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for file in ("train.py", "pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / file, copy / file)
    line = [sys.executable, str(Path(__file__).with_name("page_walk.py")), str(PAGE), str(copy)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": "-p no:xdist"}
    done = subprocess.run(line, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert (
        done.stdout.count("walked: ")
        == PAGE.read_text().count("\neigenzoo ") + PAGE.read_text().count("\npython ") + 1
    )
    assert "ema_digits: ok" in done.stdout and "filter_digits: ok" in done.stdout
    assert "model.layer.state_dim: mine.layers.ShortFilter takes no such argument" in done.stderr
    lines = (copy / "runs/results/ema_digits.jsonl").read_text().splitlines()
    assert sorted((r["row"], r["seed"]) for r in map(json.loads, lines)) == [("ema 1", 0), ("ema 16", 0)]
    own = json.loads((copy / "elsewhere/runs/results/filter_digits.jsonl").read_text())
    assert (
        own["status"] == "main" and own["config"]["model"]["layer"]["_target_"] == "mine.layers.ShortFilter"
    )
