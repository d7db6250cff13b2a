"""Linear transfer at the end of a run: the probe of `linear_transfer` on other data, as numbers for the record."""

import copy
from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor

from ..data.module import TensorData
from ..errors import ConfigError
from ..models.heads.classifier import Classifier
from .feature_measures import spread_batches
from .linear_transfer import Split, chosen, features_of, logistic_probe


class LinearTransfer(pl.Callback):
    """Logs `test/transfer`, the accuracy of a logistic probe on the frozen features of other data, and
    `test/transfer_start`, that on the features of the same network before training.

    The first process fits the probes. Both networks are in memory meanwhile.

    Args:
        data: what is transferred to, of the same channels; its training part is for the probe, its test part for the
            accuracy.
        classes: only samples with these labels (those that the network has not been trained on, say); None: all.
        samples: at most so many of each part, drawn at random, before the classes are chosen.

    Raises:
        ConfigError: when the run begins: a model other than a `Classifier`; data of other channels.
    """

    def __init__(self, data: TensorData, classes: Sequence[int] | None = None, *, samples: int = 10_000):
        if samples < 2:
            raise ValueError(f"samples={samples}: must be at least 2")
        self.data, self.classes, self.samples = data, classes, samples
        self._start: Classifier | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keeps the network as it begins, and reads the data: what is wrong with them is told before the training."""
        if stage != "fit":
            return
        model = pl_module.model
        if not isinstance(model, Classifier):
            raise ConfigError(f"callbacks: LinearTransfer wants a Classifier, not a {type(model).__name__}")
        mine, theirs = (d.sizes.get("dim_in") for d in (trainer.datamodule, self.data))  # type: ignore[attr-defined]
        if mine != theirs:
            raise ConfigError(
                f"callbacks: '{self.data.name}' has {theirs} channels, the data of the run have {mine}"
            )
        self._start = copy.deepcopy(model)
        self.data.prepare_data()
        self.data.setup("fit")
        try:
            for split in ("train", "test"):
                self._part(split)
        except ValueError as error:
            raise ConfigError(f"callbacks: LinearTransfer: {error}") from error

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, model in (("transfer", pl_module.model), ("transfer_start", self._start)):
            if trainer.is_global_zero and isinstance(model, Classifier):
                pl_module.log(f"test/{name}", self._accuracy(model, pl_module.device), rank_zero_only=True)

    def _accuracy(self, model: Classifier, device: torch.device) -> float:
        """Of a probe on the features of a network."""
        mode = model.training
        model.eval().to(device)
        parts = [features_of(model, self._part(split), device) for split in ("train", "test")]
        model.train(mode)
        return logistic_probe(self.data.name, parts[0], parts[1]).test_accuracy

    def _part(self, split: str) -> Split:
        batches = list(spread_batches(self.data, split, self.samples))
        part: dict[str, Tensor] = {key: torch.cat([batch[key] for batch in batches]) for key in ("x", "y")}
        return chosen(part, self.classes, split)
