"""Benchmarks of a fast form beside a plain one or a peer: `python scripts/bench.py s4d [--device cuda]`.

Times are medians of interleaved repetitions of forward and backward. Lines go to results/bench/<name>.jsonl.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    "adapters",
    "bessel",
    "egnn",
    "fno",
    "gaunt",
    "grassmann",
    "pde",
    "pissa",
    "s4",
    "s4d",
    "s5",
    "spectral",
)


def main() -> None:
    """Run one benchmark by name and append its lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="short lengths and few repetitions")
    parser.add_argument("--compile", action="store_true", help="the compiled forms too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    report = Report(options.name, options.device)
    importlib.import_module(f"bench_{options.name}").run(report, options)


class Report:
    """Prints cases as they come and appends them to the benchmark's file."""

    def __init__(self, name: str, device: str):
        self.path = ROOT / "results" / "bench" / f"{name}.jsonl"
        self.common = {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "commit": _commit(),
        }
        self.name = name

    def add(self, **fields: Any) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"bench": self.name, **fields, **self.common, "time": stamp}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in fields.items()))


def _commit() -> str | None:
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else None


if __name__ == "__main__":
    main()
