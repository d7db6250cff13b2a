"""Classification by models of ordered ranks (Maestro), and by plain ones that are cut when they are done."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from ..errors import ConfigError
from ..models.arguments import check_choice
from ..models.compression.compress import count_parameters
from ..models.compression.low_rank import LowRankConv, LowRankLinear
from ..models.compression.maestro import Maestro
from .base import Batch
from .batch_norm import reestimate
from .classification import Classification
from .inputs import model_inputs

PASSES = ("sampled", "full", "both")


class PrefixClassification(Classification):
    """`Classification` with further test metrics: the model cut to a fraction of every named layer's rank.

    A model of ordered ranks is cut to its prefixes, a plain one by the singular values of its trained layers, and one
    that has been compressed since not at all: it has no such metrics. Batch norms estimate their statistics anew after
    each cut. For every fraction f:

    | metric | meaning |
    |---|---|
    | `test/accuracy@f` | of the model with rank `ceil(f width)` in every layer, or what is left where that is less |
    | `test/parameters@f` | its parameters, dense layers where two thin ones would have no fewer |
    | `test/parameters` | of the whole model |

    Args:
        layers: of a plain model, patterns of those that are cut; of one of ordered ranks none.
        prefixes: the fractions, in (0, 1].

    Raises:
        ValueError: a fraction out of range.
        ConfigError: a plain model without layers, or one of ordered ranks with them.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        label_smoothing: float = 0.0,
        layers: Sequence[str] = (),
        prefixes: Sequence[float] = (),
    ):
        super().__init__(model, optim=optim, scheduler=scheduler, label_smoothing=label_smoothing)
        if any(not 0 < fraction <= 1 for fraction in prefixes):
            raise ValueError(f"prefixes={list(prefixes)}: each must lie in (0, 1]")
        if prefixes and isinstance(model, Maestro) == bool(layers):
            raise ConfigError("task.layers: name the layers that are cut of a plain model, and only of one")
        self.layers, self.prefixes = tuple(layers), tuple(prefixes)
        self._cuts: dict[float, nn.Module] = {}
        self.at_prefix = nn.ModuleList(MeanMetric() for _ in prefixes)  # by place: keys may not hold a point

    def metrics_of(self, stage: str) -> dict[str, Any]:
        metrics = super().metrics_of(stage)
        if stage == "test":
            places = zip(self.prefixes, self.at_prefix, strict=True)
            metrics |= {f"accuracy@{f:g}": metric for f, metric in places if f in self._cuts}
        return metrics

    def on_test_start(self) -> None:
        """Makes the cut models."""
        if not self.prefixes or not self._whole_is_there():
            return
        whole = self._whole()
        self._cuts = {f: whole.deploy(whole.uniform(f)).eval() for f in self.prefixes}
        for cut in self._cuts.values():
            reestimate(cut, self._training_batches(), self._mean)

    def update_metrics(self, batch: Batch, stage: str) -> None:
        super().update_metrics(batch, stage)
        for fraction, cut in self._cuts.items() if stage == "test" else ():
            right = (cut(*model_inputs(batch)).argmax(-1) == batch["y"]).float()
            self.metrics_of(stage)[f"accuracy@{fraction:g}"].update(right, batch["mask"].float())

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        counts = {f"@{f:g}": count_parameters(cut) for f, cut in self._cuts.items()}
        for suffix, count in {"": self.parameter_count(), **counts}.items():
            self.log(f"test/parameters{suffix}", float(count), rank_zero_only=True)
        self._cuts = {}

    def parameter_count(self) -> int:
        """Of the whole model as it would be deployed."""
        return self.model.count() if isinstance(self.model, Maestro) else count_parameters(self.model)

    def _whole_is_there(self) -> bool:
        """Whether the model still is what the task was made for, and not a compressed form of it."""
        thin = any(isinstance(module, (LowRankLinear, LowRankConv)) for module in self.model.modules())
        return isinstance(self.model, Maestro) or (bool(self.layers) and not thin)

    def _whole(self) -> Maestro:
        if isinstance(self.model, Maestro):
            return self.model
        return Maestro(copy.deepcopy(self.model), layers=self.layers)

    def _training_batches(self) -> Iterator[Batch]:
        """The training data from the first batch on, in the same order whatever has been trained before."""
        loader = self.trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        loader.epoch = loader.skip = 0
        yield from loader

    def _mean(self, value: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(value, reduce_op="mean")  # type: ignore[return-value]


class OrderedClassification(PrefixClassification):
    """Training of a `Maestro` model: one (layer, b) per step, group lasso, and a cut after every epoch.

    The cut comes after an epoch's last step, before it is validated; the optimiser's state of the cut columns is
    cleared. Ranks are part of the weights: a resumed run and the best weights have theirs. Batch norms estimate
    their statistics anew before every evaluation. Further metrics: `rank`, the sum of the layers' ranks (of a model
    that is deployed since there is none), and `parameters`, both of val and of test.

    Args:
        passes: `sampled`: the loss of the model with the drawn layer at its prefix. `both`: the loss of the whole
            model, and the cross-entropy of the sampled one against the whole one's softmax. `full`: no sampling.
        penalty: lambda of the lasso, >= 0; 0 leaves it out.
        threshold: of the importance, >= 0, below which a column is cut; 0 cuts none.
        prefixes: see `PrefixClassification`.
        seed: of the draws.

    Raises:
        ValueError: an argument out of range.
        ConfigError: a model that is not a `Maestro`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        passes: str = "sampled",
        penalty: float = 0.0,
        threshold: float = 1e-5,
        prefixes: Sequence[float] = (),
        seed: int = 0,
    ):
        super().__init__(model, optim=optim, scheduler=scheduler, prefixes=prefixes)
        check_choice("passes", passes, PASSES)
        for name, value in (("penalty", penalty), ("threshold", threshold), ("seed", seed)):
            if not value >= 0:
                raise ValueError(f"{name}={value}: must be >= 0")
        if not isinstance(model, Maestro):
            raise ConfigError(f"model: OrderedClassification trains a Maestro, not a {type(model).__name__}")
        self.passes, self.penalty, self.threshold, self.seed = passes, penalty, threshold, seed

    @property
    def ordered(self) -> Maestro:
        """The model."""
        return self.model  # type: ignore[return-value]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        terms, target = {}, batch["y"]
        if self.passes != "sampled":
            logits = self.model(*model_inputs(batch))
            terms["cross_entropy"] = F.cross_entropy(logits, target)
            target = logits.detach().softmax(-1)
        if self.passes != "full":
            layer, rank = self.ordered.sample(self.seed, self.global_step)
            with self.ordered.prefix({layer: rank}):
                logits = self.model(*model_inputs(batch))
            name = "cross_entropy" if self.passes == "sampled" else "distillation"
            terms[name] = F.cross_entropy(logits, target)
        if self.penalty:
            terms["lasso"] = self.penalty * self.ordered.penalty()
        return terms

    def on_train_batch_end(self, *_: Any) -> None:
        """Cuts after the last step of an epoch."""
        if self.trainer.is_last_batch and self.threshold:
            self.shrink(self.trainer.optimizers)

    def shrink(self, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, tuple[int, int]]:
        """Cuts the model and clears the optimisers' state of what is cut; (before, after) by layer."""
        cuts = self.ordered.shrink(self.threshold)
        for name in cuts:
            for optimizer in optimizers:
                forget(optimizer, self.ordered.layers[name])
        return cuts

    def on_validation_start(self) -> None:
        self._reestimate()

    def on_test_start(self) -> None:
        self._reestimate()
        super().on_test_start()

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_ranks("val")
        self.log("val/parameters", float(self.parameter_count()), rank_zero_only=True)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._log_ranks("test")

    def _log_ranks(self, stage: str) -> None:
        if isinstance(self.model, Maestro):
            self.log(f"{stage}/rank", float(sum(self.model.ranks.values())), rank_zero_only=True)

    def _reestimate(self) -> None:
        reestimate(self.model, self._training_batches(), self._mean)


def forget(optimizer: torch.optim.Optimizer, layer: Any) -> None:
    """Clears what the optimiser knows of a layer's cut columns (momentum, second moments), in place."""
    states = [optimizer.state.get(factor, {}) for factor in (layer.first, layer.second)]
    for key in states[0]:
        parts = [state.get(key) for state in states]
        factors = zip(parts, (layer.first, layer.second), strict=True)
        if all(isinstance(p, Tensor) and p.shape == factor.shape for p, factor in factors):
            for part in layer.cut_parts(*parts):
                part.zero_()
