"""How much a trained language model loses by low-rank factors in place of its layers, by method and ratio."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.module import IGNORED
from ..errors import DataError
from ..models.arguments import check_choice, check_sizes
from ..models.compression.compress import METHODS, Compression, count_parameters, prepare
from ..models.compression.ranks import RULES
from ..ops.factorisation import check_ratio
from .inputs import Batch

LAYERS = ("q", "k", "v", "o", "up", "down")  # of a block of `GPT`: neither embeddings nor head
FISHER, OTHERWISE = 256, 1024  # sequences


@dataclass(frozen=True, eq=False)
class CompressionStudy:
    """Compresses a trained model at several ratios, without training; deterministic.

    Calling it returns `loss/dense` and, for every ratio, as `name@ratio`:

    | name | meaning |
    |---|---|
    | `loss` | mean cross-entropy over the tokens of the validation split, in nats |
    | `excess` | that minus `loss/dense` |
    | `perplexity_growth` | exp(excess) - 1 |
    | `reconstruction` | sqrt(sum over the layers of |W - L|_F^2) |
    | `parameters` | of the whole compressed model |
    | `kept` | parameters of the compressed layers, after over before |

    Args:
        base: the trained model, tokens (batch, length) to logits (batch, length, vocabulary).
        data: a data module with next tokens `y`: its validation split is what losses are of.
        method: one of `models.compression.METHODS`.
        ratios: shares of each layer's parameters that are kept.
        per_layer: `uniform` or `energy`.
        calibration: a data module whose training split calibrates; None: `data`.
        sequences: of the training split that calibrate; None: 256 for the Fisher information, else 1024.
        targets: patterns of the layers.

    Raises:
        ValueError: an unknown method or rule, a ratio outside (0, 1], no ratio, sequences below 1.
    """

    base: nn.Module
    data: Any
    method: str = "svd"
    ratios: Sequence[float] = (0.9, 0.7, 0.5, 0.3)
    per_layer: str = "uniform"
    calibration: Any = None
    sequences: int | None = None
    targets: Sequence[str] = LAYERS

    def __post_init__(self) -> None:
        check_choice("method", self.method, tuple(METHODS))
        check_choice("per_layer", self.per_layer, RULES)
        if not self.ratios:
            raise ValueError("ratios is empty: name at least one")
        for ratio in self.ratios:
            check_ratio(ratio)
        if self.sequences is not None:
            check_sizes(sequences=self.sequences)

    def __call__(self) -> dict[str, float]:
        model = self.base.eval()
        device = next(model.parameters()).device
        self.data.setup()
        validation = [on_device(batch, device) for batch in self.data.val_dataloader()]
        dense = mean_loss(model, validation)
        found = {"loss/dense": dense, "parameters/dense": float(count_parameters(model))}
        prepared = prepare(
            model,
            method=self.method,
            batches=self._calibration(device),
            loss=token_loss,
            targets=list(self.targets),
        )
        for ratio in self.ratios:
            made = prepared.compress(ratio, self.per_layer)
            values = _values(made, mean_loss(made.model, validation), dense)
            found |= {f"{name}@{ratio:g}": value for name, value in values.items()}
        return found

    def _calibration(self, device: torch.device) -> list[Batch]:
        data = self.data if self.calibration is None else self.calibration
        data.setup()
        sequences = self.sequences or (FISHER if METHODS[self.method].needs_loss else OTHERWISE)
        return [on_device(batch, device) for batch in first_samples(data.train_dataloader(), sequences)]


def _values(made: Compression, loss: float, dense: float) -> dict[str, float]:
    return {
        "loss": loss,
        "excess": loss - dense,
        "perplexity_growth": math.expm1(loss - dense),
        "reconstruction": math.sqrt(sum(layer.error**2 for layer in made.layers)),
        "parameters": float(made.after),
        "kept": made.ratio,
    }


def first_samples(batches: Any, samples: int) -> Iterator[Batch]:
    """The first so many samples of an iterable of batches, in batches; fewer where there are no more."""
    for batch in batches:
        rows = min(samples, len(batch["x"]))
        yield {name: t[:rows] if t.ndim else t for name, t in batch.items()}
        samples -= rows
        if not samples:
            return


def token_loss(model: nn.Module, batch: Any) -> Tensor:
    """Mean cross-entropy over the tokens of a batch that count, in nats, at least in float32."""
    logits = model(batch["x"]).flatten(0, 1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, batch["y"].flatten(), ignore_index=IGNORED)


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Any]) -> float:
    """Mean cross-entropy over all tokens that count, in nats; DataError where there is none."""
    total, tokens = 0.0, 0
    for batch in batches:
        if here := int((batch["y"] != IGNORED).sum()):
            total, tokens = total + here * float(token_loss(model, batch)), tokens + here
    if not tokens:
        raise DataError(
            f"there is no token to take the loss of: every label is {IGNORED}, or there is no batch"
        )
    return total / tokens


def on_device(batch: Any, device: torch.device) -> Batch:
    """The batch with all its tensors there."""
    return {name: tensor.to(device) for name, tensor in batch.items()}
