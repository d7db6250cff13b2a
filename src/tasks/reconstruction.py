"""What a state remembers, without training: the past of a signal recovered from the last state by least squares.

Gu, Johnson, Timalsina, Rudra, Ré, "How to Train Your HiPPO", ICLR 2023, arXiv 2206.12037: where the kernels of
(A, b) are an orthogonal basis, the state holds the projections of the past onto it, and

    u(t - s) ~ sum_n x_n(t) p_n(s).

The step dt sets the time scale: LegT and FouT see the last 2/dt samples, LegS all of them with weight
`exp(-dt s)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.signals import check_band, white_noise
from ..ops.hippo import HIPPO, hippo_matrix, hippo_normal_part, hippo_vector

LENGTH, WINDOW = 2000, 500
TRAIN, TEST = 400, 200
RIDGE = 1e-6
BASES = (*HIPPO, "lin")


@dataclass(frozen=True)
class ReconstructionFit:
    """Mean squared errors of the best linear map from the last state to the last 500 samples; deterministic.

    The signals are white noise of 2000 samples with unit variance (`white_noise`), 400 to fit and 200 to test,
    the same for all bases and steps. State: bilinear discretisation, after the last sample. The map W minimises
    `|X W - Y|^2 + |1e-6 W|^2`, all in float64. Calling it returns for every band limit f and every step x, in
    units of 1/window, `mse/band<f>_dt<x>` and its decimal logarithm `log10_mse/band<f>_dt<x>`, and for every band
    `cost/band<f>`: how many times larger the error is at twice the matching step 2/window, `mse(4) / mse(2)`.

    Args:
        basis: a name of `ops.hippo_matrix`, or `lin`: FouT without its low rank, `A = S - I/2`.
        state_dim: N.
        bands: band limits in cycles per sample.
        dt_window: steps in units of 1/window (window = 500 samples).

    Raises:
        ValueError: an unknown basis, a state size that it does not take, a band limit or a step out of range.
    """

    basis: str = "legs"
    state_dim: int = 64
    bands: Sequence[float] = (0.02, 0.05)
    dt_window: Sequence[float] = (0.5, 1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise ValueError(f"basis is {self.basis!r}, known are {', '.join(BASES)}")
        basis_system(self.basis, self.state_dim)  # a wrong size is told when the study is built
        for band in self.bands:
            check_band(LENGTH, band)
        if not {2.0, 4.0} <= set(self.dt_window) or not min(self.dt_window) > 0:
            raise ValueError(f"dt_window is {self.dt_window}, it must be positive and hold 2 and 4")

    def __call__(self) -> dict[str, float]:
        found = {}
        for band in self.bands:
            rng = np.random.default_rng(0)
            u = torch.from_numpy(white_noise(rng, TRAIN + TEST, LENGTH, frequency=band, rms=1.0))
            errors = {x: self._error(u, x / WINDOW) for x in self.dt_window}
            found |= {f"mse/band{band:g}_dt{x:g}": error for x, error in errors.items()}
            found |= {f"log10_mse/band{band:g}_dt{x:g}": float(np.log10(e)) for x, e in errors.items()}
            found[f"cost/band{band:g}"] = errors[4.0] / errors[2.0]
        return found

    def _error(self, u: Tensor, dt: float) -> float:
        x, y = last_states(*basis_system(self.basis, self.state_dim), u, dt), u[:, -WINDOW:]
        ridge = RIDGE * torch.eye(self.state_dim, dtype=torch.float64)
        rows = torch.cat([x[:TRAIN], ridge])
        targets = torch.cat([y[:TRAIN], y.new_zeros(self.state_dim, WINDOW)])
        weights = torch.linalg.lstsq(rows, targets, driver="gelsd").solution
        return (x[TRAIN:] @ weights - y[TRAIN:]).square().mean().item()


def basis_system(basis: str, state_dim: int) -> tuple[Tensor, Tensor]:
    """A (N, N) and b (N,) of a basis, float64."""
    if basis == "lin":
        half = torch.eye(state_dim, dtype=torch.float64) / 2
        return hippo_normal_part("fout", state_dim) - half, hippo_vector("fout", state_dim)
    return hippo_matrix(basis, state_dim), hippo_vector(basis, state_dim)


def last_states(a: Tensor, b: Tensor, u: Tensor, dt: float) -> Tensor:
    """The states (batch, N) after the last of the samples u (batch, length), from x_{-1} = 0, float64.

    `x_k = Abar x_{k-1} + Bbar u_k` with `Abar = (I - dt A/2)^-1 (I + dt A/2)`, `Bbar = (I - dt A/2)^-1 dt b`.
    """
    eye = torch.eye(len(b), dtype=torch.float64)
    left = eye - dt / 2 * a
    abar, bbar = torch.linalg.solve(left, eye + dt / 2 * a), torch.linalg.solve(left, dt * b)
    columns, power = bbar[:, None], abar  # Abar^l Bbar for l < m, and Abar^m; m doubles
    while columns.shape[1] < u.shape[1]:
        columns = torch.cat([columns, power @ columns], dim=1)
        power = power @ power
    return u.flip(1) @ columns[:, : u.shape[1]].T
