"""LoRD: low-rank layers that reproduce a layer's outputs best, by principal components of the outputs.

Kaushal, Vaidhya, Rish, "LoRD: Low Rank Decomposition of Monolingual Code LLMs for One-Shot Compression", 2023, arXiv
2309.14021, with the atomic feature mimicking of Yu and Wu, AAAI 2023. Of a layer y = W x + b, over the tokens of a
calibration set,

    mu = E[y],   Sigma = E[y y^T] - mu mu^T = U Lambda U^T,   y ~ U_r U_r^T (y - mu) + mu,
    first   W1 = U_r^T W,   b1 = U_r^T b,        second   W2 = U_r,   b2 = (I - U_r U_r^T) mu

and E |y - y_r|^2 is the sum of the eigenvalues left out. The paper claims up to 39.58 % smaller ranks at less than 1 %
growth of perplexity, without training.

Without centring, W2 W1 is the optimum of E |W x - L x|^2 over all L of rank r, hence the same map as the input-whitened
SVD (`Whitened`, here as the reference). What differs here: `b1` is folded into the second layer's bias; `sequential`
fits every layer to the outputs of the dense model from inputs that the layers before it, compressed, produce.
Perplexity does not choose the ranks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...ops.factorisation import (
    Decomposition,
    Moments,
    moments,
    output_pca,
    regression,
    whitened_svd,
)
from ..adapters.site import Site
from .low_rank import factorise
from .method import Batch, Call, Loss, Method, Sites, bias_of, valid_positions

Rows = Float[Tensor, "rows dim"]


@dataclass(frozen=True)
class LoRD(Method):
    """Principal components of each layer's outputs.

    Args:
        centre: of the covariance, with the mean in the bias (a layer without bias gets one); otherwise of the second
            moment, without a new bias.
        sequential: layer by layer in the order of their calls. Not for convolutions.
    """

    centre: bool = True
    sequential: bool = False
    needs_data = True

    @property
    def one_by_one(self) -> bool:  # type: ignore[override]
        """Where layers are fitted to what the compressed ones before them produce."""
        return self.sequential

    def reason_against(self, site: Site) -> str:
        """Convolutions have no rows of inputs to regress on."""
        return "it is a convolution" if self.sequential and site.kind == "conv" else ""

    def decompose(
        self, model: nn.Module, sites: Sites, batches: Sequence[Batch], *, loss: Loss | None, call: Call
    ) -> dict[str, Decomposition]:
        """The terms of every layer, all from the dense model in one pass."""
        found = layer_moments(model, sites, batches, call)
        return {
            name: output_pca(site.matrix(), bias_of(site), found[name], centre=self.centre)
            for name, site in sites.items()
        }

    def factors(
        self,
        model: nn.Module,
        sites: Sites,
        batches: Sequence[Batch],
        ranks: Mapping[str, int],
        *,
        call: Call,
    ) -> Iterator[tuple[str, Decomposition]]:
        """The terms of every layer with a rank, in the order of the calls."""
        compressed = deepcopy(model)
        for name in call_order(model, sites, batches, call):
            if name not in ranks:
                continue
            total = _pair_moments(model, compressed, sites[name], batches, call)
            found = regression(total, sites[name].dim_out, centre=self.centre)
            if ranks[name] <= len(found.energies):
                factorise(compressed, {name: found.cut(ranks[name])})
            yield name, found


@dataclass(frozen=True)
class Whitened(Method):
    """The SVD of W C^1/2, C the second moment of the inputs: what uncentred `LoRD` equals. Not for convolutions."""

    needs_data = True

    def reason_against(self, site: Site) -> str:
        """Convolutions have no rows of inputs."""
        return "it is a convolution" if site.kind == "conv" else ""

    def decompose(
        self, model: nn.Module, sites: Sites, batches: Sequence[Batch], *, loss: Loss | None, call: Call
    ) -> dict[str, Decomposition]:
        """The terms of every layer, the bias stays."""
        found = layer_moments(model, sites, batches, call, of_inputs=True)
        return {
            name: whitened_svd(site.matrix(), found[name].second(centre=False))._replace(offset=bias_of(site))
            for name, site in sites.items()
        }


@torch.no_grad()
def layer_moments(
    model: nn.Module, sites: Sites, batches: Sequence[Batch], call: Call, *, of_inputs: bool = False
) -> dict[str, Moments]:
    """Moments of every layer's outputs, or inputs, over all positions that are not padding.

    Raises:
        ValueError: layers that are never called, activations that are not finite, or of which it cannot be told
            which are padding; names the layers.
    """
    totals: dict[str, Moments] = {}

    def add(site: Site, rows: Rows) -> None:
        found = moments(rows)
        if not torch.isfinite(found.outer).all():
            raise ValueError(f"the {'inputs' if of_inputs else 'outputs'} of {site.text} are not finite")
        totals[site.name] = totals[site.name] + found if site.name in totals else found

    for batch in batches:
        with _watched(model, sites.values(), valid_positions(batch), add, of_inputs):
            call(model, batch)
    _check_called(sites, totals)
    return totals


@torch.no_grad()
def call_order(model: nn.Module, sites: Sites, batches: Sequence[Batch], call: Call) -> list[str]:
    """Paths of the layers in the order of their first calls; ValueError, with names, for those never called."""
    seen: dict[str, None] = {}
    with ExitStack() as stack:
        for name, site in sites.items():
            hook = site.module.register_forward_hook(lambda *_, name=name: seen.setdefault(name))
            stack.callback(hook.remove)
        call(model, batches[0])
    _check_called(sites, seen)
    return list(seen)


def _check_called(sites: Sites, seen: Mapping[str, Any]) -> None:
    if unseen := [name for name in sites if name not in seen]:
        raise ValueError(
            f"the calibration data never call {', '.join(map(repr, unseen))}; leave such layers out by `exclude`"
        )


@torch.no_grad()
def _pair_moments(
    dense: nn.Module, compressed: nn.Module, site: Site, batches: Sequence[Batch], call: Call
) -> Moments:
    """Moments of (the dense model's output, the compressed model's input) of a layer that is dense in both."""
    twin = Site(site.name, compressed.get_submodule(site.name), site.kind, site.dim_out, site.dim_in)
    total: Moments | None = None
    for batch in batches:
        valid, outputs, inputs = valid_positions(batch), [], []
        with (
            _watched(dense, [site], valid, lambda _, rows, kept=outputs: kept.append(rows), False),
            _watched(compressed, [twin], valid, lambda _, rows, kept=inputs: kept.append(rows), True),
        ):
            call(dense, batch)
            call(compressed, batch)
        found = moments(torch.cat([torch.cat(outputs), torch.cat(inputs)], dim=-1))
        if not torch.isfinite(found.outer).all():
            raise ValueError(f"the inputs or outputs of {site.text} are not finite")
        total = found if total is None else total + found
    if total is None:
        raise ValueError("there are no batches to calibrate on")
    return total


@contextmanager
def _watched(
    model: nn.Module,
    sites: Any,
    valid: Bool[Tensor, "*samples length"] | None,
    add: Callable[[Site, Tensor], None],
    of_inputs: bool,
) -> Iterator[None]:
    """While it lasts, every call of a layer hands its rows to `add`."""
    with ExitStack() as stack:
        for site in sites:

            def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, site: Site = site) -> None:
                add(site, _rows(site, inputs[0] if of_inputs else output, valid))

            stack.callback(site.module.register_forward_hook(hook).remove)
        yield


def _rows(site: Site, values: Tensor, valid: Bool[Tensor, "*samples length"] | None) -> Rows:
    """Activations with the features last, those of padding left out."""
    if site.kind == "conv":
        values = values.movedim(-1 - len(site.kernel), -1)
    rows = values.reshape(-1, values.shape[-1])
    if valid is None or bool(valid.all()) or values.shape[:-1] == valid.shape[:1]:
        return rows
    if len(rows) != valid.numel():
        raise ValueError(
            f"{site.text} gives {tuple(values.shape)} for a padded batch {tuple(valid.shape)}: it cannot be told "
            "which of them is padding; leave the layer out by `exclude`"
        )
    return rows[valid.reshape(-1)]
