"""Training: data, model, task and Trainer from a config; fit, test, export, record."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console

from ..errors import ConfigError
from . import base, checkpoint
from .build import build, build_model, build_task, sized
from .checkpoint import BEST, RunCheckpoint, RunCheckpointIO
from .compose import Composed
from .determinism import StepNoise
from .folder import RunFolder
from .guard import FiniteGuard
from .identity import run_id
from .logs import RunLog, TrainLog, read_log
from .profile import Profile
from .progress import Progress, banner
from .record import device_name, make_record, now, peak_mb


class Clock(pl.Callback):
    """Seconds and steps spent in training, over all the pieces of an interrupted run."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.started = now()
        self._since: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.monotonic()

    def read(self) -> float:
        """Seconds until now."""
        return self.seconds + (time.monotonic() - self._since if self._since is not None else 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.read(), "started": self.started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.started = state_dict["seconds"], state_dict["started"]


def train(
    composed: Composed, folder: RunFolder, console: Console, pretrained: Path | None = None
) -> dict[str, Any]:
    """One training run in its folder, from the weights of the `pretrained` run; returns the record."""
    config = composed.config
    data, model, task = _assemble(config)
    start, remarks = checkpoint.latest(folder.path) if config["resume"] else (None, [])
    if start is None:
        base.start(model, config, pretrained, console)
    for remark in remarks:
        console.print(remark, soft_wrap=True)
    trainer, clock, log = _trainer(config, folder, task, console)
    _check_validated(config, trainer, data)
    done = None if start is None else int(checkpoint.load(start)["global_step"])
    log.rewind(done or 0)
    _announce(composed, folder, trainer, model, data, done, console)
    trainer.fit(task, datamodule=data, ckpt_path=start, weights_only=True)
    seconds = clock.read()
    metrics, tested = _test(config, trainer, task, data, folder.path)
    if not trainer.is_global_zero:
        return {}
    record = make_record(
        config, run_id(config), _last_validation(log) | metrics,
        weights=tested, steps=trainer.global_step, epochs=trainer.current_epoch,
        wall_s=round(seconds, 2), s_per_step=round(seconds / max(1, trainer.global_step), 6),
        peak_mb=peak_mb(task.device),
        params=_count(model), data=[*data.provenance, *base.provenance(config)], started=clock.started, finished=now(),
        **_initialisation(model),
    )  # fmt: skip
    many = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
    record["device"] = device_name(trainer.strategy.root_device) + many
    _leave(config, folder.path, log, task, data, record)
    return record


def _assemble(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Data, model and task; the data are read last, so that a wrong value in the others is told before."""
    allowed = config["allow_targets"]
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    pl.seed_everything(config["seed"], verbose=False)
    data = build(config["data"], "data", allowed=allowed, **_seed_for(config))
    torch.manual_seed(config["seed"])  # the weights do not depend on what the data's constructor may draw
    model = build_model(config["model"], data.sizes, allowed=allowed)
    if config["compile"]:
        # In place: the names in the state dict stay what they are.
        model.compile(**({} if config["compile"] is True else {"mode": config["compile"]}))
    task = build_task(config, model, data.sizes, allowed=allowed)
    data.prepare_data()
    data.setup("fit")
    if config["test_weights"] == "best" and not data.counts.get("val"):
        raise ConfigError(
            "test_weights: 'best' is chosen on a validation part, and these data have none; "
            "set test_weights=last, or give the data a validation part"
        )
    return data, model, task


def _seed_for(config: Mapping[str, Any]) -> dict[str, int]:
    return {} if "seed" in config["data"] else {"seed": config["seed"]}


def _count(model: torch.nn.Module) -> dict[str, int]:
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"total": sum(n for n, _ in sizes), "trainable": sum(n for n, t in sizes if t)}


def _initialisation(model: torch.nn.Module) -> dict[str, Any]:
    """What the layers say about how they began (`initialisation_report`), by the layer's name."""
    made = {name: getattr(m, "initialisation_report", None) for name, m in model.named_modules()}
    found = {name: said for name, report in made.items() if callable(report) and (said := report())}
    return {"initialisation": found} if found else {}


def _trainer(
    config: Mapping[str, Any], folder: RunFolder, task: Any, console: Console
) -> tuple[pl.Trainer, Clock, RunLog]:
    """The Trainer with the harness's own callbacks; their order is the order of a step."""
    allowed, clock, log = config["allow_targets"], Clock(), RunLog(folder.path)
    keeper = RunCheckpoint(
        folder.path, monitor=task.monitor, higher_is_better=task.higher_is_better,
        every_s=config["checkpoint_every_s"],
    )  # fmt: skip
    extra = [build(n, f"callbacks.{k}", allowed=allowed) for k, n in (config["callbacks"] or {}).items() if n]
    if config["profile"]:
        extra.append(Profile(folder.path, console))
    loggers = [log]
    for name, node in (config["logger"] or {}).items():
        loggers.append(
            build(node, f"logger.{name}", allowed=allowed, **_logger_facts(node, config, folder.path))
        )
    callbacks: list[pl.Callback] = [StepNoise(config["seed"]), FiniteGuard(), TrainLog(), *extra]
    progress = Progress(task.monitor, lambda: keeper.best, console)
    trainer = build(
        config["trainer"], "trainer", allowed=allowed,
        callbacks=[*callbacks, progress, clock, keeper],  # the checkpoint comes last: it holds the others' state
        logger=loggers, plugins=[RunCheckpointIO()], default_root_dir=str(folder.path),
        enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip
    return trainer, clock, log


def _logger_facts(node: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The run's id is the logger's too, so that a resumed run goes on in the same place."""
    name = str(node["_target_"]).rsplit(".", 1)[-1]
    if name == "WandbLogger":
        tags = [t for t in (config["paper"], config["row"], config["scale"]) if t]
        facts = {"id": run_id(config), "name": folder.name, "group": config["experiment_name"], "tags": tags}
        return {"save_dir": str(folder), "resume": "allow", **facts}
    if name == "TensorBoardLogger":
        return {"save_dir": str(folder), "name": "", "version": "tensorboard"}
    return {"save_dir": str(folder)} if name in ("CSVLogger", "MLFlowLogger") else {}


def _batches(trainer: pl.Trainer, data: Any) -> int:
    """Training batches of an epoch."""
    batches, limit = -(-data.counts["train"] // data.batch_size), trainer.limit_train_batches
    return min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))


def _check_validated(config: Mapping[str, Any], trainer: pl.Trainer, data: Any) -> None:
    """The best weights need at least one validation before the last step."""
    few = 0 < trainer.max_steps * trainer.accumulate_grad_batches < _batches(trainer, data)
    if config["test_weights"] == "best" and few and trainer.val_check_interval == 1.0:
        raise ConfigError(
            f"trainer.max_steps: {trainer.max_steps} steps end before the first validation, which chooses the best "
            "weights; set test_weights=last, or trainer.val_check_interval to fewer batches"
        )


def _announce(
    composed: Composed, folder: RunFolder, trainer: pl.Trainer, model: Any, data: Any, done: int | None,
    console: Console,
) -> None:  # fmt: skip
    from . import store
    from .run import changes

    config, count = composed.config, _count(model)
    steps = _batches(trainer, data) * (trainer.max_epochs or 1)
    steps = min(steps, trainer.max_steps) if trainer.max_steps > 0 else steps
    device = trainer.strategy.root_device
    here = device_name(device)
    like = [
        r["s_per_step"]
        for r in store.read([store.own_folder(config["results"], config["run_dir"])])
        if r["experiment"] == config["experiment_name"] and r["device"] == here and r["s_per_step"]
    ]
    console.print(
        banner(
            title=f"{config['experiment_name']} · scale {config['scale']} · seed {config['seed']}",
            changes={k: v for k, v in changes(composed).items() if k not in ("scale", "row")},
            parameters=(count["total"], count["trainable"]), counts=data.counts,
            device=f"{here}, {trainer.world_size} process{'es' if trainer.world_size > 1 else ''}",
            steps=int(steps), estimate_s=like[-1] * (steps - (done or 0)) if like else None,
            folder=str(folder.path), resumed=done,
        ),
        soft_wrap=True,
    )  # fmt: skip


def _test(
    config: Mapping[str, Any], trainer: pl.Trainer, task: Any, data: Any, folder: Path
) -> tuple[dict[str, float], str]:
    """Metrics of the test part, and which weights they belong to."""
    metrics: dict[str, float] = {}
    tested = "last"
    if config["test_weights"] == "best":
        trainer.strategy.barrier()
        if not (folder / BEST).exists():
            raise ConfigError(
                f"test_weights: there are no best weights in {folder}; is '{task.monitor}' ever computed?"
            )
        best = checkpoint.load(folder / BEST)
        task.model.load_state_dict(best["model"])
        metrics[f"best/{task.monitor}"] = float(best[task.monitor])
        tested = "best"
    rows = trainer.test(task, datamodule=data, verbose=False) if data.counts.get("test") else []
    for row in rows:
        metrics |= {k: float(v) for k, v in row.items()}
    return metrics, tested


def _last_validation(log: RunLog) -> dict[str, float]:
    """From the log, not from the Trainer: a run that was killed after its last epoch does not validate again."""
    rows = (
        [r for r in read_log(log.path) if any(k.startswith("val/") for k in r)] if log.path.exists() else []
    )
    last = rows[-1] if rows else {}
    return {k: math.nan if v is None else v for k, v in last.items() if k.startswith("val/")}


def _leave(
    config: Mapping[str, Any], folder: Path, log: RunLog, task: Any, data: Any, record: dict[str, Any]
) -> None:
    """What a finished run leaves behind: CSV, curve, weights, card."""
    from .export import export
    from .figures import training_curve

    log.write_csv()
    (folder / "figures").mkdir(exist_ok=True)
    training_curve(log.path, folder / "figures" / "training.png")
    model = task.model
    node = sized(config["model"], data.sizes, allowed=config["allow_targets"])
    split = data.test_dataloader() or data.val_dataloader() or data.train_dataloader()
    if callable(leave := getattr(model, "save_adapters", None)):
        leave(folder / "adapter")
    batch = {k: t[:4].cpu() if t.ndim else t for k, t in next(iter(split)).items()}
    inputs = task.inputs_of(batch)
    export(model.cpu(), {**config, "model": node}, folder, inputs, record)
