"""The root of every config: a closed set of keys, and where the config files lie.

A key that is not listed here is a fault, wherever it comes from. Everything below `data`, `model`, ...
is checked against the signature of its `_target_` (see `check.py`).
"""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

ROOT = "eigenzoo_root"


@dataclass
class Root:
    """The keys of a run. `None` for a group means that the experiment does not use it."""

    experiment_name: str = "unnamed"
    paper: str | None = None
    row: str | None = None
    seed: int = 0
    scale: str | None = None
    scales: dict[str, Any] = field(default_factory=dict)

    base: Any = field(default_factory=dict)  # the exported run that this one starts from, see base.py
    data: Any = None
    model: Any = None
    task: Any = None
    optim: Any = None
    scheduler: Any = None
    trainer: Any = None
    callbacks: Any = None
    logger: Any = None
    study: Any = None

    compile: Any = False  # False, True or a mode of torch.compile
    test_weights: str = "best"  # best (by the task's monitor) or last
    resume: bool = True  # an unfinished run with the same config goes on
    profile: bool = False  # a trace of a few steps, and the ten costliest operations
    checkpoint_every_s: float = 60.0  # seconds between checkpoints inside an epoch
    threads: int | None = None  # of the CPU, for one process; None: torch's own choice
    run_dir: str = "runs"
    results: str | None = None  # folder for the record line; None: <run_dir>/results
    allow_targets: list[str] = field(default_factory=list)  # only from the user's command line
    tune: Any = None  # search space of `eigenzoo tune`


NAMES = tuple(f.name for f in fields(Root))
# What does not change the numbers of a run (the threads: but for rounding) is not part of its identity.
NOT_IDENTITY = (
    "scales", "logger", "resume", "profile", "checkpoint_every_s", "threads", "run_dir", "results",
    "allow_targets", "tune",
)  # fmt: skip
TEXTS = ("experiment_name", "paper", "row", "scale", "run_dir", "results")
NODES = ("data", "model", "task", "optim", "scheduler", "trainer", "callbacks", "logger", "study")


def config_dir() -> Path:
    """Folder of the shipped configs: inside the installed package, else beside `src/` in a checkout."""
    inside = Path(__file__).resolve().parents[1] / "configs"
    return inside if inside.is_dir() else Path(__file__).resolve().parents[2] / "configs"


def register() -> None:
    """Make the root's defaults known to Hydra; may be called any number of times.

    As plain values: Hydra would stop at the first key that is not in a dataclass, the check names them all.
    """
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name=ROOT, node=asdict(Root()))
