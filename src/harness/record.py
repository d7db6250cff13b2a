"""The record of a finished run: one JSON line with everything that is needed to judge and to repeat it."""

import datetime
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("eigenzoo", "torch", "lightning", "hydra-core", "numpy", "scipy", "torchmetrics", "datasets")


def now() -> str:
    """The time in UTC, to the second, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def make_record(
    config: Mapping[str, Any], run_id: str, metrics: Mapping[str, float], **facts: Any
) -> dict[str, Any]:
    """The record of one run; `facts` are steps, epochs, times, parameters, data and which weights were tested."""
    plain = {
        k: v for k, v in config.items() if k not in ("scales", "allow_targets", "run_dir", "results", "tune")
    }
    return {
        "id": run_id,
        "experiment": config["experiment_name"],
        "paper": config["paper"],
        "row": config["row"],
        "seed": config["seed"],
        "scale": config["scale"],
        "status": "main",
        "metrics": dict(metrics),
        **facts,
        "config": plain,
        "git": git_state(),
        "versions": versions(),
        "device": device_name(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any]:
    """Commit of the checkout that this code lies in and whether it was changed; None outside of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    commit = _git(root, "rev-parse", "HEAD")
    # Only what can change a number: a new record line or a page of documentation cannot.
    changed = _git(root, "status", "--porcelain", "--", "src", "configs", "train.py", "constraints.txt")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def device_name(device: torch.device | None = None) -> str:
    """The GPU's name, or the processor's with the number of threads."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()} ({torch.get_num_threads()} threads)"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_mb(device: torch.device) -> float:
    """Peak memory of this process: on the GPU what torch allocated, otherwise resident, in MB (10^6 bytes)."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
