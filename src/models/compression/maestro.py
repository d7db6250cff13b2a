"""Maestro: layers that are products of ordered factors from the start, and lose their tail while they train.

Horváth, Laskaridis, Rajput, Wang, "Maestro: Uncovering Low-Rank Structures via Trainable Decomposition", ICML 2024,
arXiv 2308.14929. A layer's weight W (out, in), of a convolution (out, in kh kw), becomes

    W = second first,    second = U sqrt(S) (out, k),    first = sqrt(S) V^T (k, in),    k = min(out, in),

from the singular values of its random (or given) weight; the bias comes after `second`. Each training step draws one
pair (layer, b) of all of them; that layer uses its first b columns, every other one all. Beside the task's loss stands

    lambda sum_j ( ||second[:, j:]||_F + ||first[j:, :]||_F )

over the layers and columns j, and what has `||second[:, j:]||_F ||first[j:, :]||_F` below a threshold is cut between
epochs. The paper's claims: for a linear map of whitened inputs the ordered factors are the singular value
decomposition, for a linear auto-encoder the principal components, and one model serves every rank by its prefixes.

What differs here: a cut is final (in the released code tails count what has been cut and may bring it back), prefixes
are views, the pairs are drawn by a function of (seed, step) without state, and layers are named.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..adapters.inject import find_sites
from ..arguments import check_choice
from .ordered import MaestroConv2d, MaestroLinear, OrderedLayer

LASSOS = ("hierarchical", "plain")


class Maestro(nn.Module):
    """A model whose named layers are ordered factors, see the module's docstring. Called as the model itself.

    Under `torch.compile` every new prefix is compiled anew.

    Args:
        base: the model; its layers are replaced in place.
        layers: patterns of the layers' paths, whole components from the end, as `fc1` or `blocks.*.up`.
        lasso: `hierarchical`, or `plain`, with the norms of single columns in place of tails.

    Raises:
        ValueError: see `decompose`.
    """

    def __init__(self, base: nn.Module, *, layers: str | Sequence[str], lasso: str = "hierarchical"):
        super().__init__()
        check_choice("lasso", lasso, LASSOS)
        self.hierarchical = lasso == "hierarchical"
        decompose(base, layers)
        self.base = base

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.base(*inputs, **options)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Those of the model."""
        return self.base.example_inputs(batch)  # type: ignore[operator]

    @property
    def layers(self) -> dict[str, OrderedLayer]:
        """The ordered layers by their path in `base`."""
        return {n: m for n, m in self.base.named_modules() if isinstance(m, OrderedLayer)}

    @property
    def ranks(self) -> dict[str, int]:
        """Columns that are left, by layer."""
        return {name: layer.rank for name, layer in self.layers.items()}

    def start(self, weights: Mapping[str, Tensor] | None) -> None:
        """Takes the weights of the undecomposed model (a state dict), the layers' by their singular values."""
        if weights is None:
            return
        rest, layers = dict(weights), self.layers
        for name, layer in layers.items():
            layer.start(rest.pop(f"{name}.weight"))
        missing, unexpected = self.base.load_state_dict(rest, strict=False)
        own = {f"{name}.{part}" for name in layers for part in ("first", "second", "kept")}
        if wrong := sorted({*unexpected, *missing} - own):
            raise ValueError(f"the weights are not those of this model: {wrong[0]!r} is only in one of them")

    def sample(self, seed: int, step: int) -> tuple[str, int]:
        """The (layer, b) of a step: rounds through all pairs with 1 <= b <= rank, each in an order of its own.

        A pure function of the arguments and of the present ranks. Raises ValueError where all ranks are 0.
        """
        ranks = self.ranks
        total = sum(ranks.values())
        if not total:
            raise ValueError("every layer is cut to rank 0; the penalty or the threshold is too large")
        pair, names = int(_order(total, seed, step // total)[step % total]), list(ranks)
        ends = np.cumsum(list(ranks.values()))
        layer = int(np.searchsorted(ends, pair, side="right"))
        return names[layer], pair - int(ends[layer]) + ranks[names[layer]] + 1

    @contextmanager
    def prefix(self, ranks: Mapping[str, int]) -> Iterator[None]:
        """Within, the named layers use so many columns (at most those that are left), all others what they have.

        Raises ValueError for an unknown layer or a rank that its factors do not have.
        """
        chosen = self._checked(ranks)
        before = {name: layer.active for name, layer in self.layers.items()}
        try:
            for name, rank in chosen.items():
                self.layers[name].active = rank
            yield
        finally:
            for name, layer in self.layers.items():
                layer.active = before[name]

    def penalty(self) -> Float[Tensor, ""]:
        """The group lasso over all layers, before lambda; cut columns do not count."""
        return torch.stack([layer.penalty(self.hierarchical) for layer in self.layers.values()]).sum()

    def shrink(self, threshold: float) -> dict[str, tuple[int, int]]:
        """Cuts for good the columns whose (hierarchical) importance is below the threshold, in every layer.

        Returns (rank before, rank after) of the layers that lost some. The optimiser's state of the cut columns is
        the caller's to clear: momentum would move them on.

        Raises:
            ValueError: factors that hold NaN or infinity; nothing is cut then.
        """
        importance = {name: layer.importance() for name, layer in self.layers.items()}
        for name, values in importance.items():
            if not values.isfinite().all():
                raise ValueError(f"layer '{name}': its factors hold NaN or infinity")
        cuts = {}
        for name, layer in self.layers.items():
            before, after = layer.rank, int((importance[name] >= threshold).sum())
            if after < before:
                layer.keep(after)
                cuts[name] = (before, after)
        return cuts

    def uniform(self, fraction: float) -> dict[str, int]:
        """The same fraction of every layer's full width, rounded up, at most what is left of it."""
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction={fraction}: must lie in (0, 1]")
        # The product may lie a rounding error above the whole number that is meant: 7 / 25 * 25.
        wanted = {
            name: max(1, int(np.ceil(fraction * layer.width - 1e-9))) for name, layer in self.layers.items()
        }
        return {name: min(rank, self.layers[name].rank) for name, rank in wanted.items()}

    def greedy(self, parameters: int) -> dict[str, int]:
        """Ranks with at most so many parameters: the least important tail of all layers goes first.

        Raises:
            ValueError: the rest of the model alone has more.
        """
        ranks, importance = self.ranks, {n: layer.importance().tolist() for n, layer in self.layers.items()}
        while self.count(ranks) > parameters:
            left = [name for name, rank in ranks.items() if rank]
            if not left:
                raise ValueError(f"parameters={parameters}: at rank 0 the model has {self.count(ranks)}")
            least = min(left, key=lambda name: importance[name][ranks[name] - 1])
            ranks[least] -= 1
        return ranks

    def count(self, ranks: Mapping[str, int] | None = None) -> int:
        """Parameters of `deploy(ranks)`."""
        chosen = self.ranks | self._checked(ranks or {})
        factors = sum(layer.first.numel() + layer.second.numel() for layer in self.layers.values())
        rest = sum(p.numel() for p in self.base.parameters()) - factors
        return rest + sum(layer.cost(chosen[name]) for name, layer in self.layers.items())

    def deploy(self, ranks: Mapping[str, int] | None = None) -> nn.Module:
        """A copy of the model with plain layers, at these ranks (others: as they are).

        A layer becomes two thin ones, or one dense one where that has no more parameters. One of rank 0 stays an
        ordered layer with empty factors: it gives its bias.
        """
        chosen, layers = self._checked(ranks or {}), self.layers
        for name, layer in layers.items():
            chosen[name] = min(chosen.get(name, layer.rank), layer.rank)
        plain = copy.deepcopy(self.base)
        for name, layer in layers.items():
            plain.set_submodule(name, layer.plain(chosen[name]))
        return plain

    def report(self) -> dict[str, dict[str, int]]:
        """Per layer `rank`, `width` (full rank), `parameters` when deployed, and `dense`, the layer's at first."""
        return {
            name: {
                "rank": layer.rank,
                "width": layer.width,
                "parameters": layer.cost(layer.rank),
                "dense": layer.first.shape[1] * layer.second.shape[0],
            }
            for name, layer in self.layers.items()
        }

    def _checked(self, ranks: Mapping[str, int]) -> dict[str, int]:
        layers = self.layers
        for name, rank in ranks.items():
            check_choice("layer", name, tuple(layers))
            if not 0 <= rank <= layers[name].width:
                raise ValueError(f"rank of layer '{name}' is {rank}, must lie in 0 .. {layers[name].width}")
        return {name: min(rank, layers[name].rank) for name, rank in ranks.items()}


@lru_cache(maxsize=4)
def _order(total: int, seed: int, round_: int) -> np.ndarray:
    """The permutation of all pairs that belongs to a round."""
    return np.random.default_rng((seed, round_)).permutation(total)


def decompose(model: nn.Module, layers: str | Sequence[str]) -> dict[str, OrderedLayer]:
    """Puts ordered factors of full rank in place of the named layers; the model's output stays what it is.

    Args:
        layers: patterns, see `Maestro`.

    Raises:
        ValueError: a pattern without a match, a layer that is neither linear nor a 2-D convolution, grouped
            convolutions, padding other than with zeros, a weight that another layer shares or that is not finite.
            Nothing is replaced then.
    """
    sites = find_sites(model, layers)
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    made = {}
    for name, site in sites.items():
        if owners.get(id(site.weight), 1) > 1:
            raise ValueError(f"layer '{name}': another layer shares its weight")
        made[name] = _ordered(name, site.module)
    for name, layer in made.items():
        model.set_submodule(name, layer)
    return made


def _ordered(name: str, module: nn.Module) -> OrderedLayer:
    kinds: dict[type[nn.Module], type[OrderedLayer]] = {nn.Linear: MaestroLinear, nn.Conv2d: MaestroConv2d}
    for kind, ordered in kinds.items():
        if isinstance(module, kind):
            try:
                return ordered.of(module)
            except ValueError as error:
                raise ValueError(f"layer '{name}': {error}") from None
    raise ValueError(f"layer '{name}' is a {type(module).__name__}, known are Linear and Conv2d")
