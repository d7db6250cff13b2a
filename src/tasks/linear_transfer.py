"""Linear transfer: what a multinomial logistic probe makes of frozen features, beside the same probe on less.

The probe is `softmax(A x + b)` on features standardised by the training part, with the penalty `|A|^2 / (2 C)` on the
sum of the losses. C is the best of `PENALTIES` on a fifth of the training part that is held out for it; the probe that
is reported is fitted on the whole. Beside the features of a trained network stand those of one of the same form
before training, and the inputs themselves: only what is above both has been learnt.

Wang, Li, Zhang, ICCV 2023, arXiv 2308.01547, compare heads by a linear support vector machine on frozen features; the
logistic probe is that of Kornblith et al., CVPR 2019, arXiv 1805.08974.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.heads.classifier import Classifier

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
HELD_OUT = 0.2
MAX_STEPS = 500
Split = dict[str, Tensor]
_Part = tuple[np.ndarray, np.ndarray]  # inputs (samples, width), labels


@dataclass(frozen=True)
class Probe:
    """A fitted probe: accuracies as fractions, the chosen C, and whether the last fit reached its tolerance."""

    features: str
    width: int
    train: int
    test: int
    penalty: float
    train_accuracy: float
    test_accuracy: float
    converged: bool

    def row(self) -> dict[str, Any]:
        """The numbers under the heads of a table."""
        return {
            "features": self.features,
            "width": self.width,
            "train": self.train,
            "test": self.test,
            "C": self.penalty,
            "train accuracy": self.train_accuracy,
            "test accuracy": self.test_accuracy,
            "converged": "yes" if self.converged else "no",
        }


def linear_transfer(
    trained: Classifier,
    start: Classifier,
    train: Split,
    test: Split,
    *,
    classes: Sequence[int] | None = None,
    device: torch.device | None = None,
    batch_size: int = 500,
    seed: int = 0,
) -> list[Probe]:
    """Probes on the features of both networks and on the inputs.

    Args:
        trained, start: in eval mode, on `device`; `start` is a network of the same form before training.
        train, test: `x` (samples, ...) as the networks take it and `y` (samples,).
        classes: only samples with these labels; None: all.
        seed: of the part that is held out.

    Raises:
        ValueError: fewer than 2 classes, one of them without samples in a part, or a training part too small to hold
            out a sample per class.
    """
    train, test = chosen(train, classes, "train"), chosen(test, classes, "test")
    missing = sorted(set(test["y"].tolist()) - set(train["y"].tolist()))
    if missing:
        raise ValueError(f"classes: the training part has no sample of class {missing[0]}")
    found = []
    for name, model in (("trained network", trained), ("network at its start", start), ("inputs", None)):
        parts = [features_of(model, part, device, batch_size) for part in (train, test)]
        found.append(logistic_probe(name, parts[0], parts[1], seed=seed))
    return found


def chosen(part: Split, classes: Sequence[int] | None, split: str) -> Split:
    """The samples of some classes.

    Raises:
        ValueError: fewer than 2 classes, one given twice, or without samples here.
    """
    if classes is None:
        return part
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise ValueError(f"classes={list(classes)}: wanted at least 2 different ones")
    present = set(part["y"].tolist())
    for label in classes:
        if label not in present:
            raise ValueError(f"classes: the {split} part has no sample of class {label}")
    rows = torch.isin(part["y"], torch.tensor(list(classes), device=part["y"].device))
    return {"x": part["x"][rows], "y": part["y"][rows]}


@torch.no_grad()
def features_of(
    model: Classifier | None, part: Split, device: torch.device | None = None, batch_size: int = 500
) -> _Part:
    """What the probe sees of a part, in float64, and the labels: features, or of no model the samples flattened."""
    rows = [x if model is None else model.features(x.to(device)) for x in part["x"].split(batch_size)]
    flat = torch.cat([row.flatten(1).cpu() for row in rows])
    return flat.double().numpy(), part["y"].cpu().numpy()


def logistic_probe(name: str, train: _Part, test: _Part, *, seed: int = 0) -> Probe:
    """Chooses C, fits and tests a probe, see the module.

    Raises:
        ValueError: inputs that are not finite, fewer than 2 classes, a class with a single training sample.
    """
    x, y = train
    for part in (train, test):
        if not np.isfinite(part[0]).all():
            raise ValueError(f"{name}: inputs of the probe are not finite")
    labels, counts = np.unique(y, return_counts=True)
    if len(labels) < 2 or counts.min() < 2:
        raise ValueError(f"{name}: a probe needs at least 2 classes with 2 training samples each")
    held = _held_out(y, seed)
    best = _best_penalty(x[~held], y[~held], x[held], y[held])
    fitted, converged = _fit(x, y, [best])[0]
    right, tested = (float(fitted.score(*part)) for part in (train, test))
    return Probe(name, x.shape[1], len(y), len(test[1]), best, right, tested, converged)


def _held_out(y: np.ndarray, seed: int) -> np.ndarray:
    """A fifth of every class, at least one sample and not all."""
    held, draw = np.zeros(len(y), bool), np.random.default_rng(seed)
    for label in np.unique(y):
        rows = draw.permutation(np.flatnonzero(y == label))
        held[rows[: max(1, round(HELD_OUT * len(rows)))]] = True
    return held


def _best_penalty(x: np.ndarray, y: np.ndarray, x_held: np.ndarray, y_held: np.ndarray) -> float:
    """The C of the best accuracy on the held out part, of equally good ones the smallest."""
    scores = [float(fitted.score(x_held, y_held)) for fitted, _ in _fit(x, y, PENALTIES)]
    return PENALTIES[int(np.argmax(scores))]


def _fit(x: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> list[tuple[Any, bool]]:
    """Standardisation and probe per C, and whether it converged; each starts where the one before has ended."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    scaled, found = scaler.transform(x), []
    probe = LogisticRegression(max_iter=MAX_STEPS, warm_start=True)
    for penalty in penalties:
        probe.set_params(C=penalty)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ConvergenceWarning)
            probe.fit(scaled, y)
        converged = not any(issubclass(w.category, ConvergenceWarning) for w in said)
        found.append((make_pipeline(scaler, copy.deepcopy(probe)), converged))
    return found
