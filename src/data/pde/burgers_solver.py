"""A solver of the viscous Burgers equation on the periodic unit interval.

    u_t + (u^2 / 2)_x = nu u_xx,    x in [0, 1) periodic

by ETDRK4, the exponential Runge-Kutta scheme of fourth order of Cox and Matthews (J. Comput. Phys. 176, 2002)
with the coefficients of Kassam and Trefethen (SIAM J. Sci. Comput. 26, 2005), in Fourier space.
The space is that of the modes |k| < n/3, which makes the square free of aliasing, so that the equations of
the modes keep the balances of the differential one: the mean is constant, d/dt 1/2 ||u||^2 = -nu ||u_x||^2.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from ...errors import SolverError

CONTOUR = 32  # points on the circle; the mean over them is exact to rounding
# The scheme keeps ||u|| from growing; beyond this factor the step is at fault.
GROWTH = 1.01
# Share of the start's energy that the last third of the modes may hold. Without the resolution for its shocks,
# a solution piles up there; at this share it is wrong by about 1 %.
TAIL = 1e-3


class _Step(NamedTuple):
    """Coefficients of a step, per mode: exp(h L), exp(h L / 2), that of the half steps, those of the sum."""

    whole: Tensor
    half: Tensor
    inner: Tensor
    first: Tensor
    middle: Tensor
    last: Tensor


def etdrk4_coefficients(linear: Float64[Tensor, " modes"], step: float) -> _Step:
    """The coefficients of ETDRK4 for u' = L u + N(u), diagonal real L, with z = h L:

        h (e^(z/2) - 1) / z,    h (-4 - z + e^z (4 - 3 z + z^2)) / z^3,    h (2 + z + e^z (z - 2)) / z^3,
        h (-4 - 3 z - z^2 + e^z (4 - z)) / z^3

    each as the mean over a unit circle round z, where the quotients do not cancel (Kassam and Trefethen).
    """
    # Real L: the half circle, and the real part of the mean.
    angles = math.pi * (torch.arange(CONTOUR, dtype=torch.float64, device=linear.device) + 0.5) / CONTOUR
    z = step * linear[:, None] + torch.polar(torch.ones_like(angles), angles)
    e = torch.exp(z)
    quotients = (
        (torch.exp(z / 2) - 1) / z,
        (-4 - z + e * (4 - 3 * z + z**2)) / z**3,
        (2 + z + e * (z - 2)) / z**3,
        (-4 - 3 * z - z**2 + e * (4 - z)) / z**3,
    )
    inner, first, middle, last = (step * q.mean(1).real for q in quotients)
    return _Step(torch.exp(step * linear), torch.exp(step * linear / 2), inner, first, middle, last)


def solve_burgers(
    initial: Float64[Tensor, "count points"], *, viscosity: float, times: Sequence[float], dt: float
) -> Float64[Tensor, "count times points"]:
    """u(x_j, t) at the given times, x_j = j / points, from the states at t = 0; on the device of `initial`.

    Args:
        initial: at least 4 points. Modes |k| >= points / 3 are dropped at the start.
        viscosity: above 0.
        times: increasing, from 0 on; at 0 the state is `initial` itself.
        dt: the longest step; the way from one time to the next is divided into equal steps.

    Raises:
        ValueError: an argument out of range.
        SolverError: a solution that is not finite or whose norm grows (the step is unstable), or that the
            points do not resolve: shocks are about 8 viscosity / (height of the jump) wide.
    """
    _check(initial, viscosity, times, dt)
    points = initial.shape[1]
    waves = 2 * math.pi * torch.arange(-(-points // 3), dtype=torch.float64, device=initial.device)
    spectrum = torch.fft.rfft(initial)[:, : len(waves)].contiguous()
    energy = spectrum.abs().square().sum(1)
    steps: dict[float, _Step] = {}
    states, now = [], 0.0
    for time in times:
        count = math.ceil((time - now) / dt * (1 - 1e-12))
        if count:
            step = round((time - now) / count, 14)  # so that equal ways share their coefficients
            if step not in steps:
                steps[step] = etdrk4_coefficients(-viscosity * waves**2, step)
            spectrum = _advance(spectrum, steps[step], waves, points, count)
            _check_solution(spectrum, energy, viscosity, time, step)
        states.append(torch.fft.irfft(spectrum, n=points) if count else initial)
        now = time
    return torch.stack(states, 1)


def _advance(
    spectrum: Complex128[Tensor, "count modes"],
    step: _Step,
    waves: Float64[Tensor, " modes"],
    points: int,
    count: int,
) -> Complex128[Tensor, "count modes"]:
    """`count` steps of ETDRK4."""
    slope = -0.5j * waves
    step = _Step(*(coefficient.to(spectrum.dtype) for coefficient in step))

    def flux(v: Tensor) -> Tensor:
        """-(u^2 / 2)_x of the kept modes."""
        return torch.fft.rfft(torch.fft.irfft(v, n=points).square_())[:, : len(waves)] * slope

    for _ in range(count):
        start, halfway = flux(spectrum), spectrum * step.half
        a = torch.addcmul(halfway, start, step.inner)
        at_a = flux(a)
        b = halfway.addcmul_(at_a, step.inner)
        at_b = flux(b)
        c = a.mul_(step.half).addcmul_(at_b.mul(2).sub_(start), step.inner)
        at_c = flux(c)
        spectrum = spectrum * step.whole
        spectrum.addcmul_(start, step.first).addcmul_(at_a.add_(at_b), step.middle, value=2)
        spectrum.addcmul_(at_c, step.last)
    return spectrum


def _check(initial: Tensor, viscosity: float, times: Sequence[float], dt: float) -> None:
    for name, value in (("viscosity", viscosity), ("dt", dt)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}")
    finite = all(0 <= time < math.inf for time in times)
    if not times or not finite or any(b <= a for a, b in pairwise(times)):
        raise ValueError(f"times must be increasing numbers from 0 on, got {list(times)}")
    if initial.dtype != torch.float64 or initial.ndim != 2 or initial.shape[1] < 4:
        raise ValueError(
            "initial must be float64, (count, points) with at least 4 points, "
            f"got {initial.dtype} of shape {tuple(initial.shape)}"
        )
    if not bool(torch.isfinite(initial).all()):
        raise ValueError("initial holds NaN or infinite values")


def _check_solution(spectrum: Tensor, energy: Tensor, viscosity: float, time: float, step: float) -> None:
    """SolverError where the energy has grown since the start, or lies at the end of the spectrum."""
    power = spectrum.abs().square()
    # Written so that NaN is a fault too.
    unstable = ~(power.sum(1) <= GROWTH * energy)
    if unstable.any():
        raise SolverError(
            int(unstable.nonzero()[0]),
            f"the solution of Burgers' equation is not finite or grows before t={time:g}: the step dt={step:g} "
            f"is unstable at viscosity {viscosity:g}; take a smaller dt",
        )
    rough = power[:, -(-2 * power.shape[1] // 3) :].sum(1) > TAIL * energy
    if rough.any():
        raise SolverError(
            int(rough.nonzero()[0]),
            f"the solution of Burgers' equation is not resolved at t={time:g}: {power.shape[1]} modes are too few "
            f"at viscosity {viscosity:g}; take more points",
        )
