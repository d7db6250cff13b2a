"""What a fixed diagonal state matrix can express, without training: the mechanism behind S4D's ablation of A.

For one channel with A and dt fixed, the kernel `K_l = 2 Re sum_n W_n exp(a_n l dt)` is linear in W = C B, so the
best C for a target kernel is a linear least-squares problem. Targets are delayed bumps
`exp(-((l - tau) / (w / 2))^2 / 2)`: a model that must remember for tau steps needs one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..models.ssm import DiagonalInit

BUMPS = ((64, 256, 8), (256, 1024, 32), (256, 1024, 8))  # delay tau, length L, width w, in samples
DT_TAU = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class DelayFit:
    """Relative L2 errors of the best least-squares fit to delayed bumps, in float64; deterministic.

    Calling it returns `{"error/tau<tau>_w<w>": error}` for every bump, the best over `dt = x / tau`, x in `dt_tau`.
    The columns are `Re exp(a_n l dt)` and `-Im exp(a_n l dt)`, zero ones dropped, each normalised (so B and the
    discretisation drop out); singular values below `eps * max(rows, columns)` are cut off. Random initialisations
    are one draw with generator seed 0.
    """

    init: DiagonalInit | str = "lin"
    state_dim: int = 64
    dt_tau: Sequence[float] = DT_TAU

    def __post_init__(self) -> None:
        self._eigenvalues()  # a wrong name or size is told when the study is built

    def __call__(self) -> dict[str, float]:
        a = self._eigenvalues()
        found = {}
        for tau, length, width in BUMPS:
            steps = np.arange(length, dtype=np.float64)
            target = np.exp(-(((steps - tau) / (width / 2)) ** 2) / 2)
            found[f"error/tau{tau}_w{width}"] = min(fit_error(a, x / tau, target) for x in self.dt_tau)
        return found

    def _eigenvalues(self) -> np.ndarray:
        init = DiagonalInit(self.init) if isinstance(self.init, str) else self.init
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            real, imag, _ = init.spectrum(self.state_dim, 1)
        return real[0].numpy() + 1j * imag[0].numpy()


def fit_error(a: np.ndarray, dt: float, target: np.ndarray) -> float:
    """`min_W |K(W) - target| / |target|` over complex weights W, for eigenvalues `a` (modes,) and a step `dt`."""
    powers = np.exp(np.arange(len(target))[:, None] * (a * dt))
    columns = np.concatenate([np.real(powers), -np.imag(powers)], axis=1)
    norms = np.linalg.norm(columns, axis=0)
    columns = columns[:, norms > 0] / norms[norms > 0]
    weights = np.linalg.lstsq(columns, target, rcond=None)[0]
    return float(np.linalg.norm(columns @ weights - target) / np.linalg.norm(target))
