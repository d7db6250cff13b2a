"""The Transformer baseline beside torch's own attention; rotary positions, masks, states."""

from functools import partial

import pytest
import torch

from eigenzoo.models.ssm import SequenceModel
from eigenzoo.models.ssm.attention import SelfAttention, TransformerBlock, rotate
from eigenzoo.testing import assert_close

LENGTHS = torch.tensor([5, 12, 1])


def attention(causal: bool = False) -> SelfAttention:
    torch.manual_seed(0)
    return SelfAttention(8, heads=2, causal=causal).double().eval()


def model(causal: bool, pool: str = "mean") -> SequenceModel:
    torch.manual_seed(0)
    layer = partial(SelfAttention, heads=2, causal=causal)
    return SequenceModel(2, 3, dim=8, depth=2, layer=layer, block=TransformerBlock, pool=pool).double().eval()


def signal(channels: int = 8) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 12, channels, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_equals_torch_without_positions(causal: bool):
    """At rate 0 all positions are the same and nothing is turned: plain multi-head attention."""
    layer, u = attention(causal), signal()
    peer = torch.nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    peer.in_proj_weight.copy_(layer.project.weight)
    peer.in_proj_bias.copy_(layer.project.bias)
    peer.out_proj.load_state_dict(layer.output.state_dict())
    hidden = torch.ones(12, 12, dtype=torch.bool).triu(1) if causal else None
    wanted = peer(u, u, u, attn_mask=hidden, need_weights=False)[0]
    assert_close(layer(u, rate=0.0), wanted, 1e-12)
    assert not torch.allclose(layer(u), wanted)


def test_products_depend_on_the_distance_only():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def product(i: float, j: float) -> torch.Tensor:
        left, right = (rotate(x, torch.tensor([p], dtype=torch.float64)) for x, p in ((query, i), (key, j)))
        return (left * right).sum()

    assert_close(product(3, 7), product(1003, 1007), 1e-12)
    assert not torch.allclose(product(3, 7), product(3, 8))
    assert_close(rotate(query, torch.ones(1)).norm(), query.norm(), 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("rate", [1.0, 2.5])
def test_steps_and_chunks_equal_forward(rate: float):
    layer, u = attention(True), signal()
    whole = layer(u, rate=rate)
    first, state = layer(u[:, :5], rate=rate, return_state=True)
    assert_close(torch.cat([first, layer(u[:, 5:], state=state, rate=rate)], 1), whole, 1e-12)
    state, outputs = layer.initial_state(3), []
    for t in range(12):
        y, state = layer.step(u[:, t], state, rate)
        outputs.append(y)
    assert_close(torch.stack(outputs, 1), whole, 1e-12)
    assert state.keys.shape[2] == 12


@torch.no_grad()
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_model_steps_equal_forward(pool: str):
    stack, x = model(True, pool), signal(2)
    state = stack.initial_state(3)
    for t in range(12):
        y, state = stack.step(x[:, t], state)
    assert_close(y, stack(x), 1e-12)
    with pytest.raises(RuntimeError, match="call eval"):
        stack.train().step(x[:, 0], stack.initial_state(3))


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_lengths_equal_cutting(causal: bool):
    stack, x = model(causal), signal(2)
    alone = torch.cat([stack(x[i : i + 1, :n]) for i, n in enumerate(LENGTHS.tolist())])
    padded = x.clone()
    padded[torch.arange(12) >= LENGTHS[:, None]] = float("nan")
    assert_close(stack(padded, LENGTHS), alone, 1e-12)


@torch.no_grad()
def test_twice_the_rate_on_every_second_key():
    """Positions 0, 2, 4 of every second sample: the same turns as in the whole sequence."""
    layer, u = attention(), signal()
    turned = rotate(u[:, None], torch.arange(12).double())
    assert_close(rotate(u[:, None, ::2], 2.0 * torch.arange(6)), turned[:, :, ::2], 1e-12)
    assert layer(u[:, ::2], rate=2.0).shape == (3, 6, 8)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SelfAttention(8, heads=3), "heads is 3, it must divide dim = 8"),
        (lambda: SelfAttention(6, heads=2), "even number"),
        (lambda: attention()(signal(), return_state=True), "causal is False"),
        (lambda: TransformerBlock(attention(), 8, expansion=0.0), "expansion is 0.0"),
        (lambda: TransformerBlock(attention(), 8, dropout=1.0), "dropout is 1.0"),
        (lambda: TransformerBlock(attention(), 8, norm="bach"), "did you mean 'batch'"),
    ],
)
def test_bad_arguments(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
