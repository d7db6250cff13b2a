"""What can be measured of a classifier's features and its head: spread, separation, neural collapse, angles.

| name | is |
|---|---|
| `variability`, `class_separation` | of the features, `ops.feature_geometry` (degrees; R^2) |
| `nc1` | of the features, `ops.collapse`; `nc1_layer2`, ... of what enters further layers of a deep linear head |
| `nc2`, `nc3` | of the head's matrix against a frame; `nc2_layer2`, ... from that layer on (NC3 is the same at all) |
| `subspace_angle`, `least_subspace_angle` | principal angles between the classes of a Grassmann head, degrees |
| `orthonormality_error` | max over its classes of max abs(S S^T - I) |

NC2 and NC3 need one matrix (or stack of them) from the features to the classes: the `weights()` of a deep linear head,
the rows of a fixed simplex, or a tensor `weight` of shape (classes, dim); heads that see directions alone
(`CosineHead`, `VonMisesFisherHead`) have it with rows of length 1. Other heads have no NC2 and NC3.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..models.heads.classifier import Classifier
from ..models.heads.cosine import CosineHead
from ..models.heads.equiangular import EquiangularHead
from ..models.heads.etf import SimplexETFHead
from ..models.heads.grassmann import GrassmannHead
from ..models.heads.head import unit
from ..models.heads.vmf import VonMisesFisherHead
from ..ops.collapse import fits, layer_collapse, nc1
from ..ops.feature_geometry import class_separation, intra_class_variability
from ..ops.grassmann import orthonormality_error, principal_angles
from .base import Batch

MAX_SUBSPACES = 100  # whose angles are measured, each with each


@dataclass(frozen=True)
class Measures:
    """`values` by name; `undefined`: why a measure of the features has no value."""

    values: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)


def measure(
    features: Float[Tensor, "samples dim"],
    labels: Int[Tensor, " samples"],
    head: nn.Module | None = None,
    *,
    frame: str = "simplex",
) -> Measures:
    """All that is defined for these samples and this head, see the module.

    The classes are those that have samples; NC2 and NC3 are left out where the head has more of them, or where the
    width cannot hold the frame. Features of length 0 have no variability and separation.

    Args:
        head: None measures the features alone.
        frame: target of NC2 and NC3, one of `ops.collapse.FRAMES`.
    """
    present, compact = labels.unique(return_inverse=True)
    classes = len(present)
    found = Measures()
    for name, value in (
        ("variability", intra_class_variability),
        ("class_separation", class_separation),
        ("nc1", nc1),
    ):
        _note(found, name, lambda value=value: float(value(features, compact, classes)))
    if head is not None and "nc1" in found.values:
        found.values.update(_collapse(head, features, labels, frame))
    if isinstance(head, GrassmannHead):
        found.values.update(subspace_angles(head))
        found.values["orthonormality_error"] = _orthonormality_error(head)
    return found


def _note(found: Measures, name: str, value: Callable[[], float]) -> None:
    try:
        found.values[name] = value()
    except ValueError as error:
        found.undefined[name] = str(error)


def _collapse(head: nn.Module, features: Tensor, labels: Tensor, frame: str) -> dict[str, float]:
    """NC2 and NC3 of a head, and NC1 and NC2 of its further layers; empty where they are not defined."""
    layers = head_weights(head)
    if layers is None or len(labels.unique()) < len(layers[-1]):
        return {}
    if not all(fits(frame, len(layers[-1]), weight.shape[1]) for weight in layers):
        return {}
    first, *others = layer_collapse([w.to(features.device) for w in layers], features, labels, frame)
    found = {"nc2": first.nc2, "nc3": first.nc3}
    for number, layer in enumerate(others, 2):
        found.update({f"nc1_layer{number}": layer.nc1, f"nc2_layer{number}": layer.nc2})
    return found


def head_weights(head: nn.Module) -> list[Tensor] | None:
    """The matrices from the features to the classes, first to last, as the head uses them; None: there are none."""
    stack = getattr(head, "weights", None)
    if callable(stack):
        return [weight.detach() for weight in stack()]  # type: ignore[union-attr, attr-defined]
    weight = head.vectors if isinstance(head, SimplexETFHead) else getattr(head, "weight", None)
    shape = (getattr(head, "num_classes", None), getattr(head, "dim", None))
    if isinstance(head, EquiangularHead) or not isinstance(weight, Tensor) or tuple(weight.shape) != shape:
        return None  # an equiangular head normalises between its two matrices, of which the first may have this shape
    directed = isinstance(head, (CosineHead, VonMisesFisherHead))
    return [unit(weight.detach()) if directed else weight.detach()]


@torch.no_grad()
def subspace_angles(head: GrassmannHead) -> dict[str, float]:
    """Mean and smallest principal angle over all pairs of classes, degrees; of at most 100 classes, evenly spread."""
    taken = min(MAX_SUBSPACES, head.num_classes)
    bases = [head.basis(i * head.num_classes // taken).double() for i in range(taken)]
    pairs = [
        principal_angles(bases[a], torch.stack(same))
        for a in range(taken)
        for same in _by_dimension(bases[a + 1 :])
    ]
    angles = torch.cat([pair.flatten() for pair in pairs]) * (180 / math.pi)
    return {"subspace_angle": float(angles.mean()), "least_subspace_angle": float(angles.min())}


@torch.no_grad()
def _orthonormality_error(head: GrassmannHead) -> float:
    return max(float(orthonormality_error(p.detach()).max()) for p in head.parameters())


def _by_dimension(bases: list[Tensor]) -> list[list[Tensor]]:
    return [[b for b in bases if len(b) == k] for k in sorted({len(b) for b in bases})]


@torch.no_grad()
def collect(
    model: Classifier, batches: Iterable[Batch], device: torch.device | None = None
) -> tuple[Float[Tensor, "samples dim"], Int[Tensor, " samples"], Int[Tensor, " samples"]]:
    """Features that the head sees, labels and predictions of all samples, on the CPU; the model must be in eval mode.

    Args:
        device: where the model is; None: the CPU.
    """
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in batches:
        kept = batch["mask"] if "mask" in batch else torch.ones_like(batch["y"], dtype=torch.bool)
        features = model.features(batch["x"].to(device))
        found = features, batch["y"], model.head.predict(features)
        rows.append(tuple(t[kept.to(t.device)].cpu() for t in found))  # type: ignore[arg-type]
    features, labels, predicted = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return features, labels, predicted


def spread_batches(data: Any, split: str, samples: int, batch_size: int = 500) -> Iterator[Batch]:
    """At most so many samples of a split of a data module, drawn at random (always the same) and in its order.

    At equal distances they would miss classes where the labels of a set take turns.
    """
    tensors = data.splits[split]
    order = torch.randperm(len(tensors["y"]), generator=torch.Generator().manual_seed(0))
    for rows in order[:samples].sort().values.split(batch_size):
        yield data.prepare({key: tensor[rows.to(tensor.device)] for key, tensor in tensors.items()})


def split_row(
    split: str, features: Tensor, labels: Tensor, predicted: Tensor, head: nn.Module
) -> tuple[dict[str, str | int | float], dict[str, str]]:
    """The measures of a split under the heads of a table, NC2 and NC3 to both frames; why others have none."""
    found = measure(features, labels, head)
    values = found.values
    accuracy = float((predicted == labels).double().mean())
    row = {"split": split, "samples": len(labels), "classes": len(labels.unique()), "accuracy": accuracy}
    for name, value in values.items():
        row[f"{name} (simplex)" if name.startswith(("nc2", "nc3")) else name] = value
    other = _collapse(head, features, labels, "orthogonal") if "nc1" in values else {}
    row |= {f"{n} (orthogonal)": v for n, v in other.items() if n.startswith(("nc2", "nc3"))}
    return row, found.undefined
