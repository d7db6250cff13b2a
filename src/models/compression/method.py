"""What the methods of compression share: how a model is run on data, and what they are asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from ...ops.factorisation import Decomposition
from ..adapters.site import Site, refuse_tied

Batch = Mapping[str, Tensor]
Call = Callable[[nn.Module, Batch], Any]  # runs the model on a batch
Loss = Callable[[nn.Module, Batch], Tensor]  # mean loss over the samples of a batch
Sites = Mapping[str, Site]
IGNORED = -100


class Method:
    """A way to factorise layers; subclasses are frozen dataclasses of their settings.

    `needs_data` and `needs_loss` say what `decompose` wants; `one_by_one` that layers depend on those before them,
    so that ranks have to be chosen first and `factors` is asked in place of `decompose`.
    """

    needs_data = needs_loss = one_by_one = False

    def reason_against(self, site: Site) -> str:
        """Why this method leaves a layer alone; empty where it does not."""
        return ""

    def decompose(
        self, model: nn.Module, sites: Sites, batches: Sequence[Batch], *, loss: Loss | None, call: Call
    ) -> dict[str, Decomposition]:
        """The terms of every layer, by its path."""
        raise NotImplementedError

    def factors(
        self,
        model: nn.Module,
        sites: Sites,
        batches: Sequence[Batch],
        ranks: Mapping[str, int],
        *,
        call: Call,
    ) -> Iterator[tuple[str, Decomposition]]:
        """The terms of every layer in the order of their calls; each is put into its place before the next."""
        raise NotImplementedError


def call_model(model: nn.Module, batch: Batch) -> Any:
    """The model on `x`, and on `lengths` where the batch has them."""
    return model(batch["x"], batch["lengths"]) if "lengths" in batch else model(batch["x"])


def bias_of(site: Site) -> Tensor | None:
    """The layer's bias, without a gradient."""
    bias = getattr(site.module, "bias", None)
    return bias.detach() if isinstance(bias, Tensor) else None


def check_evaluating(model: nn.Module) -> None:
    """ValueError, naming the first, for a model of which a module is in training mode."""
    for name, module in model.named_modules():
        if module.training:
            where = f"its module '{name}' is" if name else "it is"
            raise ValueError(f"the model must be in eval mode ({where} in training mode): call model.eval()")


def check_untied(model: nn.Module, sites: Sites) -> None:
    """ValueError, with all names, for a weight that another module shares."""
    refuse_tied(
        model, sites.values(), "factors in one place would untie it; leave the layer out by `exclude`"
    )


def valid_positions(batch: Batch) -> Bool[Tensor, "*samples length"] | None:
    """Which positions of `x` are not padding; None where a batch has nothing that says so.

    By `lengths`; without them by labels per position, of which `IGNORED` ones do not count.
    """
    x, y, lengths = batch["x"], batch.get("y"), batch.get("lengths")
    if lengths is not None:
        return torch.arange(x.shape[lengths.ndim], device=x.device) < lengths.to(x.device).unsqueeze(-1)
    if y is not None and not y.is_floating_point() and y.ndim > 1 and y.shape == x.shape[: y.ndim]:
        return y != IGNORED
    return None
