"""The filter, the smoother and the identities of the Lie groups, by the figures that they must reach."""

import pytest
import torch

from eigenzoo.ops import lie
from eigenzoo.ops.lie import estimation
from eigenzoo.tasks.lie_studies import GROUPS, STATE, EKFStudy, LieIdentities, SmoothingStudy

# torch's own forward-mode rules are scripts
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
BOUNDS = {
    "exp": 4e-15, "log": 1e-15, "jacobian/inverse": 5e-16, "jacobian/series": 1e-15, "adjoint": 5e-15,
    "jacobian/adjoint": 2e-15,
}  # fmt: skip


@pytest.mark.parametrize("group", GROUPS)
def test_identities(group: str):
    found = LieIdentities(group)()
    assert {name: found[name] for name in BOUNDS if found[name] > BOUNDS[name]} == {}
    single = LieIdentities(group, "float32", elements=50)()
    assert 1e-9 < single["largest"] <= 2e-6


def test_the_filter_is_consistent_where_controls_are_good():
    found = EKFStudy(control_sd=0.01)()
    assert found["nees"] == pytest.approx(6, abs=0.4)
    assert found["rms/translation"] == pytest.approx(0.0056, abs=2e-4)
    assert found["rms/rotation"] == pytest.approx(0.0038, abs=2e-4)


@pytest.mark.parametrize("dimension", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_filter_beats_dead_reckoning(dimension: int):
    found = EKFStudy(dimension, runs=100)()
    assert found["ratio"] < 0.1 and found["unfiltered/rotation"] > 0.2


def test_the_filter_depends_on_the_seed_alone():
    found = [EKFStudy(2, runs=3, steps=1, seed=seed)() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_a_filter_of_points_is_the_linear_one():
    """On T(n) the equations are those of Kalman, here with the gain written by an inverse."""
    n, p, q, r = (
        2,
        *(torch.diag(torch.tensor(d, dtype=torch.float64)) for d in ([1.0, 2], [0.5, 0.1], [0.3, 0.2])),
    )
    group, x, y = lie.translation, torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    x, p = estimation.predict(group, x, p, 2 * y, q)
    assert torch.equal(p, torch.diag(torch.tensor([1.5, 2.1], dtype=torch.float64)))
    seen, covariance = estimation.update(group, x, p, y - x, torch.eye(n, dtype=torch.float64), r)
    gain = p @ torch.linalg.inv(p + r)
    torch.testing.assert_close(seen, x + gain @ (y - x))
    torch.testing.assert_close(covariance, p - gain @ p)


def test_smoothing_reaches_the_noise_floor():
    found = SmoothingStudy()()
    assert found["chi2"] == pytest.approx(8, abs=1)
    assert found["iterations/max"] <= 6 and found["converged"] == 1
    assert found["rms/pose"] < 0.1 * found["start/pose"]


def test_the_jacobian_of_smoothing_is_the_derivative():
    study = SmoothingStudy(runs=1)
    _, start, problem = study.draw()
    zero = torch.zeros(1, STATE.DIM, dtype=torch.float64)
    found = torch.func.jacfwd(lambda tau: problem(lie.plus(STATE, start, tau))[0])(zero)
    residual, jacobian = problem(start)
    assert residual.shape == (1, 27) and jacobian.shape == (1, 27, 19)
    torch.testing.assert_close(found[:, :, 0], jacobian, atol=1e-8, rtol=0)


def test_gauss_newton_says_what_did_not_converge():
    _, start, problem = SmoothingStudy(runs=3).draw()
    found = estimation.gauss_newton(STATE, start, problem, iterations=1)
    assert not found.converged.any() and found.iterations.tolist() == [1, 1, 1]


@pytest.mark.parametrize("study, options, message", [
    (EKFStudy, {"dimension": 4}, "dimension is 4"), (EKFStudy, {"runs": 0}, "runs=0"),
    (EKFStudy, {"control_sd": 0.0}, "control_sd is 0.0"), (SmoothingStudy, {"start_sd": -1.0}, "start_sd is -1.0"),
    (LieIdentities, {"group": "se4"}, "group is 'se4'"), (LieIdentities, {"dtype": "half"}, "dtype is 'half'"),
])  # fmt: skip
def test_bad_arguments_of_the_lie_studies(study: type, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        study(**options)
