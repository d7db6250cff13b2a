"""The rank of every layer under a budget of parameters."""

import difflib
import heapq
from collections.abc import Mapping

from torch import Tensor

from ...ops.factorisation import Decomposition, rank_for_ratio
from ..adapters.site import Site
from ..arguments import check_choice

RULES = ("uniform", "energy")
PerLayer = str | Mapping[str, int]
NO_GAIN = "two factors would not be smaller"


def choose_ranks(
    sites: Mapping[str, Site],
    found: Mapping[str, Decomposition] | None,
    ratio: float,
    per_layer: PerLayer = "uniform",
) -> dict[str, int | None]:
    """The rank of every layer; None for one that stays dense.

    | per_layer | rank |
    |---|---|
    | `uniform` | `floor(ratio N M / (N + M))` of each layer; dense where that is not smaller |
    | `energy` | of all layers together, the terms that hold most per parameter: see `greedy_ranks` |
    | a mapping | as it says by path; layers that it does not name stay dense |

    Raises:
        ValueError: an unknown rule or path, a rank out of range.
    """
    if isinstance(per_layer, Mapping):
        return {name: per_layer.get(name) for name in _checked(per_layer, sites)}
    check_choice("per_layer", per_layer, RULES)
    if per_layer == "uniform":
        return {name: rank_for_ratio(ratio, *site.shape) for name, site in sites.items()}
    if found is None:
        raise ValueError("per_layer='energy' needs all layers decomposed at once; sequential fits one by one")
    return greedy_ranks(
        {name: site.shape for name, site in sites.items()},
        {name: found[name].energies for name in sites},
        ratio,
    )


def greedy_ranks(
    shapes: Mapping[str, tuple[int, int]], energies: Mapping[str, Tensor], ratio: float
) -> dict[str, int | None]:
    """Ranks that discard least energy, each layer's relative to its own total, with `ratio` of all parameters.

    Every layer starts at rank 1. One step adds a term to a layer at N + M parameters, or makes it dense again once
    factors would not be smaller; the step that gains most energy per parameter is taken as long as it fits the
    budget. As energies fall with the term, no other choice of ranks at the same cost discards less (up to the
    last step that did not fit, and to the jump of a dense layer).
    """
    costs = {name: n + m for name, (n, m) in shapes.items() if n + m < n * m}
    dense = {name: n * m for name, (n, m) in shapes.items() if name in costs}
    most = {name: -(-dense[name] // cost) - 1 for name, cost in costs.items()}
    shares = {name: (energies[name] / energies[name].sum().clamp_min(1e-300)).tolist() for name in costs}
    ranks: dict[str, int | None] = {name: 1 if name in costs else None for name in shapes}
    budget = int(ratio * sum(dense.values())) - sum(costs.values())

    def step(name: str, rank: int) -> tuple[float, str, int, int]:
        """(minus the gain per parameter, layer, its rank after the step or 0 for dense, cost)."""
        if rank < most[name] and rank < len(shares[name]):
            return -shares[name][rank] / costs[name], name, rank + 1, costs[name]
        cost = max(1, dense[name] - rank * costs[name])
        return -sum(shares[name][rank:]) / cost, name, 0, cost

    steps = [step(name, 1) for name in costs]
    heapq.heapify(steps)
    while steps:
        _, name, rank, cost = heapq.heappop(steps)
        if cost > budget:
            continue
        budget -= cost
        ranks[name] = rank or None
        if rank:
            heapq.heappush(steps, step(name, rank))
    return ranks


def _checked(ranks: Mapping[str, int], sites: Mapping[str, Site]) -> Mapping[str, Site]:
    for name, rank in ranks.items():
        if name not in sites:
            near = difflib.get_close_matches(name, sites, n=1, cutoff=0.4)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"per_layer: '{name}' is no layer that is compressed{hint}")
        limit = min(sites[name].shape)
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= limit:
            raise ValueError(f"per_layer: the rank of {sites[name].text} is {rank!r}, wanted 1 .. {limit}")
    return sites
