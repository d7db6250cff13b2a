"""Our FNO beside neuraloperator's, batch 8, 32 channels, 4 layers, float32, the same weights.

Both are the published network: the library's is built without channel MLPs, with one affine map as lifting and 128
hidden channels in the projection, modes as in `bench_spectral`. Two differences remain in its blocks, and are removed
on its side: without channel MLPs they apply the activation twice, and the second application is replaced by the
identity (less work for the library); its skip has no bias but its spectral convolution has, which is the same sum.
Positions are those of periodic grids. Measured is what `bench_spectral` says.
"""

import argparse
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from bench_spectral import CASES, PEER, Case, child, run_cases, stepper, total_modes
from torch import Tensor, nn

from eigenzoo.models.operators.fno import FNO, HIDDEN

DEPTH = 4


def run(report: Any, options: argparse.Namespace) -> None:
    """All cases; see the module."""
    run_cases(report, make, __file__, options)


def make(form: str, case: Case, device: str) -> Callable[[], list[Tensor]]:
    """Forward and backward with all gradients; gives the output and the gradient by the input."""
    batch, dim, grid, modes = case
    theirs: nn.Module = peer_network(dim, modes)
    module = theirs
    if form != PEER:
        module = FNO(1, 1, modes=modes, dim=dim, depth=DEPTH, positions="periodic")
        copy_weights(module, theirs)
    return stepper(module, (batch, 1, *grid), form, device)


def peer_network(dim: int, modes: Any) -> Any:
    """The library's network as the module says, weights of seed 0."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuralop.models import FNO as Peer

        network = Peer(
            total_modes(modes),
            1,
            1,
            dim,
            n_layers=DEPTH,
            use_channel_mlp=False,
            lifting_channel_ratio=0,
            projection_channel_ratio=HIDDEN / dim,
        )
    activations = itertools.cycle([F.gelu, nn.Identity()])
    network.fno_blocks.non_linearity = lambda v: next(activations)(v)
    return network


@torch.no_grad()
def copy_weights(ours: Any, theirs: Any) -> None:
    """Every weight of the library's network into ours."""
    lifting, (first, second), blocks = theirs.lifting.fcs[0], theirs.projection.fcs, theirs.fno_blocks
    projection = ours.projection
    pairs = [
        (ours.lifting.weight, lifting.weight),
        (ours.lifting.bias, lifting.bias),
        (projection.first, first.weight),
        (projection.first_bias, first.bias),
        (projection.second, second.weight),
        (projection.second_bias, second.bias),
    ]
    for layer, convolution, skip in zip(ours.layers, blocks.convs, blocks.fno_skips, strict=True):
        layer.spectral.set_dense_weight(next(convolution.weight.parameters()))
        pairs += [(layer.skip, skip.conv.weight), (layer.bias, convolution.bias)]
    for into, value in pairs:
        into.copy_(value.view_as(into))


if __name__ == "__main__":
    child(make, CASES)
