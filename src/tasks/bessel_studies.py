"""Accuracy and speed of log I_v and log K_v, and von Mises-Fisher fits in high dimensions.

Plesner, Sorensen, Hauberg, ICS 2024, arXiv 2409.08729: errors are of rounding size, SciPy overflows and is slower, and
von Mises-Fisher distributions can be fitted to features of 2048 to 32768 dimensions. Errors here are absolute, divided
by max(1, |log|).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError
from ..models.arguments import check_choice, check_sizes
from ..ops.bessel import BRANCHES, K_FALLBACKS, bessel_branch, log_iv, log_kv
from ..ops.von_mises_fisher import bessel_ratio, fit_kappa, fit_vmf, sample_vmf, vmf_log_normaliser
from .bessel_references import draw_points, load_mpmath, references
from .timing import medians, one_thread

DIMENSIONS = {2048: 500.0, 8192: 2000.0, 32768: 8000.0}  # and the concentrations there


@dataclass(frozen=True)
class BesselAccuracyStudy:
    """Errors against 60-digit arithmetic at random points, 15 in 100 of them where the fallbacks are; deterministic.

    Needs the package mpmath; 1000 points take about two minutes. Calling it returns, with `f` as `i` and `k`,

    | name | meaning |
    |---|---|
    | `max/f`, `median/f` | of the errors |
    | `max/f/B` | of the points of branch B, one of `ops.bessel.BRANCHES`, where there are any |
    | `max`, `median` | the larger of both functions |
    | `non_finite` | share of values that are not finite |
    | `wronskian` | largest |log(x (I_v K_(v+1) + I_(v+1) K_v))| / max(1, |log I|, |log K|) over `wronskian_points` |

    Args:
        k_fallback: `trapezoid` or `rothwell`.

    Raises:
        ValueError: sizes below 1, an unknown fallback.
        ModuleNotFoundError: mpmath is not there.
    """

    points: int = 1000
    wronskian_points: int = 200_000
    k_fallback: str = "trapezoid"
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(points=self.points, wronskian_points=self.wronskian_points)
        check_choice("k_fallback", self.k_fallback, K_FALLBACKS)

    def __call__(self) -> dict[str, float]:
        order, x = draw_points(self.points, self.seed)
        branch, found, finite = bessel_branch(order, x), {}, []
        for name, (high, low) in references(order.tolist(), x.tolist()).items():
            ours = log_iv(order, x) if name == "i" else log_kv(order, x, k_fallback=self.k_fallback)
            error = scaled_error(ours, high, low)
            found |= {f"max/{name}": float(error.max()), f"median/{name}": float(error.median())}
            for code, label in enumerate(BRANCHES):
                if len(here := error[branch == code]):
                    found[f"max/{name}/{label}"] = float(here.max())
            finite.append(ours.isfinite())
        larger = {name: max(found[f"{name}/i"], found[f"{name}/k"]) for name in ("max", "median")}
        non_finite = 1 - float(torch.cat(finite).double().mean())
        return {**found, **larger, "non_finite": non_finite, "wronskian": self.wronskian()}

    def wronskian(self) -> float:
        """See the class; the points are log-uniform in [1e-2, 1e4]^2."""
        generator = np.random.default_rng(self.seed)
        logs = generator.uniform(math.log(1e-2), math.log(1e4), (2, self.wronskian_points))
        v, x = torch.from_numpy(np.exp(logs))
        log_k = partial(log_kv, k_fallback=self.k_fallback)
        i, k, i1, k1 = (function(order, x) for order in (v, v + 1) for function in (log_iv, log_k))
        total = x.log() + torch.logaddexp(i + k1, i1 + k)
        return float((total.abs() / torch.maximum(i.abs(), k.abs()).clamp_min(1)).max())


def scaled_error(values: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """|values - (high + low)| / max(1, |high|)."""
    return ((values - high) - low).abs() / high.abs().clamp_min(1)


@dataclass(frozen=True)
class BesselSpeedStudy:
    """log I and log K beside log(ive) + x and log(kve) - x of SciPy on one CPU thread; medians of interleaved calls.

    Arguments are log-uniform in [1e-2, 1e4], orders between the bounds given. Calling it returns, for `i` and `k`,
    `ours_ms/f`, `scipy_ms/f`, `ratio/f` (SciPy's time over ours), `non_finite/f` and `scipy_non_finite/f`, shares of
    values that are not finite; and `non_finite`, the larger of ours. Beside mpmath at 15 digits, on the first
    `mpmath_points` of the points: `mpmath_ratio/f`, its time per point over ours, and `mpmath_failed/f`, the share of
    points where it gives up.

    Raises:
        ValueError: sizes below 1, bounds that are not 0 < low < high.
        ModuleNotFoundError: mpmath is not there.
    """

    low: float = 1e-2
    high: float = 1e4
    points: int = 200_000
    repeats: int = 5
    mpmath_points: int = 200
    k_fallback: str = "trapezoid"
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(points=self.points, repeats=self.repeats, mpmath_points=self.mpmath_points)
        check_choice("k_fallback", self.k_fallback, K_FALLBACKS)
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"low={self.low}, high={self.high}: must be 0 < low < high")

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        with one_thread(), np.errstate(all="ignore"):
            calls = self.calls()
            times = medians(calls, self.repeats)
            lost = {name: 1 - float(np.isfinite(np.asarray(call())).mean()) for name, call in calls.items()}
        found = {}
        for name in ("i", "k"):
            ours, scipy = times[name], times["scipy_" + name]
            found |= {f"ours_ms/{name}": ours, f"scipy_ms/{name}": scipy, f"ratio/{name}": scipy / ours}
            found |= {f"non_finite/{name}": lost[name], f"scipy_non_finite/{name}": lost["scipy_" + name]}
            seconds, failed = self._mpmath(name)
            found |= {
                f"mpmath_ratio/{name}": 1e3 * seconds / (ours / self.points),
                f"mpmath_failed/{name}": failed,
            }
        return {**found, "non_finite": max(found["non_finite/i"], found["non_finite/k"])}

    def _mpmath(self, name: str) -> tuple[float, float]:
        """Mean seconds per point, and the share of points where it does not converge."""
        mpmath = load_mpmath(digits=15)
        function, failed = getattr(mpmath, f"bessel{name}"), 0
        v, x = (z[: self.mpmath_points].tolist() for z in self._points())
        start = time.perf_counter()
        for order, argument in zip(v, x, strict=True):
            try:
                mpmath.log(function(order, argument))
            except (mpmath.libmp.NoConvergence, ValueError):  # how it says that it gives up
                failed += 1
        return (time.perf_counter() - start) / len(v), failed / len(v)

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(self.seed)
        v = np.exp(generator.uniform(math.log(self.low), math.log(self.high), self.points))
        return v, np.exp(generator.uniform(math.log(1e-2), math.log(1e4), self.points))

    def calls(self) -> dict[str, Callable[[], Any]]:
        """What is timed."""
        from scipy import special

        v, x = self._points()
        order, argument = torch.from_numpy(v), torch.from_numpy(x)
        return {
            "i": lambda: log_iv(order, argument),
            "scipy_i": lambda: np.log(special.ive(v, x)) + x,
            "k": lambda: log_kv(order, argument, k_fallback=self.k_fallback),
            "scipy_k": lambda: np.log(special.kve(v, x)) - x,
        }


@dataclass(frozen=True)
class VMFRecoveryStudy:
    """Concentrations found again: from the exact length of the mean, and from samples.

    Calling it returns `start@p` and `newton@p`, relative errors of kappa_0 and after `steps` of Newton's method
    from the exact A_p(kappa), for p = 2048, 8192, 32768 with kappa = 500, 2000, 8000; `newton`, the largest; and for
    `samples` draws at p = `dim`, kappa = `kappa`: `sampled` and `sampled/unbiased`, the signed relative errors of the
    fit without and with the correction of small samples, `sampled/absolute`, `fit_s`, the seconds of the first fit.

    Raises:
        ValueError: sizes below 1, samples or dim below 2.
    """

    samples: int = 20_000
    dim: int = 2048
    kappa: float = 500.0
    steps: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(steps=self.steps)
        if self.samples < 2 or self.dim < 2:
            raise ValueError(f"samples={self.samples}, dim={self.dim}: must be at least 2")

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for dim, kappa in DIMENSIONS.items():
            resultant = bessel_ratio(dim, torch.tensor(kappa, dtype=torch.float64))
            for name, steps in (("start", 0), ("newton", self.steps)):
                found[f"{name}@{dim}"] = abs(float(fit_kappa(dim, resultant, steps=steps)) / kappa - 1)
        found["newton"] = max(found[f"newton@{dim}"] for dim in DIMENSIONS)
        return found | self.sampled()

    def sampled(self) -> dict[str, float]:
        """See the class."""
        generator = torch.Generator().manual_seed(self.seed)
        mean = F.normalize(torch.randn(self.dim, generator=generator), dim=0)
        z = sample_vmf(mean, self.kappa, self.samples, generator=generator)
        start = time.perf_counter()
        plain = float(fit_vmf(z).kappa) / self.kappa - 1
        seconds = time.perf_counter() - start
        unbiased = float(fit_vmf(z, unbias=True).kappa) / self.kappa - 1
        return {
            "sampled": plain,
            "sampled/absolute": abs(plain),
            "sampled/unbiased": unbiased,
            "fit_s": seconds,
        }


@dataclass(frozen=True, eq=False)
class VMFFeatureStudy:
    """Von Mises-Fisher distributions of a trained classifier's convolutional features, of all classes and of each.

    The last feature map, averaged to side x side and normalised, gives vectors of p = channels * side^2 numbers. Fitted
    on the training split (means are summed batch by batch), tested on the test split. Calling it returns, as
    `name@side`,

    | name | meaning |
    |---|---|
    | `dim` | p |
    | `resultant`, `kappa` | of the fit to all classes together |
    | `gain` | its mean log density on the training split minus that of the uniform distribution, in nats |
    | `class_kappa`, `class_gain` | mean concentration of the classes' fits, and the gain of each sample's own class |
    | `accuracy` | on the test split, of the class of greatest density |
    | `finite` | 1 if all of these are finite, else 0 |

    and `finite`, the least of these.

    Args:
        base: a classifier with `backbone.feature_map(x)` -> (batch, channels, height, width).
        data: a data module of labelled images.
        sides: of the averaged maps, none larger than the map.

    Raises:
        ValueError: no side or a side below 1.
        DataError: a side larger than the map, a feature vector of length 0, a class with fewer than 2 training images.
    """

    base: nn.Module
    data: Any
    sides: Sequence[int] = (1, 2, 4)

    def __post_init__(self) -> None:
        if not self.sides:
            raise ValueError("sides is empty: name at least one")
        check_sizes(**{f"sides[{i}]": side for i, side in enumerate(self.sides)})

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        self.base.eval()
        self.data.setup()
        sums, counts = self._sums()
        models = {side: self._fit(total, counts) for side, total in sums.items()}
        right, images = dict.fromkeys(self.sides, 0), 0
        for y, features in self._features(self.data.test_dataloader()):
            images += len(y)
            for side, z in features.items():
                means, kappas, _ = models[side]
                scores = kappas * (z @ means.mT) + vmf_log_normaliser(z.shape[1], kappas)
                right[side] += int((scores.argmax(-1) == y).sum())
        found = {}
        for side, (_, _, values) in models.items():
            values["accuracy"] = right[side] / images
            values["finite"] = float(all(map(math.isfinite, values.values())))
            found |= {f"{name}@{side}": value for name, value in values.items()}
        return {**found, "finite": min(found[f"finite@{side}"] for side in self.sides)}

    def _features(self, batches: Any) -> Any:
        """Labels and, by side, unit vectors (batch, p) in float64, of every batch."""
        device = next(self.base.parameters()).device
        for batch in batches:
            maps = self.base.backbone.feature_map(batch["x"].to(device))  # pyright: ignore
            keep = batch["mask"].to(device).bool() if "mask" in batch else slice(None)
            found = {side: unit_features(maps[keep], side) for side in self.sides}
            yield batch["y"].to(device)[keep], found

    def _sums(self) -> tuple[dict[int, Tensor], Tensor]:
        """The features' sums by class (classes, p), by side, and the number of images of each class."""
        sums: dict[int, Tensor] = {}
        counts: Any = 0
        classes = self.data.sizes["dim_out"]
        for y, features in self._features(self.data.train_dataloader()):
            counts = counts + torch.bincount(y, minlength=classes)
            for side, z in features.items():
                total = sums.setdefault(side, z.new_zeros(classes, z.shape[1]))
                total.index_add_(0, y, z)
        if int(counts.min()) < 2:
            raise DataError(
                f"class {int(counts.argmin())} has {int(counts.min())} training images, a fit needs 2"
            )
        return sums, counts

    @staticmethod
    def _fit(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, dict[str, float]]:
        """The classes' mean directions and concentrations, and the figures of the fits."""
        dim, n = sums.shape[1], counts.sum()
        together = (sums.sum(0) / n).norm()
        lengths = (sums / counts.unsqueeze(1)).norm(dim=1)
        kappa, kappas = fit_kappa(dim, together), fit_kappa(dim, lengths)
        values = {
            "dim": float(dim),
            "resultant": float(together),
            "kappa": float(kappa),
            "gain": float(_gain(dim, kappa, together)),
            "class_kappa": float(kappas.mean()),
            "class_gain": float((_gain(dim, kappas, lengths) * counts).sum() / n),
        }
        return F.normalize(sums, dim=1), kappas, values


def _gain(dim: int, kappa: Tensor, resultant: Tensor) -> Tensor:
    """Mean log density of samples with that mean, over the uniform distribution's."""
    normaliser = vmf_log_normaliser(dim, kappa) - vmf_log_normaliser(dim, torch.zeros_like(kappa))
    return kappa * resultant + normaliser


def unit_features(maps: Tensor, side: int) -> Tensor:
    """Maps (batch, channels, height, width) averaged to side x side, flattened, of length 1, in float64.

    Raises:
        DataError: the maps are smaller, or a vector has length 0.
    """
    if min(maps.shape[2:]) < side:
        raise DataError(f"feature maps are {maps.shape[2]} x {maps.shape[3]}, too small for side {side}")
    z = F.adaptive_avg_pool2d(maps.double(), side).flatten(1)
    lengths = z.norm(dim=1, keepdim=True)
    if bool((lengths == 0).any()):
        raise DataError(
            f"feature vector {int((lengths == 0).nonzero()[0, 0])} of a batch is zero: it has no direction"
        )
    return z / lengths
