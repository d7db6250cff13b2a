"""`eigenzoo tune experiment=NAME trials=30`: search a space with Optuna, ask and tell; the study resumes.

The space stands in the config, and its keys are the words of a command line:

    tune:
      metric: val/accuracy
      higher_is_better: true
      space:
        optim.lr: {low: 1.0e-4, high: 1.0e-1, log: true}     # a float; with `step` or whole bounds an integer
        model.depth: {low: 1, high: 4}
        model.init: {choices: [lin, inv, legs]}

Each trial is a run of its own (its own process and folder), so a trial that is killed resumes and a failing one counts
as failed. The study is an append-only journal in `<run_dir>/tune/<name>.journal`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .compose import compose, near
from .identity import flatten
from .jobs import Job, run_jobs

KEYS = {"metric", "higher_is_better", "space"}
RANGE = {"low", "high", "log", "step"}


def tune(words: Sequence[str], *, trials: int, study: str | None = None, folder: str | None = None) -> int:
    """Bring the study to `trials` finished trials and print the best; returns 0, or 1 if no trial succeeded."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    config = compose(words, folder).config
    space = config["tune"]
    check_space(space, config)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = study or config["experiment_name"]
    place = Path(config["run_dir"]) / "tune" / f"{name}.journal"
    place.parent.mkdir(parents=True, exist_ok=True)
    direction = "maximize" if space.get("higher_is_better", True) else "minimize"
    found = optuna.create_study(
        study_name=name, storage=JournalStorage(JournalFileBackend(str(place))), direction=direction,
        load_if_exists=True, sampler=optuna.samplers.TPESampler(seed=config["seed"]),
    )  # fmt: skip
    _requeue(found)
    while (done := len(_finished(found))) < trials:
        print(f"trial {done + 1} of {trials} · {name}", flush=True)
        _one_trial(found, space, list(words), folder)
    return _report(found, place)


def check_space(space: Any, config: Mapping[str, Any]) -> None:
    """Raise ConfigError with every fault of a `tune:` node."""
    if not isinstance(space, dict) or not space.get("space") or "metric" not in space:
        raise ConfigError(
            "tune: the experiment has no search space; it needs `tune: {metric: ..., space: {...}}`"
        )
    faults = [f"tune.{k}: no such key" + near(k, sorted(KEYS)) for k in space if k not in KEYS]
    known = list(flatten(dict(config)))
    for key, node in space["space"].items():
        if not isinstance(node, dict) or not (
            set(node) == {"choices"} or {"low", "high"} <= set(node) <= RANGE
        ):
            faults.append(
                f"tune.space.{key}: wants {{choices: [...]}} or {{low, high, log, step}}, not {node!r}"
            )
        elif "." not in key and key not in known:
            faults.append(f"tune.space.{key}: no such key in the config" + near(key, known))
        elif "low" in node and not node["low"] <= node["high"]:
            faults.append(f"tune.space.{key}: low={node['low']} is above high={node['high']}")
    if faults:
        raise ConfigError(*faults)


def _finished(study: Any) -> list[Any]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))


def _requeue(study: Any) -> None:
    """A trial that was running when the search was killed is asked for again; its run resumes."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.enqueue_trial(trial.params, skip_if_exists=False)
        study.tell(trial.number, state=TrialState.PRUNED)


def _one_trial(study: Any, space: Mapping[str, Any], words: list[str], folder: str | None) -> None:
    from optuna.trial import TrialState

    trial = study.ask()
    chosen = [f"{key}={_suggest(trial, key, node)}" for key, node in space["space"].items()]
    done = run_jobs([Job((*words, *chosen), " ".join(chosen))], folder=folder)[0]
    value = (done.record or {}).get("metrics", {}).get(space["metric"])
    if done.record and space["metric"] not in done.record["metrics"]:
        study.tell(trial, state=TrialState.FAIL)
        raise ConfigError(
            f"tune.metric: the record has no '{space['metric']}'"
            + near(space["metric"], list(done.record["metrics"]))
        )
    study.tell(trial, value, state=None if value is not None else TrialState.FAIL)


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
