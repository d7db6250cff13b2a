"""Synthetic signals: delay and reconstruction of band-limited white noise, copying of tokens, sinusoids.

The first three are the synthetic tasks of Gu, Johnson, Timalsina, Rudra, Ré, "How to Train Your HiPPO", ICLR
2023, arXiv 2206.12037; the last one is the amplitude task of Yu, Nigmetov, Morozov, Mahoney, Erichson,
"Robustifying State-space Models for Long Sequences via Approximate Diagonalization", ICLR 2024, arXiv
2310.01698. All are drawn in float64 and handed out in float32.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .generated import GeneratedData
from .module import IGNORED

RMS = 0.5
SAMPLES = (16384, 0, 1024)


def white_noise(
    rng: np.random.Generator, count: int, length: int, *, frequency: float, rms: float = RMS
) -> np.ndarray:
    """Band-limited white noise, (count, length) in float64.

    With n = ceil(length / 2): complex normal coefficients c_k, k = 0..n, of a real signal of 2n samples (each
    part with standard deviation rms / sqrt 2, c_n real), zero for k = 0 and for k / 2n > frequency, divided by
    sqrt(1 - z / n) where z coefficients lie above the limit; `irfft(c) sqrt(2n)`, cut to `length`.

    Args:
        rng: what the coefficients are drawn from.
        frequency: the band limit in cycles per sample, at least 1/2n (one period) and at most 1/2 (Nyquist).
        rms: root mean square of the signal.

    Raises:
        ValueError: fewer than 2 samples, or a band limit out of range.
    """
    check_band(length, frequency)
    n = -(-length // 2)
    parts = rng.standard_normal((count, n + 1, 2)) * (rms * math.sqrt(0.5))
    above = np.fft.rfftfreq(2 * n) > frequency
    parts[:, above] = 0
    parts[:, 0] = 0
    parts[:, -1, 1] = 0
    signal = np.fft.irfft(parts.view(np.complex128)[..., 0], axis=-1)
    return (signal * math.sqrt(2 * n / (1 - above.sum() / n)))[:, :length]


def white_signal(
    rng: np.random.Generator, count: int, length: int, *, frequency: float, rms: float = RMS
) -> np.ndarray:
    """`white_noise` shifted so that every signal begins at 0: its first sample is subtracted from all."""
    signal = white_noise(rng, count, length, frequency=frequency, rms=rms)
    return signal - signal[:, :1]


def check_band(length: int, frequency: float) -> None:
    """ValueError unless a signal of `length` samples can hold frequencies up to the limit."""
    if length < 2:
        raise ValueError(f"length must be at least 2, got {length}")
    lowest = 1 / (2 * -(-length // 2))
    if not lowest <= frequency <= 0.5:
        raise ValueError(
            f"frequency must be in [{lowest:g}, 0.5] cycles per sample (one period of the signal .. Nyquist), "
            f"got {frequency}"
        )


class _WhiteSignals(GeneratedData):
    """Inputs of white noise, (B, length, 1); a subclass says what the target is."""

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int,
        data_seed: int,
        length: int,
        frequency: float,
        samples: Sequence[int],
        fresh: bool,
    ):
        super().__init__(batch_size, seed=seed, data_seed=data_seed, samples=samples, fresh=fresh)
        check_band(length, frequency)
        self.length, self.frequency = length, frequency

    def draw(self, rng: np.random.Generator, count: int, split: str) -> dict[str, Tensor]:
        """Signals and their targets; the same law in all splits."""
        x = white_signal(rng, count, self.length, frequency=self.frequency)
        return {"x": _single(x).unsqueeze(-1), "y": _single(self.target(x))}

    def target(self, x: np.ndarray) -> np.ndarray:
        """Targets of the signals (count, length)."""
        raise NotImplementedError


class Delay(_WhiteSignals):
    """The signal as it was `lag` samples ago: `x` (B, length, 1), `y` (B, length, 1), `y_t = x_{t-lag}` or 0.

    Args:
        batch_size: samples of a batch.
        seed: of the run.
        data_seed: of the generator.
        length: samples of a signal.
        lag: of the target, 0 .. length-1.
        frequency: band limit of the signal in cycles per sample, at most 1/2.
        samples: (train, val, test).
        fresh: draw the training signals anew in every epoch.
    """

    name = "delay"

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        data_seed: int = 0,
        length: int = 4000,
        lag: int = 1000,
        frequency: float = 0.25,
        samples: Sequence[int] = SAMPLES,
        fresh: bool = True,
    ):
        super().__init__(
            batch_size,
            seed=seed,
            data_seed=data_seed,
            length=length,
            frequency=frequency,
            samples=samples,
            fresh=fresh,
        )
        if not 0 <= lag < length:
            raise ValueError(f"lag must be in 0 .. {length - 1} (length={length}), got {lag}")
        self.lag = lag

    @property
    def sizes(self) -> dict[str, int]:
        """One channel, one target per position."""
        return {"dim_in": 1, "dim_out": 1, "length": self.length}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Length, lag and band limit."""
        return {"length": self.length, "lag": self.lag, "frequency": self.frequency}

    def target(self, x: np.ndarray) -> np.ndarray:
        """The signal shifted by `lag`, (count, length, 1)."""
        y = np.zeros_like(x)
        y[:, self.lag :] = x[:, : self.length - self.lag]
        return y[..., None]


class Reconstruct(_WhiteSignals):
    """The end of the signal, from the last output: `x` (B, length, 1), `y` (B, window), the last samples.

    Args:
        batch_size: samples of a batch.
        seed: of the run.
        data_seed: of the generator.
        length: samples of a signal.
        window: how many of the last samples are wanted (in their order in time), 1 .. length.
        frequency: band limit of the signal in cycles per sample, at most 1/2.
        samples: (train, val, test).
        fresh: draw the training signals anew in every epoch.
    """

    name = "reconstruct"

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        data_seed: int = 0,
        length: int = 4000,
        window: int = 1000,
        frequency: float = 0.25,
        samples: Sequence[int] = SAMPLES,
        fresh: bool = True,
    ):
        super().__init__(
            batch_size,
            seed=seed,
            data_seed=data_seed,
            length=length,
            frequency=frequency,
            samples=samples,
            fresh=fresh,
        )
        if not 1 <= window <= length:
            raise ValueError(f"window must be in 1 .. {length} (length={length}), got {window}")
        self.window = window

    @property
    def sizes(self) -> dict[str, int]:
        """One channel, `window` targets."""
        return {"dim_in": 1, "dim_out": self.window, "length": self.length}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Length, window and band limit."""
        return {"length": self.length, "window": self.window, "frequency": self.frequency}

    def target(self, x: np.ndarray) -> np.ndarray:
        """The last samples, (count, window)."""
        return x[:, -self.window :]


class Copying(GeneratedData):
    """Tokens that are to be repeated after they have gone by, with no hint but the position.

    `x` (B, 2 memorize + gap) uint8: `memorize` tokens, drawn evenly from 1 .. vocabulary-2; `gap` blanks
    (token 0); `memorize` times the token vocabulary-1, "recall". `y` of the same shape, int64: -100 (does not
    count) at the first memorize + gap positions, then the tokens in their order.

    Args:
        batch_size: samples of a batch.
        seed: of the run.
        data_seed: of the generator.
        memorize: number of tokens to repeat.
        vocabulary: number of tokens with the blank and "recall", 3 .. 256.
        gap: number of blanks between the tokens and their recall.
        samples: (train, val, test).
        fresh: draw the training sequences anew in every epoch.
    """

    name = "copying"

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        data_seed: int = 0,
        memorize: int = 1024,
        vocabulary: int = 64,
        gap: int = 0,
        samples: Sequence[int] = (10000, 0, 1000),
        fresh: bool = False,
    ):
        super().__init__(batch_size, seed=seed, data_seed=data_seed, samples=samples, fresh=fresh)
        if memorize < 1:
            raise ValueError(f"memorize must be at least 1, got {memorize}")
        if not 3 <= vocabulary <= 256:
            raise ValueError(
                f"vocabulary must be in 3 .. 256 (a blank, 'recall' and tokens), got {vocabulary}"
            )
        if gap < 0:
            raise ValueError(f"gap must be at least 0, got {gap}")
        self.memorize, self.vocabulary, self.gap = memorize, vocabulary, gap

    @property
    def sizes(self) -> dict[str, int]:
        """As many classes as tokens: the labels are tokens."""
        length = 2 * self.memorize + self.gap
        return {"vocabulary": self.vocabulary, "dim_out": self.vocabulary, "length": length}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Numbers of tokens, of different ones, and of blanks."""
        return {"memorize": self.memorize, "vocabulary": self.vocabulary, "gap": self.gap}

    def draw(self, rng: np.random.Generator, count: int, split: str) -> dict[str, Tensor]:
        """Sequences and labels; the same law in all splits."""
        tokens = rng.integers(1, self.vocabulary - 1, (count, self.memorize))
        blank = np.zeros((count, self.gap), np.int64)
        recall = np.full_like(tokens, self.vocabulary - 1)
        ignored = np.full((count, self.memorize + self.gap), IGNORED)
        x = np.concatenate([tokens, blank, recall], axis=1).astype(np.uint8)
        y = np.concatenate([ignored, tokens], axis=1)
        return {"x": torch.from_numpy(x), "y": torch.from_numpy(y)}


class Sinusoid(GeneratedData):
    """Amplitude, or amplitude and frequency, of a sinusoid; tested at frequencies that training never shows.

    `x` (B, length, 1) = a cos(w t) at t = 0, 1/length, ..; a uniform in [0, 1], w (radians per unit of time)
    uniform in `band` for train and val and in `test_band` for test. `y` (B, 1) = a, or (B, 2) = (a, w / w1)
    with w1 the upper end of `band`. A diagonal state-space model in LegS's normal basis gives negative
    amplitudes above some w (about 80 in the paper).

    Args:
        batch_size: samples of a batch.
        seed: of the run.
        data_seed: of the generator.
        length: samples of a signal.
        band, test_band: (smallest, largest) w in training and in the test, 0 <= w <= pi length (Nyquist).
        targets: `amplitude`, or `both` for amplitude and frequency.
        samples: (train, val, test).
    """

    name = "sinusoid"

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        data_seed: int = 0,
        length: int = 1024,
        band: Sequence[float] = (0.0, 80.0),
        test_band: Sequence[float] = (80.0, 160.0),
        targets: str = "amplitude",
        samples: Sequence[int] = (8192, 1024, 1024),
    ):
        super().__init__(batch_size, seed=seed, data_seed=data_seed, samples=samples)
        if length < 2:
            raise ValueError(f"length must be at least 2, got {length}")
        for label, ends in (("band", band), ("test_band", test_band)):
            if len(ends) != 2 or not 0 <= ends[0] < ends[1] <= math.pi * length:
                raise ValueError(
                    f"{label} must be (smallest, largest) with 0 <= smallest < largest <= "
                    f"{math.pi * length:.6g} (Nyquist at length={length}), got {tuple(ends)}"
                )
        if targets not in ("amplitude", "both"):
            raise ValueError(f"targets must be amplitude or both, got {targets!r}")
        self.length, self.band, self.test_band = length, tuple(band), tuple(test_band)
        self.targets = targets

    @property
    def sizes(self) -> dict[str, int]:
        """One channel, one or two targets."""
        return {"dim_in": 1, "dim_out": 1 if self.targets == "amplitude" else 2, "length": self.length}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Length, bands and targets."""
        bands = {"band": list(self.band), "test_band": list(self.test_band)}
        return {"length": self.length, "targets": self.targets, **bands}

    def draw(self, rng: np.random.Generator, count: int, split: str) -> dict[str, Tensor]:
        """Sinusoids and their targets."""
        low, high = self.test_band if split == "test" else self.band
        a = rng.uniform(0, 1, (count, 1))
        w = rng.uniform(low, high, (count, 1))
        x = a * np.cos(w * np.arange(self.length) / self.length)
        y = a if self.targets == "amplitude" else np.concatenate([a, w / self.band[1]], axis=1)
        return {"x": _single(x).unsqueeze(-1), "y": _single(y)}


def _single(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
