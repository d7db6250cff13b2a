"""The statistics of batch norms, estimated anew from training data."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .inputs import Batch, model_inputs


@torch.no_grad()
def reestimate(
    model: nn.Module, batches: Iterable[Batch], reduce: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Sets the running means and variances to the average over the batches, each batch counting once.

    Without batch norms that keep statistics nothing happens, and no batch is read. Modes and momenta stay.

    Args:
        batches: of the training data; the result depends on how they are cut, little on their order.
        reduce: the mean of a tensor over the processes, each of which has its share of the batches.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    modes, momenta = {m: m.training for m in model.modules()}, [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average
    for batch in batches:
        model(*model_inputs(batch))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            if reduce is not None and statistic is not None:
                statistic.copy_(reduce(statistic))
    for module, mode in modes.items():
        module.training = mode
