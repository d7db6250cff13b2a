"""A trained run with low-rank layers: what `eigenzoo compress` does between loading the run and testing it."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..models.compression.compress import ALL, METHODS, Compression, LayerReport, compress, count_parameters
from ..models.compression.low_rank import Factorised, LowRankConv, LowRankLinear
from ..models.compression.maestro import Maestro
from ..models.compression.ordered import OrderedLayer
from ..models.compression.pruning import prunable, prune_by_magnitude, sparsity_ratios
from ..models.compression.ranks import NO_GAIN, PerLayer
from .base import Task
from .compression_study import first_samples, on_device

SAMPLES = 1024
SPECTRUM_POINTS = 20  # of a tail: small layers have no more


def compress_run(
    task: Task,
    data: Any,
    *,
    method: str,
    ratio: float | None = None,
    targets: str | Sequence[str] = ALL,
    exclude: Sequence[str] = (),
    per_layer: PerLayer = "uniform",
    samples: int = SAMPLES,
) -> Compression:
    """Compresses the model of a task, which stays as it is, on the data and with the loss that it was trained with.

    Args:
        task: of the run, its `model` trained and in eval mode.
        data: the run's data module, set up; the first `samples` of the training split calibrate.
        method: a name of `models.compression.METHODS`.
        ratio, targets, exclude, per_layer: see `models.compression.compress`.

    Raises:
        ValueError: see there; samples below 1.
    """
    if samples < 1:
        raise ValueError(f"samples={samples}: must be at least 1")
    model, batches = task.model, None
    if method in METHODS and METHODS[method].needs_data:
        device = next(model.parameters()).device
        batches = [on_device(batch, device) for batch in first_samples(data.train_dataloader(), samples)]
    return compress(
        model,
        method=method,
        ratio=ratio,
        batches=batches,
        # The task's loss calls its own model, which is this one.
        loss=lambda _, batch: torch.stack(list(task.losses(dict(batch)).values())).sum(),
        targets=targets,
        exclude=exclude,
        per_layer=per_layer,
        call=lambda net, batch: net(*task.inputs_of(dict(batch))),
    )


def exported(node: Mapping[str, Any], made: Compression) -> tuple[dict[str, Any], nn.Module]:
    """(config node, module) of a compressed model, from the node of the dense one: building the node and loading
    the module's state dict gives the module.
    """
    wrapped = {
        "_target_": "eigenzoo.models.compression.Factorised",
        "model": dict(node),
        "ranks": {name: list(entry) for name, entry in made.ranks.items()},
    }
    return wrapped, Factorised(made.model, ranks={}).eval()


def layer_table(made: Compression) -> list[dict[str, Any]]:
    """A row per layer, in the model's order: `layer`, `shape`, `rank`, `before`, `after`, `discarded`, `reason`."""
    return [
        {
            "layer": layer.name,
            "shape": f"{layer.shape[0]} x {layer.shape[1]}",
            "rank": "dense" if layer.rank is None else layer.rank,
            "before": layer.before,
            "after": layer.after,
            "discarded": layer.discarded,
            "reason": layer.reason,
        }
        for layer in made.layers
    ]


def compress_ordered(model: Maestro, ratio: float) -> Compression:
    """A model of ordered ranks as a plain one: the same share of every layer's columns, the largest within `ratio`.

    Parameters before are those of the dense layers that the ordered ones stand for, whatever training has cut.

    Raises:
        ValueError: even one column per layer has more parameters than `ratio` leaves; a layer of which no column is
            left.
    """
    layers = model.layers
    dense = sum(layer.cost(layer.width) for layer in layers.values())
    if empty := [name for name, layer in layers.items() if not layer.rank]:
        raise ValueError(
            f"layer '{empty[0]}' has no column left: it is a bias alone, and has no low-rank form"
        )
    shares = sorted({k / layer.width for layer in layers.values() for k in range(1, layer.width + 1)})
    choices = (model.uniform(share) for share in reversed(shares))
    fitting = (r for r in choices if sum(layers[n].cost(k) for n, k in r.items()) <= ratio * dense)
    ranks = next(fitting, None)
    if ranks is None:
        raise ValueError(f"ratio={ratio}: even one column per layer has more parameters")
    made = model.deploy(ranks)
    thin = {n: k for n, k in ranks.items() if isinstance(made.get_submodule(n), (LowRankLinear, LowRankConv))}
    reports = tuple(_ordered_report(name, layer, ranks[name], name in thin) for name, layer in layers.items())
    return Compression(
        made,
        reports,
        {n: [k, layers[n].bias is not None] for n, k in thin.items()},
        model.count() + dense - sum(layer.cost(layer.rank) for layer in layers.values()),
        count_parameters(made),
    )


@torch.no_grad()
def _ordered_report(name: str, layer: OrderedLayer, rank: int, thin: bool) -> LayerReport:
    whole, cut = layer.matrix(layer.rank), layer.matrix(rank)
    error = float((whole - cut).norm())
    return LayerReport(
        name,
        (whole.shape[0], whole.shape[1]),
        rank if thin else None,
        layer.cost(layer.width),
        layer.cost(rank),
        (error / float(whole.norm())) ** 2 if whole.any() else 0.0,
        error,
        "" if thin else NO_GAIN,
    )


def prune_run(
    model: nn.Module,
    ratio: float,
    *,
    rule: str = "farms",
    eps: float = 0.2,
    layers: Sequence[str] | None = None,
) -> Compression:
    """A copy of a model whose smallest weights are zero; `ratio` of those of the layers stay.

    Args:
        rule: how the zeros are divided among the layers, see `models.compression.sparsity_ratios`.
        eps: how far a layer may be from the mean.
        layers: their paths; None: the linear layers in numbered blocks.

    Raises:
        ValueError: see there.
    """
    pruned = copy.deepcopy(model)
    ratios = sparsity_ratios(pruned, 1 - ratio, rule=rule, eps=eps, least=SPECTRUM_POINTS, layers=layers)
    zeros = prune_by_magnitude(pruned, ratios)
    before = {path: p.detach() for path, p in prunable(model, list(ratios)).items()}
    after = {path: p.detach() for path, p in prunable(pruned, list(ratios)).items()}
    reports = tuple(
        LayerReport(
            path,
            (weight.shape[0], weight.shape[1]),
            None,
            weight.numel(),
            weight.numel() - zeros[path],
            float((weight - after[path]).square().sum() / weight.square().sum().clamp_min(1e-30)),
            float((weight - after[path]).norm()),
            f"{zeros[path] / weight.numel():.3f} are zero",
        )
        for path, weight in before.items()
    )
    whole = count_parameters(model)
    return Compression(pruned, reports, {}, whole, whole - sum(zeros.values()))
