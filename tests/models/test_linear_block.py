"""A block that is only its layer."""

import pytest
import torch

from eigenzoo.models.ssm import S4D, SequenceModel
from eigenzoo.models.ssm.linear_block import LinearBlock


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_it_is_the_layer():
    layer = S4D(3, 4)
    block, u = LinearBlock(layer, 3), torch.randn(2, 9, 3)
    assert torch.equal(block(u), layer(u)) and torch.equal(block(u, rate=2.0), layer(u, rate=2.0))
    assert block.output_norm() is None
    assert {name for name, _ in block.named_parameters()} == {
        f"layer.{n}" for n, _ in layer.named_parameters()
    }


def test_padding_does_not_reach_the_layer():
    layer = S4D(3, 4, bidirectional=True)
    block, u = LinearBlock(layer, 3), torch.randn(2, 9, 3)
    mask = (torch.arange(9) < torch.tensor([[9], [4]])).float().unsqueeze(-1)
    y = block(u, mask)
    torch.testing.assert_close(y[1, :4], layer(u[1:, :4])[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(y[0], layer(u[:1])[0])


def test_a_model_of_linear_blocks_is_linear_and_steps():
    model = SequenceModel(1, 2, dim=3, depth=2, block=LinearBlock, pool="none").eval()
    u, v = torch.randn(2, 1, 7, 1)
    with torch.no_grad():
        zero = model(torch.zeros_like(u))
        assert model.norm is None
        torch.testing.assert_close(model(u + 2 * v) - zero, model(u) + 2 * model(v) - 3 * zero)
        state, outputs = model.initial_state(1), []
        for t in range(7):
            y, state = model.step(u[:, t], state)
            outputs.append(y)
        torch.testing.assert_close(torch.stack(outputs, 1), model(u), atol=1e-5, rtol=1e-4)


def test_bad_size():
    with pytest.raises(ValueError, match="dim is 0, it must be at least 1"):
        LinearBlock(torch.nn.Identity(), 0)
