"""Shared fixtures: small runs in a temporary folder, and one thread per process."""

import logging
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_places(tmp_path_factory, monkeypatch) -> None:
    """No test reads or writes the user's cache, or the records of the checkout."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("EIGENZOO_CACHE", str(base / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture(autouse=True)
def _own_log_handlers():
    """A handler that a test leaves on the root logger would write into the next test's closed stream."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = [h for h in root.handlers if h in handlers]
    root.setLevel(level)
