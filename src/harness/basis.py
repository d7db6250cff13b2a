"""`eigenzoo basis num_classes=1000 dim=100 out=FILE`: equiangular basis vectors into a file, made once, with a bar.

The file is what `model.head=equiangular model.head.vectors=FILE` reads: a safetensors file with the tensor `vectors`,
(num_classes, dim) in float32, and as metadata how it was made and what was reached.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import ConfigError
from .words import near_or_all

WORDS = ("num_classes", "dim", "method", "alpha", "seed", "steps", "device", "out", "force")


def basis(words: Mapping[str, str], console: Console | None = None) -> int:
    """Makes the vectors, writes them and prints the report.

    `words`: `num_classes`, `dim` and `out`, the file, are needed; `method` (auto, hinge, logsumexp, orthonormal,
    random), `alpha` (a number or auto), `seed`, `steps`, `device` (cpu, cuda) and `force=true`, without which a file
    that is there stays.

    Raises:
        ConfigError: a word out of range, an `out` that is there, vectors that have merged.
        StorageError: the file cannot be written.
    """
    from ..ops.equiangular import equiangular_vectors, welch_bound

    console = console or Console(highlight=False, soft_wrap=True)
    options, out = _options(words), _out(words)
    try:
        bound = welch_bound(options["count"], options["dim"])
        with _bar(console, bound) as progress, warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_, **__: console.print(f"note: {message}")
            made = equiangular_vectors(**options, progress=progress)
    except ValueError as error:
        raise ConfigError(f"basis: {error}") from error
    _write(out, made, options)
    _print(console, made.report, out)
    return 0


class _bar:
    """A bar with the largest |cos| that has been reached beside the bound; within it, a callback of three numbers."""

    def __init__(self, console: Console, bound: float):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        text = TextColumn("max |cos| {task.fields[reached]:.4f}, Welch bound {task.fields[bound]:.4f}")
        self.progress = Progress(
            BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn(), console=console, transient=True
        )
        self.task = self.progress.add_task("basis", total=None, reached=1.0, bound=bound)

    def __enter__(self) -> Any:
        self.progress.start()
        return lambda done, total, reached: self.progress.update(
            self.task, completed=done, total=total, reached=reached
        )

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


def _options(words: Mapping[str, str]) -> dict[str, Any]:
    """The words as arguments of the generator."""
    for word in words:
        if word not in WORDS:
            raise ConfigError(f"{word}: no such word" + near_or_all(word, WORDS))
    for word in ("num_classes", "dim", "out"):
        if word not in words:
            raise ConfigError(f"{word}: is needed, as in num_classes=1000 dim=100 out=basis.safetensors")
    options: dict[str, Any] = {
        "count": _whole(words, "num_classes", 2),
        "dim": _whole(words, "dim", 1),
        "method": words.get("method", "auto"),
        "alpha": _alpha(words.get("alpha", "auto")),
        "seed": _whole(words, "seed", 0) if "seed" in words else 0,
        "device": _device(words.get("device", "cpu")),
    }
    return options | ({"steps": _whole(words, "steps", 1)} if "steps" in words else {})


def _whole(words: Mapping[str, str], name: str, least: int) -> int:
    text = words[name]
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{name}={text}: not a whole number of at least {least}")
    return int(text)


def _alpha(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"alpha={text}: neither 'auto' nor a number") from None


def _device(name: str) -> str:
    import torch

    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device={name}: cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: there is no such device here")
    return name


def _out(words: Mapping[str, str]) -> Path:
    out, force = Path(words["out"]).expanduser(), words.get("force", "false").lower()
    if force not in ("true", "false"):
        raise ConfigError(f"force={words['force']}: neither true nor false")
    if out.is_dir():
        raise ConfigError(f"out={out}: is a folder; name a file")
    if out.exists() and force == "false":
        raise ConfigError(f"out={out}: is there already; force=true writes another in its place")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"out={out}: there is no folder {out.parent}")
    return out


def _write(out: Path, made: Any, options: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    from .folder import atomic, storage

    report = made.report
    facts = {
        "count": options["count"], "dim": options["dim"], "method": report.method, "seed": options["seed"],
        "alpha": report.alpha, "steps": report.steps, "max_cosine": report.max_cosine,
        "mean_cosine": report.mean_cosine, "welch": report.welch,
    }  # fmt: skip
    tensors = {"vectors": made.vectors.float().cpu().contiguous()}
    with storage("the basis vectors", out), atomic(out) as file:
        file.write(save(tensors, metadata={key: str(value) for key, value in facts.items()}))


def _print(console: Console, report: Any, out: Path) -> None:
    ratio = f" ({report.max_cosine / report.welch:.3f} x the bound)" if report.welch else ""
    console.print(f"method       {report.method}, {report.steps} steps")
    console.print(f"max |cos|    {report.max_cosine:.4f}{ratio}")
    console.print(f"Welch bound  {report.welch:.4f}")
    console.print(f"mean |cos|   {report.mean_cosine:.4f}")
    if not report.converged and report.method in ("hinge", "logsumexp"):
        console.print(f"note: alpha = {report.alpha:.4f} was not reached; more steps, or a larger alpha")
    console.print(f"written: {out}    (model.head=equiangular model.head.vectors={out})")
