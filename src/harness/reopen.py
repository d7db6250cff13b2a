"""A finished run opened again: its model, data and task, and a Trainer to evaluate them with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import zoo
from .build import build, build_task
from .export import CONFIG, check_exported


@dataclass(frozen=True)
class Reopened:
    """`config` as exported, `model` in eval mode, `data` set up, `task` around the model."""

    folder: Path
    config: dict[str, Any]
    model: Any
    data: Any
    task: Any

    def evaluate(self, model: Any) -> dict[str, float]:
        """The metrics of the test part (of the validation part where there is none) with this model in the task."""
        import lightning.pytorch as pl

        from .run import quiet_libraries

        quiet_libraries()
        self.task.model = model.eval()
        trainer = pl.Trainer(
            accelerator="auto", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False,
        )  # fmt: skip
        evaluate = trainer.test if self.data.counts.get("test") else trainer.validate
        rows = evaluate(self.task, datamodule=self.data, verbose=False)
        return {k: float(v) for row in rows for k, v in row.items()}


def reopen(source: str, allowed: Sequence[str] = ()) -> Reopened:
    """Model, data and task of an exported run.

    Raises:
        DataError: no such run, or one that is damaged; the data are not there.
        ConfigError: the run has no data or task (a folder of weights alone).
    """
    folder = zoo.find(source)
    check_exported(folder)
    config = zoo.exported_config(folder)
    missing = [name for name in ("data", "task", "optim") if not config.get(name)]
    if missing:
        raise ConfigError(f"{folder / CONFIG}: has no {', '.join(missing)}, so that it cannot be evaluated")
    model = zoo.load(folder, allow_targets=allowed)
    seed = {} if "seed" in config["data"] else {"seed": int(config.get("seed") or 0)}
    data = build(config["data"], "data", allowed=allowed, **seed)
    task = build_task({**config, "scheduler": config.get("scheduler")}, model, data.sizes, allowed=allowed)
    data.prepare_data()
    data.setup("fit")
    return Reopened(folder, config, model, data, task.eval())


def without_adapters(run: Reopened) -> Reopened:
    """The run with its adapters put into the weights of the base, as a plain model; another run as it is.

    Raises:
        ConfigError: the base is quantised, so that the adapters would be quantised with it.
    """
    from ..models.adapters import AdaptedModel, unload

    if not isinstance(run.model, AdaptedModel):
        return run
    try:
        plain = unload(run.model.base)
    except ValueError as error:
        raise ConfigError(f"{run.folder}: {error}") from error
    run.task.model = plain
    return replace(run, model=plain, config={**run.config, "model": run.config["model"]["base"]})
