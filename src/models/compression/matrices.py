"""The weights of a network as matrices, layer by layer, for spectra and pruning."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from ..adapters.site import site_of


class LayerWeight(NamedTuple):
    """A layer's weight (dim_out, dim_in, *kernel), a view without gradient, under the layer's path and kind."""

    name: str
    kind: str
    weight: Tensor


def weight_layers(model: nn.Module, *, embeddings: bool = False) -> Iterator[LayerWeight]:
    """Linear layers, convolutions (dim_in per group) and transformers' `Conv1D`, in the order of the model.

    A module with a `base` and a weight of its own, as an adapter's wrapper, counts as one layer with this weight; what
    lies inside is left out. Embeddings, where wanted, are (dim, number of tokens). A layer that occurs twice is told
    once.
    """
    wrappers: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{wrapper}.") for wrapper in wrappers):
            continue
        base, weight = getattr(module, "base", None), getattr(module, "weight", None)
        if isinstance(base, nn.Module) and isinstance(weight, Tensor):
            wrappers.append(name)
            module = base
        site = site_of(name, module)
        if site is None or not isinstance(weight, Tensor) or (site.kind == "embedding" and not embeddings):
            continue
        turned = site.kind in ("transposed", "embedding")
        yield LayerWeight(name, site.kind, weight.detach().mT if turned else weight.detach())
