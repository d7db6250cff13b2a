"""Embedding encoder, pairs, S5's channel mixings, norms by partial."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from eigenzoo import testing
from eigenzoo.models.ssm import S4D, Block, MaskedBatchNorm, PairModel, SequenceModel, TokenModel
from eigenzoo.optim import parameter_groups

LENGTHS = torch.tensor([3, 9, 1])


def tokens(seed: int = 0, **options) -> TokenModel:
    torch.manual_seed(seed)
    layer = partial(S4D, state_dim=4, bidirectional=options.pop("bidirectional", False))
    return TokenModel(7, 3, dim=6, depth=2, layer=layer, **options).double().eval()


def pairs(seed: int = 0) -> PairModel:
    torch.manual_seed(seed)
    return PairModel(7, 3, dim=6, depth=1, layer=partial(S4D, state_dim=4)).double().eval()


@pytest.mark.parametrize("make", [tokens, pairs])
def test_property_checks(make, tmp_path):
    model = make()
    inputs = model.example_inputs(3)
    testing.assert_all_gradients(model, inputs)
    testing.assert_all_submodules_matter(model, inputs)
    seeds = iter((1, 2))
    testing.assert_save_load(lambda: make(next(seeds)), inputs, tmp_path)
    testing.assert_batch_independent(model, inputs)


def test_tokens_equal_one_hot_channels():
    """An embedding is the linear map of one-hot channels, without a bias."""
    model = tokens()
    other = SequenceModel(7, 3, dim=6, depth=2, layer=partial(S4D, state_dim=4)).double().eval()
    state = model.state_dict()
    state["encoder.weight"] = state["encoder.weight"].mT.contiguous()
    other.load_state_dict(state | {"encoder.bias": torch.zeros(6)})
    x = torch.randint(7, (3, 12))
    testing.assert_close(model(x), other(F.one_hot(x, 7).double()), 1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_tokens_do_not_matter(bidirectional: bool, dtype: torch.dtype):
    model = tokens(bidirectional=bidirectional)
    x = torch.randint(7, (3, 9), dtype=dtype)
    valid = torch.arange(9) < LENGTHS[:, None]
    other = torch.where(valid, x, torch.full_like(x, 99))
    testing.assert_close(model(F.pad(other, (0, 4), value=77), LENGTHS), model(x, LENGTHS), 1e-12)


@torch.no_grad()
def test_token_steps_equal_forward():
    model, x = tokens(), torch.randint(7, (2, 9))
    state = model.initial_state(2)
    for t in range(9):
        y, state = model.step(x[:, t], state)
    testing.assert_close(y, model(x), 1e-12)


@torch.no_grad()
def test_steps_at_another_rate():
    model, x = tokens(pool="last"), torch.randint(7, (2, 9))
    state = model.initial_state(2)
    for t in range(9):
        y, state = model.step(x[:, t], state, rate=2.0)
    testing.assert_close(y, model(x, rate=2.0), 1e-12)
    assert not torch.allclose(y, model(x))


@pytest.mark.parametrize("token", [-1, 7])
def test_a_token_outside_the_vocabulary(token: int):
    x = torch.zeros(2, 4, dtype=torch.long)
    x[1, 2] = token
    with pytest.raises(ValueError, match=rf"token {token} at index \[1, 2\] is not in the vocabulary 0\.\.6"):
        tokens()(x)


def test_wrong_inputs():
    with pytest.raises(ValueError, match=r"wanted whole numbers \(batch, length\)"):
        tokens()._check_input(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="length 0"):
        tokens()(torch.zeros(2, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="vocabulary is 0"):
        TokenModel(0, 3)
    with pytest.raises(ValueError, match="pool is 'none'"):
        PairModel(7, 3, pool="none")


@torch.no_grad()
def test_both_of_a_pair_go_through_one_tower():
    model, x = pairs(), torch.randint(7, (3, 2, 9))
    lengths = torch.stack([LENGTHS, LENGTHS.flip(0)], 1)
    first, second = (model.tower(x[:, i], lengths[:, i]) for i in (0, 1))
    features = torch.cat([first, second, first - second, first * second], -1)
    testing.assert_close(model(x, lengths), model.decoder(F.gelu(model.hidden(features))), 1e-12)


class Twice(torch.nn.Module):
    """A layer that can be checked by hand."""

    def forward(self, u, *, rate=1.0):
        return 2 * u


@torch.no_grad()
@pytest.mark.parametrize("activation", ["glu", "id", "half_glu1", "half_glu2", "gelu"])
def test_channel_mixings(activation: str):
    torch.manual_seed(0)
    block = Block(Twice(), 4, norm="layer", prenorm=True, activation=activation).double().eval()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    y = 2 * F.layer_norm(x, (4,))
    z = F.gelu(y)
    if activation == "gelu":
        wanted = z
    elif activation == "glu":
        left, right = (
            z @ w.mT + b for w, b in zip(block.mix.weight.chunk(2), block.mix.bias.chunk(2), strict=True)
        )
        wanted = left * right.sigmoid()
    else:
        mixed = z @ block.mix.weight.mT + block.mix.bias
        wanted = {"id": mixed, "half_glu1": z * mixed.sigmoid(), "half_glu2": y * mixed.sigmoid()}[activation]
    testing.assert_close(block(x), x + wanted, 1e-12)


def test_norms_by_partial_and_their_tag():
    norm = partial(MaskedBatchNorm, momentum=0.05)
    model = SequenceModel(
        1, 2, dim=4, depth=1, layer=partial(S4D, state_dim=2), block=partial(Block, norm=norm)
    )
    assert model.blocks[0].norm.momentum == model.norm.momentum == 0.05
    groups = parameter_groups(model, {"norm": {"weight_decay": 0.0}})
    assert [len(g["params"]) for g in groups if "weight_decay" in g] == [4]
    with pytest.raises(ValueError, match="norm is 'bach', known are layer, batch; did you mean 'batch'"):
        Block(Twice(), 4, norm="bach")
