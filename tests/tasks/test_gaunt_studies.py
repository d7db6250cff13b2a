import pytest

from eigenzoo.tasks.gaunt_studies import GauntParity, GauntSpeed


def test_parity():
    found = GauntParity(degree=1, samples=4)()
    assert found["closed/float64"] < 1e-12 and found["equivariance/float64"] < 1e-12
    assert 1e-9 < found["closed/float32"] < 2e-6 and 1e-9 < found["equivariance/float32"] < 5e-6
    assert found["homomorphism"] < 1e-12


def test_speed():
    found = GauntSpeed(degree=1, batch=8, repetitions=1)()
    names = ("grid", "separable", "fourier", "auto", "dense", "e3nn")
    assert set(found) == {f"{n}_{kind}" for n in names for kind in ("ms", "train_ms")} | {"difference"}
    assert found.pop("difference") < 1e-5 and min(found.values()) > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: GauntSpeed(degree=0),
        lambda: GauntSpeed(degree=2, degree_out=5),
        lambda: GauntParity(degree=-1),
    ],
)
def test_arguments_are_checked(make):
    with pytest.raises(ValueError):
        make()
