"""Studies of the Bessel functions and of von Mises-Fisher fits."""

import math
import sys

import pytest
import torch
from torch import nn

from eigenzoo.data.module import Splits, TensorData
from eigenzoo.errors import DataError
from eigenzoo.tasks.bessel_references import exact_log_iv, exact_log_kv, wronskian
from eigenzoo.tasks.bessel_studies import (
    BesselAccuracyStudy,
    BesselSpeedStudy,
    VMFFeatureStudy,
    VMFRecoveryStudy,
    unit_features,
)


def test_references_are_right():
    assert max(wronskian(v, x) for v, x in ((0.3, 0.2), (100.0, 3.0), (3.0, 500.0))) < 1e-45
    assert float(exact_log_iv(0.5, 2.0)) == pytest.approx(
        math.log(math.sinh(2) / math.sqrt(math.pi)), rel=1e-15
    )
    assert float(exact_log_kv(0.5, 2.0)) == pytest.approx(0.5 * math.log(math.pi / 4) - 2, rel=1e-15)


def test_accuracy():
    found = BesselAccuracyStudy(points=40, wronskian_points=20_000)()
    assert 0 < found["max"] <= 1e-13 and found["median"] <= 1e-15
    assert found["wronskian"] <= 1e-12 and found["non_finite"] == 0
    assert found["max/k"] == max(value for name, value in found.items() if name.startswith("max/k/"))


def test_accuracy_needs_mpmath(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpmath", None)
    with pytest.raises(ModuleNotFoundError, match="pip install mpmath"):
        BesselAccuracyStudy(points=1, wronskian_points=1)()


def test_speed():
    found = BesselSpeedStudy(100.0, points=2000, repeats=1, mpmath_points=10)()
    assert found["mpmath_ratio/i"] > 1 and 0 <= found["mpmath_failed/k"] <= 1
    assert found["non_finite"] == 0 and 0.5 < found["scipy_non_finite/i"] < 1
    assert found["ratio/k"] == pytest.approx(found["scipy_ms/k"] / found["ours_ms/k"])


def test_recovery():
    found = VMFRecoveryStudy(samples=500)()
    assert found["newton"] <= 1e-8 < found["start@2048"] < 1e-4
    assert (
        found["sampled"] > 0.01 and found["sampled/unbiased"] < found["sampled"] - 0.01
    )  # the bias of few samples


class Blobs(TensorData):
    """Two kinds of 4 x 4 images, by which channel is bright."""

    name = "blobs"

    @property
    def sizes(self):
        return {"dim_in": 2, "dim_out": 2, "side": 4}

    def load(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        y = torch.arange(60) % 2
        x = torch.rand(60, 2, 4, 4, generator=generator) + 2 * torch.eye(2)[y][:, :, None, None]
        return {"train": {"x": x[:40], "y": y[:40]}, "test": {"x": x[40:], "y": y[40:]}}


class Maps(nn.Module):
    def __init__(self, gain: float):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def feature_map(self, x):
        return self.gain * x


class Net(nn.Module):
    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.backbone = Maps(gain)


def test_features():
    found = VMFFeatureStudy(Net(), Blobs(16, eval_batch_size=7), sides=(1, 4))()
    assert found["accuracy@1"] == found["accuracy@4"] == found["finite"] == 1
    assert (found["dim@1"], found["dim@4"]) == (2, 32)
    assert found["class_gain@4"] > found["gain@4"] > 0 and found["class_kappa@4"] > found["kappa@4"]


def test_features_gain_is_the_mean_log_density():
    from eigenzoo.ops.von_mises_fisher import fit_vmf, vmf_log_normaliser, vmf_log_prob

    data = Blobs(16)
    found = VMFFeatureStudy(Net(), data, sides=(2,))()
    z = unit_features(data.splits["train"]["x"], 2)
    fit = fit_vmf(z)
    gain = vmf_log_prob(z, fit.mean, fit.kappa).mean() - vmf_log_normaliser(
        8, torch.zeros((), dtype=torch.float64)
    )
    assert found["kappa@2"] == pytest.approx(float(fit.kappa), rel=1e-6)
    assert found["gain@2"] == pytest.approx(float(gain), rel=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match="points=0"):
        BesselAccuracyStudy(points=0)
    with pytest.raises(ValueError, match="k_fallback is 'simpson'"):
        BesselAccuracyStudy(k_fallback="simpson")
    with pytest.raises(ValueError, match="low=2"):
        BesselSpeedStudy(2.0, 1.0)
    with pytest.raises(ValueError, match="samples=1"):
        VMFRecoveryStudy(samples=1)
    with pytest.raises(ValueError, match="sides is empty"):
        VMFFeatureStudy(Net(), None, sides=())
    with pytest.raises(DataError, match="4 x 4, too small for side 5"):
        VMFFeatureStudy(Net(), Blobs(16), sides=(5,))()
    with pytest.raises(DataError, match="is zero"):
        VMFFeatureStudy(Net(0.0), Blobs(16))()
