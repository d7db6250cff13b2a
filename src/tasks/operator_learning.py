"""Learning a map between fields: relative losses, several resolutions in one test, and rollouts in time.

Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, arXiv 2010.08895: the
recurrent form (`autoregressive`) and the form with time as an axis of the grid (`space_time`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ConfigError
from ..models.operators.operator import Operator
from .base import Batch
from .field_losses import RelativeL2
from .means import MeanTask, variants

Norm = Callable[[Tensor, Tensor], Tensor]
ROLLOUTS = ("autoregressive", "one_step", "space_time")
OVER_STEPS = ("mean", "sum")


class OperatorLearning(MeanTask):
    """Fields `x` (batch, C_in, *grid) to fields `y` (batch, C_out, *grid); minimises the batch's mean of `loss`.

    `loss` and the metrics are relative errors per sample (`RelativeL2()`, `RelativeH1(...)`). A metric is the mean
    of the samples' errors: `val/<name>`, `test/<name>` and, for every N of `resolutions`, `test/<name>@N` on the
    test batch's fields `x@N` and `y@N`, without training there. One that is not finite is reported as it is.

    With a `rollout`, `x` (batch, p, *grid) holds the last p steps of one quantity and `y` (batch, T, *grid) the T
    steps that follow; errors are of the whole predicted block. There are two more test metrics of each norm,
    `<name>_step`, the mean of the single steps' errors, and `<name>_last`, the error of the last step.

    - `autoregressive`: the model gives the next step, (B, p, *grid) -> (B, 1, *grid), and it is fed back T times;
      trained through the whole rollout on the `over_steps` of the single steps' losses;
    - `one_step`: the same model, trained on one step per sample, drawn anew in every batch, from p true ones;
      evaluated as `autoregressive`;
    - `space_time`: the model gives the block, (B, p, *grid, T) -> (B, 1, *grid, T), x being repeated along the last
      axis; trained on the loss of the block.

    A model with `fit_normalisers(x, y)` gets the training fields before the first step of a fit, in the shapes
    that it is called with (windows of p steps: every p-th one); a resumed fit has the statistics in its
    checkpoint. Of `space_time` inputs only the statistics per channel can be taken.

    Args:
        model: see above; `Operator`s and plain modules alike.
        optim, scheduler: see `Task`.
        loss: (prediction, target) -> (batch,); None takes `RelativeL2()`.
        metrics: name -> such an error; None takes `l2: RelativeL2()`. The first one chooses the best weights.
        resolutions: N of the test batches, as the data module names them.
        rollout: None, `autoregressive`, `one_step` or `space_time`.
        over_steps: `mean` or `sum` (the paper's); `autoregressive` only.
        history: p, where the model sees only the last so many of the steps in `x`; None: all of them. In a rollout.

    Raises:
        ValueError: an unknown word, a metric whose name is none, a resolution below 1 or named twice.
        DataError: at the start of a fit and in a test, a resolution that the test batches do not have.
        ConfigError: in a rollout, a model that does not give the one step that it should.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        loss: Norm | None = None,
        metrics: Mapping[str, Norm] | None = None,
        resolutions: Sequence[int] = (),
        rollout: str | None = None,
        over_steps: str = "mean",
        history: int | None = None,
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        metrics = {"l2": RelativeL2()} if metrics is None else dict(metrics)
        _check_options(metrics, resolutions, rollout, over_steps)
        if history is not None and (history < 1 or rollout is None):
            raise ValueError(f"history={history}: must be at least 1, and belongs to a rollout")
        self.loss, self.norms = loss or RelativeL2(), metrics
        self.resolutions, self.rollout, self.over_steps = tuple(resolutions), rollout, over_steps
        self.history = history
        self.monitor = f"val/{next(iter(metrics))}"
        suffixes = ["", *(f"@{size}" for size in self.resolutions), *(("_step", "_last") if rollout else ())]
        test = [name + suffix for suffix in suffixes for name in metrics]
        if len(set(test)) < len(test):
            raise ValueError(
                f"metrics={list(metrics)}: with rollout={rollout} there is a '<name>_step' of each"
            )
        self.track({"val": list(metrics), "test": test})

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Raises ValueError where an operator has other channels than the data, or cannot work on their grid."""
        if not isinstance(self.model, Operator) or "grid" not in sizes:
            return
        past = sizes["dim_in"] if self.history is None else self.history
        wanted = {"dim_in": past, "dim_out": 1 if self.rollout else sizes["dim_out"]}
        for name, size in wanted.items():
            if (own := getattr(self.model, name)) != size:
                raise ValueError(
                    f"{name}={own}: these data, with rollout={self.rollout}, have {size} channels there"
                )
        self.model.check_grid(
            (*sizes["grid"], *((sizes["horizon"],) if self.rollout == "space_time" else ()))
        )

    def inputs_of(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the model is called with for a batch: in a rollout, for its first step."""
        x = batch["x"] if self.rollout is None else self._seen(batch["x"])
        return (_repeated(x, batch["y"].shape[1]) if self.rollout == "space_time" else x,)

    def on_fit_start(self) -> None:
        """Statistics of the training part for the model's normalisers, unless a checkpoint brought them."""
        self._check_resolutions()
        fit = getattr(self.model, "fit_normalisers", None)
        if fit is None or self.trainer.ckpt_path is not None or _has_none(self.model):
            return
        splits = getattr(getattr(self.trainer, "datamodule", None), "splits", {})
        if "train" not in splits:
            raise ConfigError("task: the model's normalisers need a data module with a split 'train'")
        fit(*self._as_called(splits["train"]["x"], splits["train"]["y"]))

    def _check_resolutions(self) -> None:
        """Not only in the test, hours later."""
        test = getattr(getattr(self.trainer, "datamodule", None), "splits", {}).get("test")
        if test is not None:
            list(self._views(test, "test"))

    def _as_called(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Training fields in the shapes of the model's inputs and outputs."""
        if self.rollout is None:
            return x, y
        if self.rollout == "space_time":
            return self._seen(x)[..., None], y.movedim(1, -1)[:, None]
        past, series = self._seen(x).shape[1], torch.cat([x, y], 1)
        windows = [series[:, t : t + past] for t in range(0, series.shape[1] - past, past)]
        return torch.cat(windows), y.flatten(0, 1)[:, None]

    def _seen(self, x: Tensor) -> Tensor:
        """The steps that the model sees."""
        if self.history is not None and self.history > x.shape[1]:
            raise ConfigError(
                f"task.history: {self.history} steps are more than the {x.shape[1]} that are given"
            )
        return x if self.history is None else x[:, -self.history :]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        x, y = batch["x"], batch["y"]
        if self.rollout == "one_step":
            x, y = one_step(x, y, self._seen(x).shape[1])
            return {"loss": self.loss(self._step(x), y).mean()}
        prediction = self.predict(x, y.shape[1])
        if self.rollout != "autoregressive":
            return {"loss": self.loss(prediction, y).mean()}
        steps = per_step(self.loss, prediction, y)
        return {"loss": (steps.mean(1) if self.over_steps == "mean" else steps.sum(1)).mean()}

    def predict(
        self, x: Float[Tensor, "batch channels *grid"], steps: int = 1
    ) -> Float[Tensor, "batch channels_out *grid"]:
        """The prediction in the shape of `y`; `steps` is the T of a rollout."""
        if self.rollout is None:
            return self.model(x)
        x = self._seen(x)
        if self.rollout == "space_time":
            return self._step(_repeated(x, steps))[:, 0].movedim(-1, 1)
        found = []
        for _ in range(steps):
            found.append(self._step(x))
            x = torch.cat([x[:, 1:], found[-1]], 1)
        return torch.cat(found, 1)

    def _step(self, x: Tensor) -> Tensor:
        output = self.model(x)
        if output.shape != (len(x), 1, *x.shape[2:]):
            raise ConfigError(
                f"task: rollout={self.rollout} wants a model from {tuple(x.shape)} to one channel of that grid, it "
                f"gives {tuple(output.shape)}; set model.dim_out=1"
            )
        return output

    def update_metrics(self, batch: Batch, stage: str) -> None:
        for suffix, x, y in self._views(batch, stage):
            prediction = self.predict(x, y.shape[1])
            for name, norm in self.norms.items():
                self.add(stage, name + suffix, norm(prediction, y), batch)
                if self.rollout and stage == "test" and not suffix:
                    steps = per_step(norm, prediction, y)
                    self.add(stage, f"{name}_step", steps.mean(1), batch)
                    self.add(stage, f"{name}_last", steps[:, -1], batch)

    def _views(self, batch: Batch, stage: str) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(suffix of the metrics, x, y) of every resolution."""
        wanted = self.resolutions if stage == "test" else ()
        return variants(batch, wanted, "resolutions", "no other resolution")


def _check_options(
    metrics: Mapping[str, Norm], resolutions: Sequence[int], rollout: str | None, over_steps: str
) -> None:
    if not metrics or not all(name.isidentifier() for name in metrics):
        raise ValueError(f"metrics={list(metrics)}: at least one, named with letters, digits and _")
    if len(set(resolutions)) < len(resolutions) or any(size < 1 for size in resolutions):
        raise ValueError(f"resolutions={list(resolutions)}: different whole numbers of at least 1")
    if rollout is not None and rollout not in ROLLOUTS:
        raise ValueError(f"rollout={rollout!r}: must be null or one of {', '.join(ROLLOUTS)}")
    if over_steps not in OVER_STEPS:
        raise ValueError(f"over_steps={over_steps!r}: must be one of {', '.join(OVER_STEPS)}")
    if over_steps != "mean" and rollout != "autoregressive":
        raise ValueError(f"over_steps={over_steps!r}: belongs to rollout='autoregressive'")


def _has_none(model: nn.Module) -> bool:
    """Whether an operator leaves its inputs and its outputs in their own units."""
    normalisers = [getattr(model, f"{side}_normaliser", None) for side in ("input", "output")]
    return isinstance(model, Operator) and normalisers == [None, None]


def _repeated(x: Tensor, steps: int) -> Tensor:
    """Fields with a last axis of time, along which they are constant."""
    return x[..., None].expand(*x.shape, steps)


def one_step(
    x: Float[Tensor, "batch given *grid"], y: Float[Tensor, "batch steps *grid"], past: int
) -> tuple[Float[Tensor, "batch past *grid"], Float[Tensor, "batch 1 *grid"]]:
    """Of every sample `past` successive true steps and the one after them, from a place that torch's generator
    draws.
    """
    series = torch.cat([x, y], 1)
    start = torch.randint(series.shape[1] - past, (len(x),), device=y.device)
    rows = torch.arange(len(x), device=y.device)
    window = start[:, None] + torch.arange(past, device=y.device)
    return series[rows[:, None], window], series[rows, start + past][:, None]


def per_step(
    norm: Norm, prediction: Float[Tensor, "batch steps *grid"], target: Float[Tensor, "batch steps *grid"]
) -> Float[Tensor, "batch steps"]:
    """The error of every single step."""
    flat = norm(prediction.flatten(0, 1)[:, None], target.flatten(0, 1)[:, None])
    return flat.view(target.shape[:2])
