"""Adapters on convolutions walk over the input as their base does: unmerged, merged, and as a plain convolution."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from eigenzoo.models.adapters.flora import FLoRA
from eigenzoo.models.adapters.inject import adapter_layers, inject, merge, unmerge
from eigenzoo.models.adapters.lora import LoRA
from eigenzoo.models.adapters.pissa import PiSSA

# torch's word about the copy that it makes of the input
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
WALKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "1d, stride 2": (nn.Conv1d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    "1d, dilation 2, circular": (
        nn.Conv1d, {"kernel_size": 3, "dilation": 2, "padding": 2, "padding_mode": "circular"}
    ),
    "2d, stride 2": (nn.Conv2d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    "2d, strides": (nn.Conv2d, {"kernel_size": (3, 2), "stride": (1, 3), "padding": (2, 0)}),
    "2d, dilation 2": (nn.Conv2d, {"kernel_size": 3, "dilation": 2}),
    "2d, same": (nn.Conv2d, {"kernel_size": 3, "padding": "same", "dilation": 2}),
    "2d, same, even kernel": (nn.Conv2d, {"kernel_size": (4, 2), "padding": "same"}),
    "2d, same, even kernel, circular": (
        nn.Conv2d, {"kernel_size": (4, 2), "padding": "same", "padding_mode": "circular"}
    ),
    "2d, circular": (nn.Conv2d, {"kernel_size": 3, "padding": (1, 2), "padding_mode": "circular"}),
    "2d, reflect": (nn.Conv2d, {"kernel_size": 3, "padding": 2, "padding_mode": "reflect", "stride": 2}),
    "2d, 1 x 1": (nn.Conv2d, {"kernel_size": 1, "stride": 2}),
    "3d, replicate": (nn.Conv3d, {"kernel_size": (2, 3, 1), "padding": 1, "padding_mode": "replicate"}),
    "3d, dilation 2": (nn.Conv3d, {"kernel_size": 2, "dilation": 2, "stride": 2, "padding": 1}),
}  # fmt: skip
AXES = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
ADAPTERS = {"lora": LoRA(3, alpha=6.0), "pissa": PiSSA(3), "flora": FLoRA(3, scale=2.0)}


def adapted_convolution(walk: str, adapter: str) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor, Any]:
    """A model of one convolution with an adapter that is not zero, an input, the base's output, the adapter."""
    kind, settings = WALKS[walk]
    torch.manual_seed(0)
    model = nn.Sequential(kind(5, 6, **settings))
    x = torch.randn(2, 5, *[9, 8, 7][: AXES[kind]])
    plain = model(x).detach()
    inject(model, ADAPTERS[adapter], targets=["0"])
    layer: Any = adapter_layers(model)["0"]
    torch.testing.assert_close(model(x), plain, rtol=1e-5, atol=1e-5)
    nn.init.normal_(layer.core if adapter == "flora" else layer.B)
    return model, x, plain, layer


def reference(model: nn.Sequential, x: torch.Tensor, layer: Any) -> torch.Tensor:
    """The output of a plain convolution whose weight has the change in it."""
    conv: Any = copy.deepcopy(model[0].base)
    with torch.no_grad():
        conv.weight.add_(layer.delta().reshape(conv.weight.shape))
        return conv(x)


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_merged_is_unmerged(walk: str, adapter: str):
    model, x, plain, layer = adapted_convolution(walk, adapter)
    wanted, weight = reference(model, x, layer), model[0].base.weight.clone()  # type: ignore[union-attr]
    assert (wanted - plain).abs().max() > 0.1
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=2e-5)
    merge(model)
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)
    unmerge(model)
    torch.testing.assert_close(model[0].base.weight, weight, rtol=1e-6, atol=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize("walk", WALKS)
def test_every_form_of_flora_is_the_same_map(walk: str):
    model, x, _, layer = adapted_convolution(walk, "flora")
    wanted = reference(model, x, layer)
    for layer.form in ("factored", "flattened", "dense"):
        torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_pair_is_a_convolution_of_its_own(adapter: str):
    """What an export writes: A with the base's kernel, B of 1 x 1."""
    model, x, _, layer = adapted_convolution("2d, dilation 2", adapter)
    B, A = layer.pair()
    hidden = nn.functional.conv2d(x, A.reshape(-1, 5, 3, 3), dilation=2)
    wanted = model[0].base(x) + nn.functional.conv2d(hidden, B[..., None, None])  # type: ignore[operator]
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=2e-5)
