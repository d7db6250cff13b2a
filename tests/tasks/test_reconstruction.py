"""The study of what a state remembers: its states against the plain recurrence, its errors against the findings."""

import numpy as np
import pytest
import torch

from eigenzoo.tasks.reconstruction import ReconstructionFit, basis_system, last_states


@pytest.mark.parametrize("basis", ["legs", "legt", "fout", "lin"])
def test_last_states_are_those_of_the_bilinear_recurrence(basis):
    a, b = basis_system(basis, 8)
    u = torch.randn(3, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left = np.eye(8) - 0.05 / 2 * a.numpy()
    abar = np.linalg.inv(left) @ (np.eye(8) + 0.05 / 2 * a.numpy())
    bbar = np.linalg.inv(left) @ (0.05 * b.numpy())
    state = np.zeros((3, 8))
    for k in range(37):
        state = state @ abar.T + np.outer(u[:, k].numpy(), bbar)
    np.testing.assert_allclose(last_states(a, b, u, 0.05).numpy(), state, rtol=0, atol=1e-12)


def test_lin_has_the_eigenvalues_of_its_name():
    a, _ = basis_system("lin", 8)
    eigenvalues = torch.linalg.eigvals(a)
    assert torch.allclose(eigenvalues.real, torch.full((8,), -0.5, dtype=torch.float64))
    frequencies = eigenvalues.imag.abs().sort().values / torch.pi
    np.testing.assert_allclose(frequencies.numpy(), [0, 0, 1, 1, 2, 2, 3, 3], atol=1e-12)


@pytest.fixture(scope="module")
def found():
    return {basis: ReconstructionFit(basis)() for basis in ("legs", "legt", "fout", "lin")}


def test_a_finite_window_wants_the_matching_step(found):
    for basis in ("legt", "fout"):
        for band in ("0.02", "0.05"):
            errors = {x: found[basis][f"mse/band{band}_dt{x}"] for x in ("0.5", "1", "2", "4")}
            assert min(errors, key=errors.__getitem__) == "2", (basis, band)


def test_orders_of_magnitude(found):
    """Within a factor of 2 of a run of another implementation on other signals."""
    tried = {
        "legs": {"0.02": (5.9e-3, 5.3e-6, 2.3e-7, 6.1e-5), "0.05": (0.53, 0.38, 0.27, 0.26)},
        "legt": {"0.02": (6.4e-4, 2.0e-13, 6.3e-14, 2.8e-1), "0.05": (0.53, 0.30, 0.034, 0.40)},
        "fout": {"0.02": (2.2e-1, 8.2e-3, 2.1e-3, 2.8e-1), "0.05": (0.78, 0.48, 0.026, 0.41)},
        "lin": {"0.02": (2.2e-1, 9.4e-2, 1.0e-1, 3.2e-1), "0.05": (0.78, 0.52, 0.14, 0.43)},
    }
    for basis, bands in tried.items():
        for band, values in bands.items():
            for x, value in zip(("0.5", "1", "2", "4"), values, strict=True):
                assert 0.5 < found[basis][f"mse/band{band}_dt{x}"] / value < 2, (basis, band, x)


def test_derived_numbers(found):
    legs = found["legs"]
    assert legs["cost/band0.02"] == legs["mse/band0.02_dt4"] / legs["mse/band0.02_dt2"]
    assert legs["log10_mse/band0.05_dt1"] == pytest.approx(np.log10(legs["mse/band0.05_dt1"]))


def test_the_study_is_deterministic():
    study = ReconstructionFit("legs", 8, bands=(0.02,))
    first = study()
    torch.randn(5)
    assert study() == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basis": "legz"}, "basis is 'legz', known are legs"),
        ({"basis": "fout", "state_dim": 7}, "state_dim is 7"),
        ({"bands": (0.7,)}, "got 0.7"),
        ({"dt_window": (1.0, 2.0)}, "dt_window is"),
        ({"dt_window": (-1.0, 2.0, 4.0)}, "dt_window is"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ReconstructionFit(**options)
