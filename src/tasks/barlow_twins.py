"""Self-supervised training by Barlow Twins, and what its features are worth.

The loss is that of `ops.correlation` on the embeddings of two views of every image (Zbontar et al. 2021, arXiv
2103.03230). Labels are seen in the test alone: by nearest neighbours and by a linear probe on the frozen features of
whole images, with the training images as what is known.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from ..data import TensorData
from ..data.views import TwoViews
from ..errors import ConfigError
from ..ops.correlation import barlow_terms
from .base import Batch, Task
from .probes import LinearProbe, Neighbours, Redundancy

TERMS = ("invariance", "redundancy")
VIEW_SEED = 0


class BarlowTwinsTask(Task):
    """`weights.invariance sum_i (C_ii - 1)^2 + weights.redundancy sum_{i != j} C_ij^2` on two views of every image.

    The model has `features(x)`, the backbone's output, and gives embeddings when called; batches hold `x` with pixels
    in [0, 1] (an image set with `standardise: false`) and `y`, which only the test looks at. Metrics:

    | name | meaning |
    |---|---|
    | `val/loss`, `val/invariance`, `val/redundancy` | of views that are the same each time; the terms without weights |
    | `test/knn` | accuracy of 20 nearest neighbours by cosine, temperature 0.07, on the features |
    | `test/linear` | accuracy of a linear probe on the features |
    | `test/redundancy` | mean square off the diagonal of C, of two views of all test images |

    Validation batches are looked at one by one, those with fewer than two images not at all. Whole images are
    standardised as the views are, and not cropped. A network before its training is tested by a rate of 0 and one step.

    Args:
        views: makes the two views of a training batch.
        weights: of the terms `invariance` and `redundancy`; one that is missing is 0.

    Raises:
        ValueError: an unknown term, a negative weight, all weights 0.
        ConfigError: on the fit's start, pixels that are not in [0, 1]; a training batch of one image.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        views: TwoViews,
        weights: Mapping[str, float | int],
    ):
        super().__init__(model, optim=optim, scheduler=scheduler)
        _check(weights)
        self.views = views
        self.weights = {term: float(weights.get(term, 0.0)) for term in TERMS}
        self.validation = nn.ModuleDict({name: MeanMetric() for name in ("loss", *TERMS)})
        self.accuracies = nn.ModuleDict({name: MeanMetric() for name in ("knn", "linear")})
        self.redundancy: Redundancy | None = None
        self.probes: dict[str, Neighbours | LinearProbe] = {}

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Views are of images in colour."""
        if "side" not in sizes or sizes["dim_in"] != 3:
            raise ValueError("these data are no colour images, of which the task makes views")

    def on_fit_start(self) -> None:
        data: TensorData = self.trainer.datamodule  # type: ignore[attr-defined]
        some = data.prepare({key: tensor[:256] for key, tensor in data.splits["train"].items()})["x"]
        low, high = float(some.min()), float(some.max())
        if not 0 <= low <= high <= 1:
            raise ConfigError(
                f"data: has pixels from {low:.2f} to {high:.2f}, and views are of pixels in [0, 1]; an image set "
                "hands them out with data.standardise=false"
            )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        if len(batch["x"]) < 2:
            raise ConfigError(
                "data.batch_size: leaves a training batch of one image, which has no cross-correlation"
            )
        first, second = self.views(batch["x"])
        terms = dict(zip(TERMS, barlow_terms(self.model(first), self.model(second)), strict=True))
        return {name: self.weights[name] * term for name, term in terms.items()}

    def update_metrics(self, batch: Batch, stage: str) -> None:
        if stage == "val":
            self._validate(batch["x"][batch["mask"]])
            return
        weight = batch["mask"].float()
        features = self.model.features(self.views.standardised(batch["x"])).float()  # type: ignore[operator]
        for name, probe in self.probes.items():
            right = probe(features).argmax(1) == batch["y"]
            self.accuracies[name].update(right.float(), weight)  # type: ignore[operator]
        first, second = (self.model(view) for view in self._fixed_views(batch["x"]))
        if self.redundancy is None:
            self.redundancy = Redundancy(first.shape[1]).to(first.device)
        self.redundancy.update(first, second, weight)

    def _validate(self, x: Tensor) -> None:
        if len(x) < 2:
            return
        first, second = self._fixed_views(x)
        found = barlow_terms(self.model(first), self.model(second), across_processes=False)
        terms = dict(zip(TERMS, found, strict=True))
        loss = sum(self.weights[name] * term for name, term in terms.items())
        for name, value in {"loss": loss, **terms}.items():
            self.validation[name].update(value, len(x))  # type: ignore[operator]

    def _fixed_views(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Views by draws that are the same each time; the training's go on as if there had been none."""
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(VIEW_SEED)
            return self.views(x)

    def on_test_epoch_start(self) -> None:
        """Fits the probes to the training images, each process for itself."""
        data: TensorData = self.trainer.datamodule  # type: ignore[attr-defined]
        features, labels = self._known(data)
        classes = int(data.sizes["dim_out"])
        k = min(20, len(labels))
        self.probes = {
            "knn": Neighbours(features, labels, classes, k=k, temperature=0.07),
            "linear": LinearProbe(features, labels, classes),
        }

    def _known(self, data: TensorData) -> tuple[Tensor, Tensor]:
        """Features and labels of all training images."""
        features, labels = [], []
        for rows in torch.arange(data.counts["train"]).split(data.eval_batch_size):
            batch = data.prepare({key: t[rows.to(t.device)] for key, t in data.splits["train"].items()})
            x = self.views.standardised(batch["x"].to(self.device))
            features.append(self.model.features(x).float())  # type: ignore[operator]
            labels.append(batch["y"].to(self.device))
        return torch.cat(features), torch.cat(labels)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self.probes, self.redundancy = {}, None

    def metrics_of(self, stage: str) -> dict[str, Any]:
        if stage == "val":
            return dict(self.validation.items())
        found = dict(self.accuracies.items())
        return found if self.redundancy is None else {**found, "redundancy": self.redundancy}


def _check(weights: Mapping[str, float | int]) -> None:
    for term, weight in weights.items():
        if term not in TERMS:
            raise ValueError(f"weights.{term}: is no term of the loss, known are {', '.join(TERMS)}")
        if not weight >= 0:
            raise ValueError(f"weights.{term}={weight}: must not be negative")
    if not any(weights.values()):
        raise ValueError(f"weights={dict(weights)}: nothing is left of the loss")
