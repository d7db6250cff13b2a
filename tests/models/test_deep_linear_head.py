"""The stack of linear layers: its product, starts, precision and errors."""

import warnings

import pytest
import torch

from eigenzoo.models.heads.deep_linear import DeepLinearHead


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_the_logits_are_the_product_of_the_layers(depth: int, bias: bool) -> None:
    head = DeepLinearHead(6, 4, depth=depth, width=5, bias=bias).double()
    if bias:
        torch.nn.init.normal_(head.bias)
    shapes = [tuple(weight.shape) for weight in head.weights()]
    assert shapes == ([(4, 6)] if depth == 1 else [(5, 6), (5, 5), (4, 5)])
    product = torch.eye(6, dtype=torch.float64)
    for weight in head.weights():
        product = weight @ product
    x = torch.randn(7, 6, dtype=torch.float64)
    torch.testing.assert_close(head(x), x @ product.mT + (head.bias if bias else 0.0))
    assert len(list(head.parameters())) == depth + bias


def test_starts() -> None:
    for weight in DeepLinearHead(32, 8, depth=3, width=40).weights():
        gram = weight @ weight.mT if weight.shape[0] <= weight.shape[1] else weight.mT @ weight
        torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)
    torch.manual_seed(0)
    for weight in DeepLinearHead(64, 64, depth=2, init="normal").weights():
        entries = weight.detach()
        assert float(entries.std()) == pytest.approx(0.1, rel=0.05) and abs(float(entries.mean())) < 0.01


def test_every_layer_gets_a_gradient_from_the_loss() -> None:
    head = DeepLinearHead(6, 4, depth=3, bias=True)
    head.loss(torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())


def test_precision() -> None:
    head, x = DeepLinearHead(6, 4, depth=2), torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(x.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, head(x.bfloat16().float()))
    assert head.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_a_head_too_narrow_for_the_frame_warns() -> None:
    with pytest.warns(UserWarning, match="width 3 cannot hold the frame of 4 classes"):
        DeepLinearHead(8, 4, depth=2, width=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DeepLinearHead(8, 4, depth=2, width=3, bias=True)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="depth=0"):
        DeepLinearHead(4, 2, depth=0)
    with pytest.raises(ValueError, match="width=0"):
        DeepLinearHead(4, 2, width=0)
    with pytest.raises(ValueError, match=r"init is 'orthogonl'.*did you mean 'orthogonal'"):
        DeepLinearHead(4, 2, init="orthogonl")
    with pytest.raises(ValueError, match="width 5, and the head is for 4"):
        DeepLinearHead(4, 2)(torch.zeros(1, 5))
