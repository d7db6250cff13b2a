"""Perturb, then diagonalise: the eigen-decomposition, and S4D started from it."""

import math

import pytest
import torch

from eigenzoo.models.ssm import S4D
from eigenzoo.models.ssm.ptd import PTDInit, S5PTDInit, perturbed_legs
from eigenzoo.models.ssm.s5 import S5
from eigenzoo.ops import legs_matrix, legs_vector
from eigenzoo.ops.transfer import dense_transfer, diagonal_transfer

EPS = torch.finfo(torch.float64).eps
W = torch.logspace(-1, 4, 50, dtype=torch.float64)
CASES = pytest.mark.parametrize("n, method, size", [
    (16, "gauss", 1e-6), (16, "gauss", 1e-4), (64, "gauss", 1e-4), (64, "gauss", 1e-3), (16, "opt", 1e-4),
])  # fmt: skip


def rebuilt(found) -> torch.Tensor:
    """A + E, from its eigen-decomposition."""
    return ((found.vectors * found.raw) @ found.inverse).real


def row(n: int) -> torch.Tensor:
    c = torch.randn(1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return c / c.norm()


@CASES
def test_a_nearby_matrix_is_diagonalised(n: int, method: str, size: float):
    found, a = perturbed_legs(n, method=method, size=size), legs_matrix(n)
    residual = (rebuilt(found) - a).norm(2) / torch.linalg.matrix_norm(a, 2)
    assert found.size <= residual.item() * 1.01 and residual < 10 * found.size
    assert torch.allclose(found.vectors.norm(dim=0), torch.ones(n, dtype=torch.float64))
    assert found.condition == pytest.approx(torch.linalg.cond(found.vectors).item(), rel=1e-6)
    if method == "gauss":
        assert found.size == pytest.approx(size, rel=1e-12)


@CASES
def test_evaluation_in_the_eigenbasis_is_that_of_the_dense_matrix(n: int, method: str, size: float):
    found, b, c, s = perturbed_legs(n, method=method, size=size), legs_vector(n), row(n), 1j * W
    generator = torch.Generator().manual_seed(0)
    if method == "opt":
        matrix = rebuilt(found)
    else:
        e = torch.randn(n, n, dtype=torch.float64, generator=generator)
        norm = torch.linalg.matrix_norm(legs_matrix(n), 2) / torch.linalg.matrix_norm(e, 2)
        matrix = legs_matrix(n) + e * size * norm
    inputs, outputs = found.inverse @ b.to(found.raw.dtype), c.to(found.raw.dtype) @ found.vectors
    dense = dense_transfer(matrix, b, c, s)
    error = (diagonal_transfer(found.raw, inputs, outputs, s) - dense).abs().max() / dense.abs().max()
    # 1e-8 relative, and what the conditioning of the basis costs
    assert error < 1e-8 + 100 * found.condition * EPS


def test_it_depends_on_nothing_but_its_arguments():
    first = perturbed_legs.__wrapped__(8, method="opt")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with torch.device("meta"), torch.inference_mode():
        second = perturbed_legs.__wrapped__(8, method="opt")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.raw, second.raw) and torch.equal(first.vectors, second.vectors)
    assert perturbed_legs(8, seed=1) is perturbed_legs(8, seed=1)
    assert not torch.equal(perturbed_legs(8, seed=1).raw, perturbed_legs(8, seed=2).raw)


def test_opt_lowers_the_condition_number():
    start, end = perturbed_legs(16, size=1e-2), perturbed_legs(16, method="opt", gamma=1.0)
    assert end.condition < start.condition / 5
    assert perturbed_legs(16, method="opt", gamma=30.0).size < end.size / 3


def test_condition_falls_as_one_over_the_size():
    sizes = torch.tensor([1e-6, 1e-5, 1e-4, 1e-3, 1e-2], dtype=torch.float64)
    conds = [[perturbed_legs(32, size=s.item(), seed=k).condition for s in sizes] for k in range(5)]
    y, x = torch.tensor(conds, dtype=torch.float64).log().mean(0), sizes.log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert slope.item() == pytest.approx(-1, abs=0.3)


def test_the_error_is_linear_in_the_size_until_rounding_takes_over():
    n = 64
    b, c, s = legs_vector(n) / legs_vector(n).norm(), row(n), 1j * W
    exact = dense_transfer(legs_matrix(n), b, c, s)

    def error(size: float) -> float:
        found = perturbed_legs(n, size=size)
        inputs, outputs = found.inverse @ b.to(found.raw.dtype), c.to(found.raw.dtype) @ found.vectors
        return (diagonal_transfer(found.raw, inputs, outputs, s) - exact).abs().max().item()

    sizes = [10.0**k for k in range(-16, -2)]
    errors = [error(size) for size in sizes]
    best = min(range(len(sizes)), key=errors.__getitem__)
    assert errors[best] < 1e-6 and 0 < best < len(sizes) - 1
    assert errors[0] > 10 * errors[best] < errors[-1]
    for i in range(sizes.index(1e-7), len(sizes) - 1):
        assert errors[i + 1] / errors[i] == pytest.approx(10, rel=0.3)


def test_unstable_eigenvalues_are_moved_and_counted():
    found = perturbed_legs(64, size=1e-2)
    moved = found.raw.real > -1e-3
    assert found.clipped == moved.sum() > 0
    assert (found.eigenvalues.real[moved] == -0.1).all()
    assert torch.equal(found.eigenvalues[~moved], found.raw[~moved])
    assert torch.equal(found.eigenvalues.imag, found.raw.imag)
    assert PTDInit(size=1e-2).report(64)["ptd_clipped"] == found.clipped
    assert (PTDInit(size=1e-2).spectrum(64, 1)[0] < 0).all()


def test_every_real_eigenvalue_and_one_of_each_pair_is_kept():
    found = perturbed_legs(64)
    real = int((found.raw.imag == 0).sum())
    assert real > 0 and found.kept.sum() == (64 - real) // 2 + real
    assert (found.weight == 0.5).sum() == real and (found.weight == 1).sum() == (64 - real) // 2
    values, copies = PTDInit(columns="unit").spectrum(64, 3), 3
    assert all(part.shape == (copies, found.kept.sum()) and part.dtype == torch.float64 for part in values)
    inputs = found.inverse @ legs_vector(64).to(found.raw.dtype)
    assert torch.allclose(values[2][0], inputs[found.kept].abs() * found.weight)
    assert (inputs.real > 0).all() and inputs.imag.abs().max() < 1e-9 * inputs.abs().max()
    assert torch.equal(PTDInit(columns="input").spectrum(64, 3)[2][1], found.weight)


@torch.no_grad()
@pytest.mark.parametrize("columns", ["unit", "input"])
def test_s4d_with_the_transformed_c_has_the_kernel_of_the_dense_matrix(columns: str):
    n, length, dt, init = 16, 128, 0.01, PTDInit(columns=columns)
    layer = S4D(1, n, init=init, dt=(dt, dt)).double()
    found, c = perturbed_legs(n), row(n)
    a, b, b_kept = found.raw, legs_vector(n), init.spectrum(n, 1)[2][0]
    inputs, outputs = found.inverse @ b.to(a.dtype), c.to(a.dtype) @ found.vectors
    # the gauge: B real and positive, so that C takes over the phase and, for "input", the modulus of V^-1 b
    wanted = (outputs * inputs)[0, found.kept] * found.weight / b_kept
    layer.log_dt.fill_(math.log(dt))
    layer.A_re.copy_(init.encode_real(a.real[found.kept]))
    layer.A_im.copy_(a.imag[found.kept])
    layer.B.copy_(torch.stack([b_kept, torch.zeros_like(b_kept)], -1))
    layer.C.copy_(torch.view_as_real(wanted)[None, None])
    dense = rebuilt(found)
    step = torch.matrix_exp(dense * dt)
    state = torch.linalg.solve(dense, (step - torch.eye(n, dtype=dense.dtype)) @ b)
    expected = []
    for _ in range(length):
        expected.append((c @ state).item())
        state = step @ state
    assert (layer.kernel(length)[0, 0] - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-9


@pytest.mark.parametrize("columns", ["unit", "input"])
def test_s4d_starts_with_c_v_of_a_real_c(columns: str):
    """Every channel's C is `c V` of one real row c, in the columns' scale; c is standard normal."""
    torch.manual_seed(0)
    found, init = perturbed_legs(16), PTDInit(columns=columns)
    v = found.vectors[:, found.kept]
    if columns == "input":
        v = v * (found.inverse @ legs_vector(16).to(v.dtype))[found.kept]
    outputs = torch.view_as_complex(init.output_map(2, 200, 16).double())
    both = torch.cat([v.real, v.imag], 1)
    wanted = torch.cat([outputs.real, outputs.imag], -1).flatten(0, 1)
    # a row of weights per equation, because the columns' norms differ by orders of magnitude
    weight = 1 / both.norm(dim=0)
    c = torch.linalg.lstsq((both * weight).mT, (wanted * weight).mT).solution.mT
    assert (c @ both - wanted).norm() < 1e-4 * wanted.norm()
    assert c.std().item() == pytest.approx(1, abs=0.05)


@torch.no_grad()
def test_kernels_begin_at_the_size_of_the_other_initialisations():
    """The large terms of a badly conditioned V cancel, because C is `C V`; an isotropic C would not do that."""
    torch.manual_seed(0)
    legs, ptd = (S4D(32, 32, init=init).kernel(196) for init in ("legs", PTDInit()))
    assert 0.1 < ptd.norm() / legs.norm() < 10
    isotropic = S4D(32, 32, init=PTDInit(columns="unit"))
    isotropic.C.normal_()
    assert isotropic.kernel(196).norm() > 100 * legs.norm()


def test_a_layer_starts_from_it_and_says_so():
    layer = S4D(4, 32, init=PTDInit())
    assert layer.modes == PTDInit().spectrum(32, 1)[0].shape[-1] > 16
    assert layer.initialisation_report() == perturbed_legs(32).report()
    assert set(layer.initialisation_report()) == {
        "ptd_real_eigenvalues", "ptd_clipped", "ptd_condition", "ptd_size",
    }  # fmt: skip
    assert S4D(4, 32).initialisation_report() == {}
    u = torch.randn(2, 20, 4)
    _, state = layer(u[:, :12], return_state=True)
    assert torch.allclose(layer(u)[:, 12:], layer(u[:, 12:], state=state), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("symmetric", [True, False])
def test_s5_with_a_real_c_has_the_kernel_of_the_dense_matrix(symmetric: bool):
    n, length, dt, init = 16, 64, 0.01, S5PTDInit(symmetric=symmetric, b_init="legs")
    layer = S5(1, 2 * n, blocks=2, init=init, dt=(dt, dt)).double()
    found, b, c = perturbed_legs(n), legs_vector(n), torch.cat([row(n), 2 * row(n)], 1)
    kept = found.kept if symmetric else torch.ones(n, dtype=torch.bool)
    assert layer.modes == 2 * kept.sum() and layer.initialisation_report() == found.report()
    _, v, inverse, _ = init.block_eigen(n)
    outputs = torch.cat([part.to(v.dtype) @ v for part in c.split(n, 1)], 1)
    inputs = (inverse @ b.to(v.dtype))[:, None].repeat(2, 1)
    assert torch.allclose(torch.linalg.vector_norm(inverse, dim=1), torch.ones(1, dtype=torch.float64))
    with torch.no_grad():  # the layer was made in single precision
        layer.C.copy_(torch.view_as_real(outputs)[None])
        assert torch.allclose(torch.view_as_complex(layer.B), inputs, rtol=1e-5)
        layer.B.copy_(torch.view_as_real(inputs))
        layer.Lambda.copy_(torch.view_as_real(found.raw[kept].repeat(2)))
        layer.log_dt.fill_(math.log(dt))
    dense = rebuilt(found)
    step = torch.matrix_exp(dense * dt)
    state = torch.linalg.solve(dense, (step - torch.eye(n, dtype=dense.dtype)) @ b)
    total = (c[:, :n] + c[:, n:]) @ torch.linalg.matrix_power(step, 40) @ state
    assert layer.impulse_response(length)[0, 0, 0, 40].item() == pytest.approx(total.item(), abs=1e-8)


def test_s5_is_finite_and_steps_as_it_scans():
    torch.manual_seed(0)
    layer = S5(4, 32, init=S5PTDInit()).eval()
    assert layer.modes > 16 and (layer.eigenvalues().re < 0).all()
    u = torch.randn(2, 12, 4)
    y, state = layer(u), layer.initial_state(2)
    for t in range(12):
        y_t, state = layer.step(u[:, t], state)
        assert torch.allclose(y_t, y[:, t], atol=1e-3)
    assert S5(4, 32).initialisation_report() == {}


@pytest.mark.parametrize("init", [PTDInit, S5PTDInit])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "gaus"}, "method is 'gaus', known are gauss, opt; did you mean 'gauss'"),
        ({"size": 0.0}, "size is 0.0, it must be > 0"),
        ({"size": -1e-3}, "size is -0.001"),
        ({"gamma": -1.0}, "gamma is -1.0"),
    ],
)
def test_a_bad_perturbation(init: type, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        init(**options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"columns": "units"}, "columns is 'units', .*did you mean 'unit'"),
        ({"real_transform": "log"}, "real_transform is 'log'"),
        ({"dt_transform": "relu"}, "dt_transform is 'relu'"),
    ],
)
def test_bad_options(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        PTDInit(**options)


@pytest.mark.parametrize("n", [0, 7])
def test_an_odd_state_is_refused(n: int):
    with pytest.raises(ValueError, match=f"state_dim is {n}, it must be even"):
        perturbed_legs(n)
