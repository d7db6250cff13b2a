"""Blocks and the sequence model: masks, pooling, norms, dropout, steps."""

from functools import partial

import pytest
import torch
from torch import nn

from eigenzoo.models.ssm import S4D, Block, MaskedBatchNorm, SequenceModel, TiedDropout
from eigenzoo.testing import assert_close

LENGTHS = torch.tensor([5, 12, 1])


def make(bidirectional: bool = False, pool: str = "mean", **block) -> SequenceModel:
    torch.manual_seed(0)
    layer = partial(S4D, state_dim=4, bidirectional=bidirectional)
    model = SequenceModel(
        2, 3, dim=6, depth=2, layer=layer, block=partial(Block, **block), pool=pool
    ).double()
    for module in model.modules():  # statistics that differ from those of a new layer
        if isinstance(module, MaskedBatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def sequences(length: int = 12) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 12, 2, dtype=torch.float64)[:, :length]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pool", ["mean", "last", "none"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("block", [{"norm": "batch"}, {"norm": "layer", "prenorm": False}], ids=["bn", "ln"])
def test_padding_does_not_matter(bidirectional: bool, pool: str, block: dict, training: bool):
    model, x = make(bidirectional, pool, **block).train(training), sequences()
    valid = torch.arange(12) < LENGTHS[:, None]
    longer = torch.cat([x, torch.zeros(3, 5, 2, dtype=x.dtype)], 1)
    longer[:, :12][~valid] = 1e3
    longer[:, 12:] = float("nan")
    plain, other = model(x, LENGTHS), model(longer, LENGTHS)
    if pool == "none":
        plain, other = plain[valid], other[:, :12][valid]
    assert_close(other, plain, 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_equal_cutting(bidirectional: bool, pool: str):
    model, x = make(bidirectional, pool, norm="batch").eval(), sequences()
    together = model(x, LENGTHS)
    alone = torch.cat([model(x[i : i + 1, :n]) for i, n in enumerate(LENGTHS.tolist())])
    assert_close(together, alone, 1e-12)
    assert_close(model(x, torch.full((3,), 12)), model(x), 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["mean", "last", "none"])
@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("prenorm", [True, False])
def test_steps_equal_the_sequence(prenorm: bool, norm: str, pool: str):
    model = make(pool=pool, norm=norm, prenorm=prenorm, dropout=0.1, activation="id").eval()
    x, state = sequences(), model.initial_state(3)
    for t in range(12):
        y, state = model.step(x[:, t], state)
        wanted = model(x[:, : t + 1])
        assert_close(y, wanted[:, -1] if pool == "none" else wanted, 1e-12)


def test_steps_are_for_inference():
    model = make()
    with pytest.raises(RuntimeError, match=r"call eval\(\)"):
        model.step(torch.ones(1, 2, dtype=torch.float64), model.initial_state(1))


def test_published_size():
    """The bidirectional digits model: 26,122 parameters."""
    layer = partial(S4D, state_dim=16, bidirectional=True)
    model = SequenceModel(1, 10, dim=64, depth=2, layer=layer, block=partial(Block, prenorm=False))
    assert sum(p.numel() for p in model.parameters()) == 26_122


@pytest.mark.parametrize("prenorm, norms", [(True, 3), (False, 2)])
def test_one_norm_more_if_prenorm(prenorm: bool, norms: int):
    assert sum(isinstance(m, nn.LayerNorm) for m in make(prenorm=prenorm).modules()) == norms


@torch.no_grad()
@pytest.mark.parametrize("activation", ["glu", "id"])
@pytest.mark.parametrize("prenorm", [True, False])
def test_block_by_hand(prenorm: bool, activation: str):
    torch.manual_seed(0)
    block = Block(S4D(4, 4), 4, prenorm=prenorm, activation=activation)
    x = torch.randn(2, 9, 4)
    z = nn.functional.layer_norm(x, (4,)) if prenorm else x
    y = block.layer(z)
    y = block.mix(0.5 * y * (1 + torch.erf(y / 2**0.5)))
    if activation == "glu":
        y = y[..., :4] * torch.sigmoid(y[..., 4:])
    y = x + y
    assert torch.allclose(block(x), y if prenorm else nn.functional.layer_norm(y, (4,)), atol=1e-5)


def test_tied_dropout_draws_once_per_sample_and_channel():
    torch.manual_seed(0)
    dropout, x = TiedDropout(0.25), torch.ones(200, 5, 50)
    y = dropout(x)
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(dropout.eval()(x), x)


def test_three_places_of_dropout():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4)
    for options in ({"dropout": 0.5}, {"dropout": 0.5, "tie_dropout": False}, {"dropout_conv": 0.5}):
        block = Block(S4D(4, 4), 4, **options)
        assert not torch.equal(block(x), block(x))
        assert torch.equal(block.eval()(x), block(x))


def test_masked_batch_norm_is_batch_norm_of_the_valid_positions():
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(3, 12, 4, dtype=torch.float64)
    valid = torch.arange(12) < LENGTHS[:, None]
    ours, plain = MaskedBatchNorm(4).double(), nn.BatchNorm1d(4).double()
    for module in (ours, plain):
        module.weight.data.copy_(torch.arange(1, 5))
        module.bias.data.copy_(torch.arange(4))
    wanted = plain(x[valid])
    y = ours(x, valid.double().unsqueeze(-1))
    assert torch.allclose(y[valid], wanted)
    assert torch.allclose(ours.running_mean, plain.running_mean)
    assert torch.allclose(ours.running_var, plain.running_var)
    assert torch.allclose(ours.eval()(x)[valid], plain.eval()(x[valid]))


def test_masked_batch_norm_without_mask_is_batch_norm():
    x = torch.randn(3, 12, 4)
    assert torch.allclose(
        MaskedBatchNorm(4)(x), nn.BatchNorm1d(4)(x.transpose(1, 2)).transpose(1, 2), atol=1e-6
    )


def test_init_goes_to_every_layer():
    layer = partial(S4D, state_dim=4)
    model = SequenceModel(2, 3, dim=4, depth=2, layer=layer, init="inv")
    assert [block.layer.init.name for block in model.blocks] == ["inv", "inv"]


def test_rate_goes_to_every_layer():
    model, x = make(), sequences()
    for block in model.blocks:
        block.layer.log_dt.data += torch.log(torch.tensor(2.0, dtype=torch.float64))
    assert_close(make()(x, rate=2.0), model(x), 1e-10)


def test_any_layer_with_the_protocol_fits():
    class Identity(nn.Module):
        def forward(self, u: torch.Tensor, *, rate: float = 1.0) -> torch.Tensor:
            return u

    model = SequenceModel(2, 3, dim=4, depth=1, layer=lambda dim: Identity())
    assert model(torch.ones(1, 5, 2)).shape == (1, 3)


@pytest.mark.parametrize(
    "make_it, message",
    [
        (lambda: SequenceModel(0, 3), "dim_in is 0"),
        (lambda: SequenceModel(2, 3, depth=0), "depth is 0"),
        (lambda: SequenceModel(2, 3, pool="man"), "pool is 'man'.*did you mean 'mean'"),
        (lambda: Block(S4D(4, 4), 4, norm="instance"), "norm is 'instance', known are layer, batch"),
        (lambda: Block(S4D(4, 4), 4, activation="silu"), "activation is 'silu'"),
        (lambda: Block(S4D(4, 4), 4, dropout=1.0), "dropout is 1.0"),
        (lambda: Block(S4D(4, 4), 4, dropout_conv=-0.1), "dropout_conv is -0.1"),
    ],
)
def test_bad_arguments(make_it, message: str):
    with pytest.raises(ValueError, match=message):
        make_it()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.ones(1, 4, 3, dtype=torch.float64),), r"shape \(1, 4, 3\), wanted \(batch, length, 2\)"),
        ((torch.ones(1, 0, 2, dtype=torch.float64),), "length 0"),
        ((sequences(), torch.tensor([1, 2])), r"lengths has shape \(2,\)"),
        ((sequences(), torch.tensor([1, 0, 2])), r"lengths is \[1, 0, 2\], every one must lie in 1..12"),
        ((sequences(), torch.tensor([1, 13, 2])), r"must lie in 1..12"),
    ],
)
def test_bad_input(arguments: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        make()(*arguments)
