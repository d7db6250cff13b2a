"""Studies of frames against what theory says; normals: losses, angles, rotated test sets."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from eigenzoo.errors import DataError
from eigenzoo.tasks.frame_studies import (
    FrameDegeneracy,
    FrameInvariance,
    GraphSeparation,
    averaged_networks,
    clouds_with,
    group_elements,
)
from eigenzoo.tasks.normals import NormalEstimation, line_angles, squared_cosines

OPTIM = partial(torch.optim.Adam, lr=1e-3)


def test_averages_over_frames_are_exact():
    found = FrameInvariance()()
    for group in ("O", "SO", "E", "SE"):
        assert found[f"error/{group}"] <= 1e-12 and found[f"error32/{group}"] <= 1e-5
        assert found[f"set/{group}"] <= 1e-12
    assert found["inversion/SE"] > 0.05 and found["inversion/SO"] > 0.05 and found["permutation"] <= 1e-12


def test_the_error_is_the_inverse_of_the_gap():
    found = FrameDegeneracy(clouds=100)()
    assert found["slope"] == pytest.approx(-1, abs=0.15) and found["slope/median"] == pytest.approx(
        -1, abs=0.15
    )
    assert found["max/2"] < 1e-12 and 0.01 < found["max/equal"] < 10
    assert all(math.isfinite(value) for value in found.values())


def test_clouds_have_the_variances_that_are_asked_for():
    x = clouds_with(np.random.default_rng(0), 3, 8, (0.3, 0.5, 1.0))
    around = x - x.mean(1, keepdim=True)
    values = torch.linalg.eigvalsh(around.mT @ around / 8)
    torch.testing.assert_close(values, torch.tensor([0.3, 0.5, 1.0]).double().expand(3, 3))


def test_rotations_of_an_eigenspace_lower_the_error():
    rng = np.random.default_rng(0)
    x, moves = clouds_with(rng, 50, 8, (0.3, 1.0, 1.0)), group_elements(rng, 50, "E(d)")
    net = averaged_networks(8, "E(d)", 0)[0]
    errors = []
    for net.on_degenerate in ("flag", "average"):
        with torch.no_grad():
            errors.append((net(x @ moves[0].mT + moves[1]) - net(x)).abs().median().item())
    assert errors[0] > 1e-3 and errors[1] < errors[0] / 50


@pytest.mark.slow
def test_which_graphs_are_told_apart():
    found = GraphSeparation()()
    assert found["graphs"] == 853 and found["pairs"] == 17
    assert found["separated/gin"] == 0 and found["separated/fa_gin_0"] == 14
    assert found["separated/fa_mlp"] == 17 and found["separated/fa_gin"] == 17
    assert found["separated/fa_mlp_10"] < 17
    assert found["frames/violations"] == 0 and found["frames/violations_ungrouped"] > 10
    assert found["frames/median"] == 4 and found["frames/single"] == pytest.approx(0.16, abs=0.01)
    assert found["relabelled/fa_mlp"] < 1e-13 and found["closest/fa_mlp"] > 1e-4


def test_studies_are_functions_of_their_arguments():
    before = torch.random.get_rng_state()
    found = FrameInvariance(clouds=2)()
    assert FrameInvariance(clouds=2)() == found != FrameInvariance(clouds=2, seed=1)()
    assert torch.equal(before, torch.random.get_rng_state())
    for study in (FrameInvariance, FrameDegeneracy):
        with pytest.raises(ValueError, match="points=3"):
            study(points=3)
        with pytest.raises(ValueError, match="clouds=0"):
            study(clouds=0)
    with pytest.raises(ValueError, match="depth=0"):
        GraphSeparation(depth=0)


def test_angles_of_lines():
    normals = torch.tensor([[[0.0, 0.0, 1.0]] * 5])
    vectors = torch.tensor([[[0, 0, 2.0], [0, 0, -3.0], [1.0, 0, 1.0], [5.0, 0, 0], [0, 0, 0]]])
    assert squared_cosines(vectors, normals)[0].tolist() == pytest.approx([1, 1, 0.5, 0, 0])
    assert line_angles(vectors, normals)[0].tolist() == pytest.approx([0, 0, 45, 90, 90])
    vectors.requires_grad_()
    (1 - squared_cosines(vectors, normals)).sum().backward()
    assert vectors.grad is not None and vectors.grad.isfinite().all()


class Tilted(nn.Module):
    """Along the third axis whatever the cloud is."""

    def __init__(self) -> None:
        super().__init__()
        self.axis = nn.Parameter(torch.tensor([0.0, 0.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.axis.expand_as(x)


def batch() -> dict[str, torch.Tensor]:
    up, side = torch.tensor([0.0, 0.0, 1.0]).expand(3, 4, 3), torch.tensor([1.0, 0.0, 0.0]).expand(3, 4, 3)
    found = {"x": up, "y": torch.stack([-up[0], side[0], side[0]])}
    found |= {f"{key}@SO3": side for key in ("x", "y")}
    return found | {"mask": torch.tensor([True, True, False]), "weight": torch.ones(())}


def test_normals_are_scored_up_to_their_sign_on_every_test_set():
    task = NormalEstimation(Tilted(), optim=OPTIM, rotations=("SO3",))
    assert task.losses(batch())["loss"].item() == pytest.approx(2 / 3)
    for _ in range(2):
        task.update_metrics(batch(), "test")
    found = {name: metric.compute().item() for name, metric in task.metrics_of("test").items()}
    assert found == pytest.approx({"loss": 0.5, "degrees": 45, "loss@SO3": 1, "degrees@SO3": 90})
    task.update_metrics(batch(), "val")
    assert set(task.metrics_of("val")) == {"loss", "degrees"} and task.monitor == "val/loss"


def test_faults_of_normals():
    with pytest.raises(ValueError, match="rotations"):
        NormalEstimation(Tilted(), optim=OPTIM, rotations=("z", "z"))
    task = NormalEstimation(Tilted(), optim=OPTIM, rotations=("z",))
    with pytest.raises(DataError, match=r"no 'x@z' and 'y@z' \(they have x@SO3\)"):
        task.update_metrics(batch(), "test")
    task.check_sizes({"dim_in": 3, "dim_out": 3})
    with pytest.raises(ValueError, match=r"dim_out=4.*data\.target=normals"):
        task.check_sizes({"dim_in": 3, "dim_out": 4})
