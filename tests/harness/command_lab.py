"""The command line called in this process, with stand-ins for its child processes and for training."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from rich.console import Console

from eigenzoo.harness import jobs, training
from eigenzoo.harness.cli import run_command
from eigenzoo.harness.compose import compose
from eigenzoo.harness.entry import guarded, train_command
from eigenzoo.harness.folder import RunFolder
from eigenzoo.harness.identity import run_id
from eigenzoo.harness.record import make_record, now
from eigenzoo.harness.run import run

# 5 steps of a model with 4 channels.
FAST = {
    "data": {"batch_size": 300},
    "model": {"dim": 4, "depth": 1, "layer": {"state_dim": 4}},
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
}


class Answer(NamedTuple):
    """What a command line answered."""

    code: int
    out: str
    err: str


def ask(words: str | Sequence[str], capsys: Any) -> Answer:
    """`eigenzoo <words>`; words with spaces are given as a list."""
    capsys.readouterr()
    parts = words.split() if isinstance(words, str) else list(words)
    code = train_command(parts[1:]) if parts[:1] == ["train"] else run_command(parts)
    return Answer(code, *capsys.readouterr())


def no_training(composed: Any, folder: RunFolder, console: Any, pretrained: Any = None) -> dict[str, Any]:
    """In place of training: a record whose accuracy and validation loss are functions of the config."""
    config = composed.config
    metrics = {"test/accuracy": 0.9 + config["seed"] / 100, "val/loss": abs(config["optim"]["lr"] - 0.01)}
    facts = {"weights": "last", "steps": 5, "epochs": 1, "wall_s": 0.1, "s_per_step": 0.02, "peak_mb": None}
    facts |= {"params": {"total": 1, "trainable": 1}, "data": [], "started": now(), "finished": now()}
    return make_record(config, run_id(config), metrics, **facts)


class Children:
    """Stands in for the child processes: `train.py` lines are run here, without training; keeps the words of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[list[str]] = []
        self.codes: dict[int, int] = {}
        self.env: list[dict[str, str] | None] = []
        self._one_at_a_time = threading.Lock()  # Hydra's composition is global
        children = self

        def call(of: Any, line: Sequence[str], output: Path | None = None, env: Any = None) -> int:
            children.env.append(env)
            with children._one_at_a_time:
                return children.call(of, list(line), output)

        monkeypatch.setattr(jobs.Children, "call", call)
        monkeypatch.setattr(training, "train", no_training)

    def call(self, of: jobs.Children, line: list[str], output: Path | None) -> int:
        """One child; ends with `codes[number]` instead of running if that is set (143: as stopped by a signal)."""
        words = line[line.index("-m") + 2 :] if "-m" in line else line[2:]
        self.calls.append(words)
        if code := self.codes.get(len(self.calls) - 1):
            if code == 143:
                of.stop()
            return code
        folder = None
        if words[0] == "--config-dir":
            folder, words = words[1], words[2:]
        if output:
            output.parent.mkdir(parents=True, exist_ok=True)
        with open(output or os.devnull, "a") as sink:
            return guarded(lambda: run(compose(words, folder), Console(file=sink)) and None)


def config_folder(root: Path, **files: Any) -> Path:
    """A folder of configs: `experiment__name={...}` becomes `experiment/name.yaml`."""
    for name, content in files.items():
        path = root / (name.replace("__", "/") + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        head = "# @package _global_\n" if name.startswith("experiment") else ""
        path.write_text(head + yaml.safe_dump(content, sort_keys=False))
    return root
