import pytest
import torch

from eigenzoo.models.equivariant.trajectory_baselines import TrajectoryMLP


@pytest.mark.parametrize("relative", [False, True])
def test_only_the_relative_one_moves_with_the_past(relative: bool):
    torch.manual_seed(0)
    mlp = TrajectoryMLP(6, 4, points=3, dim_out=2, dim=16, relative=relative).double()
    pos, vel = (x.double() for x in mlp.example_inputs(4))
    shift = torch.tensor([100.0, -3.0], dtype=torch.float64)
    moved = (mlp(pos + shift, vel) - mlp(pos, vel) - shift).abs().max()
    assert (moved < 1e-10) == relative


def test_the_layers_by_hand():
    torch.manual_seed(1)
    mlp = TrajectoryMLP(5, 2, points=2, dim_out=3, dim=8, depth=2, relative=True)
    assert sum(p.numel() for p in mlp.parameters()) == (60 + 1) * 8 + (8 + 1) * 8 + (8 + 1) * 12
    pos, vel = mlp.example_inputs(3)
    x = torch.cat([(pos - pos[:, :, -1:]).reshape(3, -1), vel.reshape(3, -1)], 1)
    for layer in (mlp.layers[0], mlp.layers[2]):
        x = torch.nn.functional.silu(x @ layer.weight.T + layer.bias)
    expected = (x @ mlp.layers[4].weight.T + mlp.layers[4].bias).reshape(3, 2, 2, 3) + pos[:, :, -1:]
    assert torch.allclose(mlp(pos, vel), expected, atol=1e-6)


def test_padding_has_no_influence():
    mlp = TrajectoryMLP(5, 2, points=3, dim_out=2, dim=8)
    pos, vel = mlp.example_inputs(2)
    present = torch.tensor([[True, True, False], [True, False, True]])
    junk = torch.where(present[..., None, None], pos, float("nan"))
    assert torch.equal(mlp(junk, vel, present), mlp(pos, vel, present))


def test_bad_input():
    mlp = TrajectoryMLP(5, 2, points=3, dim_out=2, dim=8)
    pos, vel = mlp.example_inputs(2)
    with pytest.raises(ValueError, match="3, 5, 2"):
        mlp(pos[:, :2], vel[:, :2])
    with pytest.raises(ValueError, match="vel is NaN"):
        mlp(pos, vel * float("nan"))
    with pytest.raises(ValueError, match="points=0"):
        TrajectoryMLP(5, 2, points=0, dim_out=2)
