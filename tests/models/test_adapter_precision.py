"""Adapters in float32 beside frozen weights of 16 bits, under autocast, and wholly in bfloat16."""

import pytest
import torch
from torch import nn

from eigenzoo.models.adapters import DoRA, LoRA, adapter_layers, inject

KINDS = [LoRA(4, alpha=6.0), DoRA(4, alpha=6.0)]


def make(kind, dtype, *, bias=True):
    """A linear layer of the dtype with an adapter, no factor of it at its start."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 24, bias=bias)).to(dtype)
    inject(model, kind, targets="0")
    layer = adapter_layers(model)["0"]
    for parameter in layer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model, layer


def plain(model, layer, x):
    """The formula, with a dense product and the cast written out: in float32, rounded once."""
    base, c = model[0].base, 1.5
    y = base(x)
    branch = c * (x.float() @ layer.A.mT) @ layer.B.mT
    if not isinstance(layer.made_by, DoRA):
        return (y + branch).to(y.dtype)
    gain = layer.magnitude / torch.linalg.vector_norm(base.weight + c * layer.B @ layer.A, dim=1).detach()
    bias = 0.0 if base.bias is None else base.bias.float()
    return (gain * (y - bias + branch) + bias).to(y.dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: type(k).__name__)
def test_outputs_and_gradients_are_those_of_the_formula(kind, dtype, bias):
    model, layer = make(kind, dtype, bias=bias)
    x = torch.randn(5, 7, 32).to(dtype).requires_grad_()
    weight = torch.randn(5, 7, 24).to(dtype)
    leaves = [x, *layer.parameters()]
    results = []
    for y in (model(x), plain(model, layer, x)):
        assert y.dtype == dtype
        results.append([y, *torch.autograd.grad((y * weight).sum(), leaves)])
    for ours, wanted in zip(*results, strict=True):
        tolerance = 1e-5 if ours.dtype == torch.float32 else 2 * torch.finfo(ours.dtype).eps
        assert (ours - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_adapters_on_one_input_keep_it_once_and_as_it_is():
    first, _ = make(LoRA(4), torch.bfloat16)
    second, _ = make(LoRA(4), torch.bfloat16)
    x = torch.randn(64, 32).bfloat16()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        first(x), second(x)
    wide = [t for t in kept if t.shape == x.shape]
    assert len(wide) == 2 and all(t.data_ptr() == x.data_ptr() for t in wide)


def test_under_autocast_the_input_is_not_cast_up_and_down_again():
    model, _ = make(LoRA(4), torch.float32)
    x = torch.randn(64, 32).bfloat16()
    kept = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        assert model(x).dtype == torch.bfloat16
    wide = [t for t in kept if t.shape == x.shape]
    assert wide and all(t.data_ptr() == x.data_ptr() for t in wide)


def test_norms_of_dora_are_exact_under_autocast():
    _, layer = make(DoRA(4, alpha=6.0), torch.float32)
    wanted = torch.linalg.vector_norm(layer.site.matrix() + layer.delta(), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer.norms(), wanted, atol=0, rtol=1e-5)


@pytest.mark.parametrize("shape", [(32,), (3, 32), (2, 3, 32), (0, 32)], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: type(k).__name__)
def test_any_number_of_axes_also_all_in_bfloat16(kind, shape):
    model, layer = make(kind, torch.float32)
    x = torch.randn(shape)
    torch.testing.assert_close(model(x), plain(model, layer, x), atol=1e-5, rtol=1e-5)
    y = model.bfloat16()(x.bfloat16())
    assert y.shape == (*shape[:-1], 24) and y.dtype == torch.bfloat16 and y.isfinite().all()


def test_gradients_per_sample():
    model, layer = make(LoRA(4), torch.bfloat16)
    x, weight = torch.randn(5, 32).bfloat16(), torch.randn(5, 24).bfloat16()
    parameters = {"0.adapters.default.A": layer.A, "0.adapters.default.B": layer.B}

    def loss(parameters, x, weight):
        return (torch.func.functional_call(model, parameters, (x,)) * weight).float().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, weight)
    whole = torch.autograd.grad(loss(parameters, x, weight), list(parameters.values()))
    for one, wanted in zip(each.values(), whole, strict=True):
        torch.testing.assert_close(one.sum(0), wanted, atol=1e-4, rtol=1e-4)
