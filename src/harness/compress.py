"""`eigenzoo compress RUN method=lord ratio=0.5`: a finished run with low-rank layers, tested before and after."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .words import near_or_all

WORDS = ("method", "ratio", "targets", "exclude", "per_layer", "samples", "rule", "eps", "out")
OPTIONS = {
    "maestro": {"ratio"},
    "magnitude": {"ratio", "rule", "eps"},
    "other": {"ratio", "targets", "exclude", "per_layer", "samples"},
}
REPORT = "compression.json"


def compress(source: str, words: Mapping[str, str]) -> int:
    """Compresses the model of an exported run and writes the result as another exported run.

    `words`: `method` (svd, fwsvd, lord, ...; maestro for a model of ordered ranks; magnitude for zeros in place of low
    rank) and `ratio`, the share of the layers' parameters that stays; `targets` and `exclude`, patterns of layers;
    `per_layer` (uniform or energy); `samples` of the training part that calibrate; `rule` and `eps` of magnitude;
    `out`, the folder, by default beside the run.

    Raises:
        ConfigError: a word out of range, a model that the method cannot compress.
        DataError: no such run.
    """
    from ..models.compression import METHODS
    from ..models.compression.maestro import Maestro
    from .reopen import reopen, without_adapters

    method, options = words.get("method", ""), _options(words)
    if method not in (known := [*METHODS, "maestro", "magnitude"]):
        raise ConfigError(
            f"method: {method!r} is none; there are {', '.join(known)}{near_or_all(method, known)}"
        )
    for key in options.keys() - OPTIONS.get(method, OPTIONS["other"]):
        raise ConfigError(f"{key}: is no word of method {method}")
    run = without_adapters(reopen(source))
    out = Path(words.get("out") or f"{run.folder}-{method}-{options['ratio']:g}")
    if out.resolve() == run.folder.resolve():
        raise ConfigError(f"out={out}: is the folder of the run itself, which stays as it is; name another")
    if method != "magnitude" and (method == "maestro") != isinstance(run.model, Maestro):
        raise ConfigError(
            f"method: {method} does not fit this run: maestro is for models trained with ordered ranks "
            "(experiment=maestro_lenet), and only maestro is for these"
        )
    before, slow = _timed(lambda: run.evaluate(run.model))
    try:
        made, node, model = _made(run, method, options)
    except ValueError as error:
        raise ConfigError(f"{method}: {error}") from error
    after, fast = _timed(lambda: run.evaluate(made.model))
    facts = {
        "run": str(run.folder), "method": method, **options, "ratio_reached": made.ratio,
        "parameters": [made.before, made.after], "before": before, "after": after, "seconds": [slow, fast],
    }  # fmt: skip
    _write(run, node, model, out, facts, made)
    _print(made, facts, out)
    return 0


def _made(run: Any, method: str, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any], Any]:
    """What became of the model, and the node and module to export."""
    from ..tasks.compress_run import compress_ordered, compress_run, exported, prune_run

    dense = run.config["model"]
    if method == "magnitude":
        made = prune_run(run.model, **options)
        return made, dense, made.model
    if method == "maestro":
        made = compress_ordered(run.model, options["ratio"])
        return made, *exported(dense["base"], made)
    made = compress_run(run.task, run.data, method=method, **options)
    return made, *exported(dense, made)


def _write(run: Any, node: dict[str, Any], model: Any, out: Path, facts: dict[str, Any], made: Any) -> None:
    from ..tasks.compress_run import layer_table
    from .export import export
    from .folder import RunFolder

    with RunFolder(out) as folder:
        export(model.cpu(), {**run.config, "model": node}, folder.path, _probe_inputs(run))
        folder.write_json(REPORT, {**facts, "layers": layer_table(made)})


def _options(words: Mapping[str, str]) -> dict[str, Any]:
    """The words in their own types."""
    if "ratio" not in words:
        raise ConfigError("ratio: say what share of the layers' parameters stays, as ratio=0.5")
    options: dict[str, Any] = {"ratio": _number(words, "ratio")}
    if not 0 < options["ratio"] <= 1:
        raise ConfigError(f"ratio={words['ratio']}: must lie in (0, 1]")
    for key in ("targets", "exclude"):
        if key in words:
            options[key] = words[key].strip("[]").split(",")
    for key in ("per_layer", "rule"):
        if key in words:
            options[key] = words[key]
    if "eps" in words:
        options["eps"] = _number(words, "eps")
    if "samples" in words:
        if not words["samples"].isdigit() or not int(words["samples"]):
            raise ConfigError(f"samples={words['samples']}: not a whole number of at least 1")
        options["samples"] = int(words["samples"])
    return options


def _number(words: Mapping[str, str], key: str) -> float:
    try:
        return float(words[key])
    except ValueError:
        raise ConfigError(f"{key}={words[key]}: not a number") from None


def _probe_inputs(run: Any) -> tuple[Any, ...]:
    loader = run.data.test_dataloader() if run.data.counts.get("test") else run.data.val_dataloader()
    batch = {k: t[:4].cpu() if t.ndim else t for k, t in next(iter(loader)).items()}
    return run.task.inputs_of(batch)


def _timed(call: Any) -> tuple[Any, float]:
    begin = time.monotonic()
    return call(), round(time.monotonic() - begin, 3)


def _print(made: Any, facts: Mapping[str, Any], out: Path) -> None:
    from ..tasks.compress_run import layer_table
    from .listing import aligned

    print(aligned([{**row, "discarded": f"{row['discarded']:.4f}"} for row in layer_table(made)]))
    share = f"{made.ratio:.3f} of the parameters of the layers above"
    print(f"\nparameters {made.before:,} -> {made.after:,} ({share})")
    before, after = facts["before"], facts["after"]
    for name in before:
        now = f"{after[name]:.4f}" if name in after else "not of the compressed model"
        print(f"{name:<18} {before[name]:.4f} -> {now}")
    print(f"tested in          {facts['seconds'][0]:.2f} s -> {facts['seconds'][1]:.2f} s")
    print(f"written: {out}    (eigenzoo.load('{out}'))")
