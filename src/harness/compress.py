"""`eigenzoo compress RUN method=lord ratio=0.5`: a finished run with low-rank layers, tested before and after."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .words import near_or_all

WORDS = ("method", "ratio", "targets", "exclude", "per_layer", "samples", "out")
REPORT = "compression.json"


def compress(source: str, words: Mapping[str, str]) -> int:
    """Compresses the model of an exported run and writes the result as another exported run.

    `words`: `method` (svd, fwsvd, lord, ... or maestro, for a model of ordered ranks) and `ratio`, the share of the
    layers' parameters that stays; `targets` and `exclude`, patterns of layers; `per_layer` (uniform or energy);
    `samples` of the training part that calibrate; `out`, the folder, by default beside the run.

    Raises:
        ConfigError: a word out of range, a model that the method cannot compress.
        DataError: no such run.
    """
    import torch

    from ..models.compression import METHODS
    from ..models.compression.maestro import Maestro
    from ..tasks.compress_run import compress_ordered, compress_run, exported, layer_table
    from .export import export
    from .folder import RunFolder
    from .reopen import reopen

    method = words.get("method", "")
    if method not in (known := [*METHODS, "maestro"]):
        raise ConfigError(
            f"method: {method!r} is none; there are {', '.join(known)}{near_or_all(method, known)}"
        )
    options = _options(words)
    run = reopen(source)
    if (method == "maestro") != isinstance(run.model, Maestro):
        raise ConfigError(
            f"method: {method} does not fit this run: maestro is for models trained with ordered ranks "
            "(experiment=maestro_lenet), and only maestro is for these"
        )
    before, slow = _timed(lambda: run.evaluate(run.model))
    try:
        if method == "maestro":
            made = compress_ordered(run.model, options["ratio"])
        else:
            made = compress_run(run.task, run.data, method=method, **options)
    except ValueError as error:
        raise ConfigError(f"{method}: {error}") from error
    after, fast = _timed(lambda: run.evaluate(made.model))
    dense = run.config["model"]
    node, model = exported(dense["base"] if method == "maestro" else dense, made)
    out = Path(words.get("out") or f"{run.folder}-{method}-{options['ratio']:g}")
    inputs = _probe_inputs(run)
    with RunFolder(out) as folder, torch.no_grad():
        export(model.cpu(), {**run.config, "model": node}, folder.path, inputs)
        folder.write_json(REPORT, {
            "run": str(run.folder), "method": method, **options, "ratio_reached": made.ratio,
            "parameters": [made.before, made.after], "before": before, "after": after, "seconds": [slow, fast],
            "layers": layer_table(made),
        })  # fmt: skip
    _print(made, layer_table(made), before, after, out)
    return 0


def _options(words: Mapping[str, str]) -> dict[str, Any]:
    """The words in their own types."""
    if "ratio" not in words:
        raise ConfigError("ratio: say what share of the layers' parameters stays, as ratio=0.5")
    try:
        options: dict[str, Any] = {"ratio": float(words["ratio"])}
    except ValueError:
        raise ConfigError(f"ratio={words['ratio']}: not a number") from None
    if not 0 < options["ratio"] <= 1:
        raise ConfigError(f"ratio={words['ratio']}: must lie in (0, 1]")
    for key in ("targets", "exclude"):
        if key in words:
            options[key] = words[key].strip("[]").split(",")
    if "per_layer" in words:
        options["per_layer"] = words["per_layer"]
    if "samples" in words:
        if not words["samples"].isdigit() or not int(words["samples"]):
            raise ConfigError(f"samples={words['samples']}: not a whole number of at least 1")
        options["samples"] = int(words["samples"])
    return options


def _probe_inputs(run: Any) -> tuple[Any, ...]:
    loader = run.data.test_dataloader() if run.data.counts.get("test") else run.data.val_dataloader()
    batch = {k: t[:4].cpu() if t.ndim else t for k, t in next(iter(loader)).items()}
    return run.task.inputs_of(batch)


def _timed(call: Any) -> tuple[Any, float]:
    begin = time.monotonic()
    return call(), round(time.monotonic() - begin, 3)


def _print(made: Any, rows: list[dict[str, Any]], before: Mapping, after: Mapping, out: Path) -> None:
    from .listing import aligned

    print(aligned([{**row, "discarded": f"{row['discarded']:.4f}"} for row in rows]))
    share = f"{made.ratio:.3f} of the parameters of the layers above"
    print(f"\nparameters {made.before:,} -> {made.after:,} ({share})")
    for name in before:
        print(f"{name:<18} {before[name]:.4f} -> {after.get(name, float('nan')):.4f}")
    print(f"written: {out}    (eigenzoo.load('{out}'))")
