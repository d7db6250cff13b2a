"""`compress`: a trained model with low-rank layers in place of dense ones, and a report on every layer."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...ops.factorisation import Decomposition, Factors, check_ratio
from ..adapters.inject import find_sites
from ..adapters.site import Site, site_of
from ..arguments import check_choice
from .fwsvd import FWSVD
from .lord import LoRD, Whitened
from .low_rank import factorise, without_low_rank_form
from .method import Batch, Call, Loss, Method, bias_of, call_model, check_evaluating, check_untied
from .ranks import NO_GAIN, PerLayer, choose_ranks
from .svd import SVD

ALL = "all"
UNNAMED = "it is given no rank"
METHODS: dict[str, Method] = {
    "svd": SVD(),
    "fwsvd": FWSVD(),
    "fwsvd_output": FWSVD(axis="output"),
    "fwsvd_batch": FWSVD(samples=32),
    "lord": LoRD(),
    "lord_uncentred": LoRD(centre=False),
    "lord_sequential": LoRD(sequential=True),
    "whitened": Whitened(),
}


@dataclass(frozen=True)
class LayerReport:
    """What became of a layer.

    Attributes:
        shape: (out, in * kernel) of its matrix.
        rank: of its factors; None: it was left alone, for `reason`.
        before, after: parameters, biases included.
        discarded: share of the method's own criterion that the rank leaves out, 0 .. 1.
        error: |W - L|_F.
    """

    name: str
    shape: tuple[int, int]
    rank: int | None
    before: int
    after: int
    discarded: float = 0.0
    error: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Compression:
    """A compressed model and how it came about.

    Attributes:
        model: the same model with `LowRankLinear` and `LowRankConv` in the places of layers.
        layers: one report for every layer that was looked at.
        ranks: path -> [rank, bias], the argument of `Factorised` that rebuilds the structure.
        before, after: parameters of the whole model.
    """

    model: nn.Module
    layers: tuple[LayerReport, ...]
    ranks: dict[str, list[Any]]
    before: int
    after: int

    @property
    def ratio(self) -> float:
        """Parameters of the layers that were looked at, after over before."""
        return sum(layer.after for layer in self.layers) / sum(layer.before for layer in self.layers)


@dataclass(frozen=True)
class Prepared:
    """A model whose layers a method has taken apart; `compress` cuts them to any ratio.

    Attributes:
        layers: all that were named, by path; `reasons`, why one of them stays dense, or "".
        terms: of the others; None where the method fits them one after the other.
    """

    model: nn.Module
    method: Method
    layers: dict[str, Site]
    reasons: dict[str, str]
    terms: dict[str, Decomposition] | None
    batches: list[Batch]
    call: Call

    @torch.no_grad()
    def compress(self, ratio: float | None = None, per_layer: PerLayer = "uniform") -> Compression:
        """A copy of the model with `ratio` of the layers' parameters, or with ranks by path; see `compress`."""
        if not isinstance(per_layer, Mapping):
            if ratio is None:
                raise ValueError(
                    "ratio is None: say the share of parameters to keep, or per_layer as ranks by path"
                )
            check_ratio(ratio)
        sites = {name: site for name, site in self.layers.items() if not self.reasons[name]}
        chosen = choose_ranks(sites, self.terms, ratio or 1.0, per_layer)
        ranks = {name: rank for name, rank in chosen.items() if rank is not None}
        terms = self.terms
        if terms is None:
            terms = dict(self.method.factors(self.model, sites, self.batches, ranks, call=self.call))
        factors = {name: _cut(sites[name], terms[name], rank) for name, rank in ranks.items()}
        otherwise = UNNAMED if isinstance(per_layer, Mapping) else NO_GAIN
        reports = tuple(
            _report(site, terms.get(name), factors.get(name), self.reasons[name] or otherwise)
            for name, site in self.layers.items()
        )
        smaller = factorise(deepcopy(self.model), factors)
        structure = {name: [f.first.shape[-2], f.bias is not None] for name, f in factors.items()}
        return Compression(
            smaller, reports, structure, count_parameters(self.model), count_parameters(smaller)
        )


@torch.no_grad()
def prepare(
    model: nn.Module,
    *,
    method: str | Method,
    batches: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    targets: str | Sequence[str] = ALL,
    exclude: Sequence[str] = (),
    call: Call = call_model,
) -> Prepared:
    """Everything of `compress` that does not depend on the ratio; arguments and errors as there."""
    method = _method(method)
    check_evaluating(model)
    layers = layers_of(model, targets, exclude)
    reasons = {n: without_low_rank_form(s) or method.reason_against(s) for n, s in layers.items()}
    sites = {name: site for name, site in layers.items() if not reasons[name]}
    check_untied(model, sites)
    _check_weights(sites)
    data = _data(method, batches, loss)
    terms = None if method.one_by_one else method.decompose(model, sites, data, loss=loss, call=call)
    return Prepared(model, method, layers, reasons, terms, data if terms is None else [], call)


def compress(
    model: nn.Module,
    *,
    method: str | Method,
    ratio: float | None = None,
    batches: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    targets: str | Sequence[str] = ALL,
    exclude: Sequence[str] = (),
    per_layer: PerLayer = "uniform",
    call: Call = call_model,
) -> Compression:
    """A copy of the model in which each layer has about `ratio` of its parameters; nothing is trained.

    The new model is `compress(...).model`.

    Args:
        model: trained, in eval mode; it is not changed.
        method: one of `METHODS`, or one with settings of its own: `FWSVD(axis="output")`.
        ratio: share of the weights that is kept, see `choose_ranks`; biases that a method adds come on top. Not
            with ranks by path.
        batches: for methods that look at data: mappings with `x` (and `lengths`, `y`), on the model's device.
        loss: for `FWSVD`: `loss(model, batch)`, the task's mean loss over a batch.
        targets, exclude: patterns of layers as for adapters; `all`: every linear layer and convolution.
        per_layer: `uniform`, `energy`, or ranks by path.
        call: runs the model on a batch.

    Raises:
        ValueError: an unknown method, a ratio outside (0, 1], a model in training mode, a weight that is shared or
            not finite, data that are missing, not finite, or fewer than the rank; and see `fisher` and
            `layer_moments`.
    """
    if ratio is not None:
        check_ratio(ratio)
    found = prepare(
        model, method=method, batches=batches, loss=loss, targets=targets, exclude=exclude, call=call
    )
    return found.compress(ratio, per_layer)


def layers_of(
    model: nn.Module, targets: str | Sequence[str] = ALL, exclude: Sequence[str] = ()
) -> dict[str, Site]:
    """The layers that are named; with `all` every linear layer and convolution. ValueError where there is none."""
    if targets != ALL:
        return find_sites(model, targets, exclude=exclude)
    left_out = find_sites(model, exclude) if exclude else {}
    modules = [(name, module) for name, module in model.named_modules() if name and name not in left_out]
    found = {name: site_of(name, module) for name, module in modules}
    sites = {name: site for name, site in found.items() if site is not None and site.kind != "embedding"}
    if not sites:
        raise ValueError("the model has no linear layer or convolution that could be replaced")
    return sites


def _method(method: str | Method) -> Method:
    if isinstance(method, Method):
        return method
    check_choice("method", method, tuple(METHODS))
    return METHODS[method]


def _data(method: Method, batches: Iterable[Batch] | None, loss: Loss | None) -> list[Batch]:
    data = [] if batches is None or not method.needs_data else list(batches)
    if method.needs_data and not data:
        raise ValueError(f"batches: {type(method).__name__} looks at data, and there are none")
    if method.needs_loss and loss is None:
        raise ValueError(f"loss is None: {type(method).__name__} wants the task's loss(model, batch)")
    return data


def _check_weights(sites: Mapping[str, Site]) -> None:
    for site in sites.values():
        if not torch.isfinite(site.weight).all():
            raise ValueError(f"the weight of {site.text} holds NaN or infinity")


def _cut(site: Site, found: Decomposition, rank: int) -> Factors:
    if rank > (most := len(found.energies)):
        raise ValueError(
            f"{site.text} was to get rank {rank}, but the calibration data have {most} tokens: give more data"
        )
    return found.cut(rank)


def _report(site: Site, terms: Decomposition | None, factors: Factors | None, reason: str) -> LayerReport:
    before, bias = site.weight.numel(), bias_of(site)
    before += 0 if bias is None else bias.numel()
    if terms is None or factors is None:
        return LayerReport(site.name, site.shape, None, before, before, reason=reason)
    rank = factors.first.shape[-2]
    W = site.matrix().to(factors.first)
    return LayerReport(
        site.name,
        site.shape,
        rank,
        before,
        sum(part.numel() for part in factors if part is not None),
        discarded=float(terms.energies[rank:].sum() / terms.energies.sum().clamp_min(1e-300)),
        error=float((W - factors.second @ factors.first).norm()),
    )


def count_parameters(model: nn.Module) -> int:
    """All of a model, frozen ones too."""
    return sum(parameter.numel() for parameter in model.parameters())
