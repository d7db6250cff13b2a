"""Parity with neuraloperator: the same weights give the same outputs and gradients."""

import warnings
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from bench_fno import copy_weights
from bench_spectral import total_modes

from eigenzoo.models.operators.fno import FNO
from eigenzoo.models.operators.spectral import SpectralConv
from eigenzoo.testing import assert_close


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("neuralop.models")
        return pytest.importorskip("neuralop.layers.spectral_convolution")


@pytest.mark.parametrize(("grid", "modes"), [((16,), (5,)), ((12, 10), (3, 4)), ((6, 10, 9), (2, 3, 4))])
def test_spectral_convolution(peer: ModuleType, grid: tuple[int, ...], modes: tuple[int, ...]):
    """Even sizes but of the last axis: the library shifts back by `fftshift`, which is its own inverse there only."""
    theirs = peer.SpectralConv(3, 4, total_modes(modes), bias=False)
    (weight,) = theirs.parameters()
    x = torch.randn(2, 3, *grid, requires_grad=True)
    expected = theirs(x)
    direction = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, (x, weight), direction)
    for form in ("fft", "dft"):
        ours = SpectralConv(3, 4, modes=modes, implementation=form)
        ours.set_dense_weight(weight.detach())
        y = ours(x)
        assert_close(y, expected, 1e-5)
        grad_x, ours.weight.grad = torch.autograd.grad(y, (x, ours.weight), direction)
        assert_close(grad_x, gradients[0], 1e-5)
        ours.set_dense_weight(gradients[1])
        assert_close(ours.weight.grad, ours.weight.detach(), 1e-5)


def test_fno(peer: ModuleType):
    """The library's network without channel MLPs, whose blocks apply the activation twice: one each here."""
    from neuralop.models import FNO as Peer

    theirs = Peer(
        total_modes((3, 4)),
        2,
        3,
        8,
        n_layers=3,
        use_channel_mlp=False,
        lifting_channel_ratio=0,
        projection_channel_ratio=16,
    )
    calls = iter([F.gelu, torch.nn.Identity()] * 2)
    theirs.fno_blocks.non_linearity = lambda v: next(calls)(v)
    ours = FNO(2, 3, modes=(3, 4), dim=8, depth=3, positions="periodic")
    copy_weights(ours, theirs)
    x = torch.randn(2, 2, 12, 10)
    assert_close(ours(x), theirs(x), 1e-5)
