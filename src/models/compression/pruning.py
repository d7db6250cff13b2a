"""Magnitude pruning with a ratio per block, from the exponents of the weights' spectra.

AlphaPruning (Lu et al., NeurIPS 2024, arXiv 2410.10912) prunes least where the spectrum has the heaviest tail: with the
exponent alpha of each linear layer, averaged over the layers of a block, a block's ratio is

    r = c (s1 + (alpha - alpha_min) / (alpha_max - alpha_min) (s2 - s1)),   s1 = 1 - eps,   s2 = 1 + eps,

c such that the mean over all weights is the wanted sparsity. FARMS (Hu et al., ICML 2025, arXiv 2506.06280) measures
alpha on windows of one aspect ratio. Differs: ratios above 1 are set to 1 and the rest is shared out again, where the
published code clips them and misses the sparsity; with equal exponents all ratios are the sparsity.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ...ops.submatrices import Windows
from ...ops.tails import LEAST_POINTS, weight_exponent
from ..arguments import check_choice
from .matrices import weight_layers

RULES = ("uniform", "alpha", "farms")


def block_of(name: str) -> str:
    """Path up to the first number (`blocks.0` of `blocks.0.attention.q`); the whole name where it has none."""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[: at + 1])


def prunable(model: nn.Module, layers: Sequence[str] | None = None) -> dict[str, nn.Parameter]:
    """Weights to prune by the layer's name: the named linear layers, or all that lie in numbered blocks.

    Raises:
        ValueError: a name that is no linear layer with a weight of its own, or no layer or name at all.
    """
    owners = dict(model.named_modules())
    found: dict[str, nn.Parameter] = {}
    for layer in weight_layers(model):
        weight = owners[layer.name].weight
        if layer.kind in ("linear", "transposed") and isinstance(weight, nn.Parameter):
            found[layer.name] = weight
    if layers is None:
        found = {name: w for name, w in found.items() if any(part.isdigit() for part in name.split("."))}
        if not found:
            raise ValueError(
                "layers=None: the model has no linear layer in a numbered block; name the layers"
            )
        return found
    if not layers:
        raise ValueError("layers is empty: name at least one, or None for those in numbered blocks")
    for name in layers:
        check_choice("layers", name, list(found))
    return {name: found[name] for name in layers}


def block_scores(
    model: nn.Module,
    layers: Sequence[str],
    windows: Windows | None = None,
    *,
    tail: str = "fix_finger",
    least: int = LEAST_POINTS,
) -> dict[str, float]:
    """For each of the layers the mean exponent of those of them that lie in its block.

    Args:
        windows: of FARMS; None takes the full spectra.
        tail, least: one of `ops.tails.RULES`, and the points that a tail needs.

    Raises:
        ValueError: a weight without exponent (too few values for the rule, or all equal), named.
    """
    weights = {layer.name: layer.weight for layer in weight_layers(model)}
    blocks: dict[str, list[float]] = {}
    for name in layers:
        try:
            alpha = weight_exponent(weights[name].float(), windows, rule=tail, least=least)
        except ValueError as error:
            raise ValueError(f"layer '{name}': {error}") from error
        blocks.setdefault(block_of(name), []).append(alpha)
    means = {block: sum(alphas) / len(alphas) for block, alphas in blocks.items()}
    return {name: means[block_of(name)] for name in layers}


def pruning_ratios(
    sizes: Mapping[str, int], scores: Mapping[str, float], sparsity: float, eps: float
) -> dict[str, float]:
    """The ratio of every layer, each in [0, 1], with mean `sparsity` over all weights.

    Args:
        sizes: number of weights of each layer.
        scores: the layer's (or its block's) exponent.
        sparsity: 0 to 1.
        eps: 0 to 1 (excluded); 0 is uniform.
    """
    if not 0 <= sparsity <= 1 or not 0 <= eps < 1:
        raise ValueError(f"sparsity={sparsity}, eps={eps}: both must lie in [0, 1], eps below 1")
    low, high = min(scores.values()), max(scores.values())
    if low == high:
        return {name: float(sparsity) for name in sizes}
    raw = {name: 1 - eps + 2 * eps * (scores[name] - low) / (high - low) for name in sizes}
    left, free, found = sparsity * sum(sizes.values()), set(sizes), dict.fromkeys(sizes, 1.0)
    while free:
        c = left / sum(sizes[name] * raw[name] for name in free)
        full = {name for name in free if c * raw[name] > 1}
        if not full:
            return found | {name: c * raw[name] for name in free}
        free -= full
        left -= sum(sizes[name] for name in full)
    return found


def sparsity_ratios(
    model: nn.Module,
    sparsity: float,
    *,
    rule: str = "farms",
    eps: float = 0.2,
    windows: Windows | None = None,
    tail: str = "fix_finger",
    least: int = LEAST_POINTS,
    layers: Sequence[str] | None = None,
) -> dict[str, float]:
    """The pruning ratio of every prunable layer.

    Args:
        rule: `uniform`, `alpha` (full spectra) or `farms` (windows).
        windows: of `farms`; None takes `Windows()`.
        tail, least, layers: as for `block_scores`, `prunable`.
    """
    check_choice("rule", rule, RULES)
    sizes = {name: weight.numel() for name, weight in prunable(model, layers).items()}
    if rule == "uniform":
        return pruning_ratios(sizes, dict.fromkeys(sizes, 0.0), sparsity, 0.0)
    measured = (windows or Windows()) if rule == "farms" else None
    scores = block_scores(model, list(sizes), measured, tail=tail, least=least)
    return pruning_ratios(sizes, scores, sparsity, eps)


@torch.no_grad()
def prune_by_magnitude(model: nn.Module, ratios: Mapping[str, float]) -> dict[str, int]:
    """Sets the smallest weights of every layer to zero, in place; how many, by layer.

    The counts are rounded so that their sum is the rounded sum of `ratio * size`.

    Raises:
        ValueError: a ratio outside [0, 1]; see `prunable`. Nothing is pruned then.
    """
    for name, ratio in ratios.items():
        if not 0 <= ratio <= 1:
            raise ValueError(f"the ratio of layer '{name}' is {ratio}: must lie in [0, 1]")
    weights = prunable(model, list(ratios))
    counts, wanted, done = {}, 0.0, 0
    for name, weight in weights.items():
        wanted += ratios[name] * weight.numel()
        counts[name] = min(weight.numel(), max(0, round(wanted) - done))
        done += counts[name]
        _zero_smallest(weight, counts[name])
    return counts


def _zero_smallest(weight: Tensor, count: int) -> None:
    smallest = weight.abs().flatten().topk(count, largest=False).indices
    kept = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    kept[smallest] = False
    weight.mul_(kept.view_as(weight))
