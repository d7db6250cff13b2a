"""`eigenzoo tune experiment=NAME trials=30`: search a space with Optuna, ask and tell; the study resumes.

The space stands in the config, and its keys are the words of a command line:

    tune:
      metric: val/accuracy
      higher_is_better: true
      fixed: {data.val_size: 200}    # for every trial; words of the command line come after it
      space:
        optim.lr: {low: 1.0e-4, high: 1.0e-1, log: true}     # a float; with `step` or whole bounds an integer
        model.depth: {low: 1, high: 4}
        model.init: {choices: [lin, inv, legs]}

Each trial is a run of its own (its own process and folder), so a trial that is killed resumes and a failing one counts
as failed. The study is an append-only journal in `<run_dir>/tune/<name>.journal`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .compose import compose, near
from .folder import storage
from .jobs import Job, run_jobs

KEYS = {"metric", "higher_is_better", "fixed", "space"}
RANGE = {"low", "high", "log", "step"}


def tune(
    words: Sequence[str], *, trials: int, study: str | None = None, folder: str | Path | None = None
) -> int:
    """Bring the study to `trials` finished trials and print the best; returns 0, or 1 if no trial succeeded.

    Raises ConfigError before the first trial, and Interrupted.
    """
    config = compose(words, folder).config
    space = config["tune"]
    check_space(space)
    name = study or config["experiment_name"]
    place = Path(config["run_dir"]) / "tune" / f"{name}.journal"
    found = _open(name, place, bool(space.get("higher_is_better", True)))
    _requeue(found)
    while (done := len(_finished(found))) < trials:
        # A new sampler for each trial, so that a search that was broken off draws what it would have drawn.
        found.sampler = _sampler(config["seed"] + done)
        print(f"trial {done + 1} of {trials} · {name}", flush=True)
        _one_trial(found, space, list(words), folder)
    return _report(found, place)


def _open(name: str, place: Path, maximise: bool) -> Any:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ModuleNotFoundError as error:
        raise ConfigError(
            "tune: needs Optuna, which is not installed: pip install 'eigenzoo[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with storage("the study", place):
        place.parent.mkdir(parents=True, exist_ok=True)
        journal = JournalStorage(JournalFileBackend(str(place)))
    direction = "maximize" if maximise else "minimize"
    return optuna.create_study(study_name=name, storage=journal, direction=direction, load_if_exists=True)


def _sampler(seed: int) -> Any:
    import optuna

    return optuna.samplers.TPESampler(seed=seed)


def check_space(node: Any) -> None:
    """Raise ConfigError with every fault of a `tune:` node."""
    if not isinstance(node, dict) or not isinstance(node.get("space"), dict) or not node["space"]:
        raise ConfigError(
            "tune: the experiment has no search space; it needs `tune: {metric: ..., space: {...}}`"
        )
    faults = [f"tune.{k}: no such key" + near(k, sorted(KEYS)) for k in node if k not in KEYS]
    metric = node.get("metric")
    if not isinstance(metric, str):
        faults.append(f"tune.metric: wants the name of a metric like val/accuracy, not {metric!r}")
    elif metric.startswith("test/"):
        faults.append(f"tune.metric: {metric} is of the test set, which must not choose; take one of val/...")
    if not isinstance(node.get("higher_is_better", True), bool):
        faults.append(f"tune.higher_is_better: wants true or false, not {node['higher_is_better']!r}")
    if not isinstance(node.get("fixed", {}), dict):
        faults.append(f"tune.fixed: wants keys with values, not {node['fixed']!r}")
    for key, choice in node["space"].items():
        faults += [f"tune.space.{key}: {fault}" for fault in _dimension_faults(choice)]
    if faults:
        raise ConfigError(*faults)


def _dimension_faults(node: Any) -> Iterator[str]:
    if isinstance(node, dict) and set(node) == {"choices"}:
        if not isinstance(node["choices"], list) or not node["choices"]:
            yield f"choices wants a list, not {node['choices']!r}"
        return
    if not isinstance(node, dict) or not {"low", "high"} <= set(node) <= RANGE:
        yield f"wants {{choices: [...]}} or {{low, high, log, step}}, not {node!r}"
        return
    ends = (node["low"], node["high"])
    if not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends):
        yield f"low and high want numbers, not {ends}"
    elif ends[0] > ends[1]:
        yield f"low={ends[0]} is above high={ends[1]}"
    elif node.get("log") and ends[0] <= 0:
        yield f"low={ends[0]} must be above 0 on a logarithmic scale"


def _finished(study: Any) -> list[Any]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))


def _requeue(study: Any) -> None:
    """A trial that was running when the search was killed is asked for again; its run resumes."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.enqueue_trial(trial.params, skip_if_exists=False)
        study.tell(trial.number, state=TrialState.PRUNED)


def _one_trial(study: Any, space: Mapping[str, Any], words: list[str], folder: str | Path | None) -> None:
    from optuna.trial import TrialState

    trial = study.ask()
    chosen = [f"{key}={_word(_suggest(trial, key, node))}" for key, node in space["space"].items()]
    # A trial is no run of the paper's row, whatever the experiment says.
    fixed = ["row=null", *(f"{key}={_word(value)}" for key, value in space.get("fixed", {}).items())]
    done = run_jobs([Job((*fixed, *words, *chosen), " ".join(chosen))], folder=folder)[0]
    value = (done.record or {}).get("metrics", {}).get(space["metric"])
    if done.record and space["metric"] not in done.record["metrics"]:
        study.tell(trial, state=TrialState.PRUNED)  # the run is good, the question was not
        raise ConfigError(
            f"tune.metric: the record has no '{space['metric']}'"
            + near(space["metric"], list(done.record["metrics"]))
        )
    study.tell(trial, value, state=None if value is not None else TrialState.FAIL)


def _word(value: Any) -> str:
    """A plain value as it is typed."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def _suggest(trial: Any, key: str, node: Mapping[str, Any]) -> Any:
    if "choices" in node:
        return trial.suggest_categorical(key, node["choices"])
    low, high, log, step = node["low"], node["high"], node.get("log", False), node.get("step")
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=log, step=step or 1)
    return trial.suggest_float(key, low, high, log=log, step=step)


def _report(study: Any, place: Path) -> int:
    from optuna.trial import TrialState

    good = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    failed = len(_finished(study)) - len(good)
    print(f"{len(good)} trials finished, {failed} failed · study {place}")
    if not good:
        return 1
    best = study.best_trial
    print(
        f"best {best.value:.4f} (trial {best.number}): "
        + " ".join(f"{k}={v}" for k, v in best.params.items())
    )
    return 0
