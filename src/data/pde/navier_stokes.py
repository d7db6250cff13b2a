"""Two-dimensional Navier-Stokes flow on a square torus in vorticity form, in float64 on any device.

    w_t + u . grad w = nu Laplace w + f,    u = (psi_y, -psi_x),    -Laplace psi = w,    on [0, length)^2

x is the first grid axis and y the second. Pseudo-spectral: products are taken at the points, everything else by
wave numbers. Modes with 3 |k| >= n on either axis are zero from the start (the 2/3 rule), so that no product is
aliased and the truncated system keeps energy and enstrophy when nu = 0 and f = 0. The advection is computed as

    u . grad w = (d_xx - d_yy)(u v) + d_xy (v^2 - u^2),

which takes two inverse and two forward transforms where the form on the left takes five.

| scheme | per step | order in dt |
|---|---|---|
| `cn_euler` | Crank-Nicolson for the viscous term, explicit Euler for the rest | 1 |
| `cn_heun` | the same with Heun's two stages | 2 |
| `if_rk4` | viscous term exactly by its factor exp(-nu |kappa|^2 dt), Runge-Kutta of order 4 for the rest | 4 |

`cn_euler` with dt = 1e-4 on 256 x 256 points is the solver of Li, Kovachki, Azizzadenesheli, Liu, Bhattacharya,
Stuart, Anandkumar, "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, arXiv
2010.08895. Different here: the initial field is truncated too, where the released code truncates only the
advection, and |k| = n/3 is dropped where n is a multiple of 3 (it would be aliased).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ...errors import SolverError

BLOCK_POINTS = {"cpu": 2**15, "cuda": 2**25}  # marched together: the spectra of a block stay in the cache
CHECK_EVERY = 16  # steps between two looks at the stability, where the step is fixed
CFL_LIMIT = 1.0
GROWTH_LIMIT = 1.1  # norm of the vorticity relative to the bound that every solution keeps
LINEAR_MARGIN = (
    4.0  # steps this much above linear stability ruin a flow; twice above it, the error is per cents
)
DIVIDES = 1e-9  # relative rounding in (times / dt)


def velocity(
    vorticity: Float64[Tensor, "count n n"], *, length: float = 1.0
) -> Float64[Tensor, "count 2 n n"]:
    """u = (psi_y, -psi_x), -Laplace psi = w, of the modes with 2 |k| < n; the mean of w has no part in it."""
    torus = _Torus(vorticity.shape[-1], length, False, vorticity.device)
    return torus.velocity(torus.spectrum(vorticity))


def solve_vorticity(
    initial: Float64[Tensor, "count n n"],
    *,
    viscosity: float,
    times: Sequence[float],
    dt: float,
    forcing: Float64[Tensor, "*any p q"] | None = None,
    length: float = 1.0,
    scheme: str = "cn_euler",
    cfl: float | None = None,
    dealias: bool = True,
) -> Float64[Tensor, "count times n n"]:
    """The vorticity at `times`, from `initial` at time 0. Every sample is marched by itself.

    Args:
        initial: vorticity at the points j length / n; at least 4 points per axis.
        viscosity: nu, above 0, in length^2 / time.
        times: of the records, above 0, increasing.
        dt: the step; with `cfl` the largest step.
        forcing: f, constant in time: (n, n) for all samples or (count, n, n).
        length: period of both axes.
        scheme: `cn_euler`, `cn_heun` or `if_rk4`.
        cfl: None takes steps of `dt`, which must divide the times. A number gives every sample steps of its own,
            linearly stable ones with max |u| dt n / length <= cfl, evenly divided up to the next record.
        dealias: keep the modes with 3 |k| < n; False keeps all with 2 |k| < n.

    Raises:
        ValueError: an argument out of range, a NaN, or times that are no multiples of a fixed step.
        SolverError: the step is unstable at this viscosity: the advective CFL number max |u| dt n / length
            exceeds 1, or dt exceeds 4 times the linearly stable step (where |kappa| is largest: 2 nu / |u|^2 for
            `cn_euler`, (8 nu / |u|^4 |kappa|^2)^(1/3) for `cn_heun`), or the vorticity exceeds
            ||w(0)|| + t ||f|| (mean square norms), which no solution does, by a tenth.
    """
    _check(initial, forcing, {"viscosity": viscosity, "dt": dt, "length": length})
    if scheme not in SCHEMES:
        raise ValueError(f"scheme={scheme!r}: must be one of {', '.join(SCHEMES)}")
    if cfl is not None and not 0 < cfl <= CFL_LIMIT:
        raise ValueError(f"cfl={cfl}: must be above 0 and at most {CFL_LIMIT:g}, or None")
    gaps = _gaps(times, dt, cfl is None)
    count, n = initial.shape[:2]
    torus = _Torus(n, length, dealias, initial.device)
    block = max(1, BLOCK_POINTS.get(initial.device.type, 2**15) // n**2)
    solution = initial.new_empty(count, len(times), n, n)
    for start in range(0, count, block):
        rows = slice(start, start + block)
        force = forcing[rows] if forcing is not None and forcing.ndim == 3 else forcing
        march = _March(torus, viscosity, dt, cfl, SCHEMES[scheme], initial[rows], force)
        try:
            for index, gap in enumerate(gaps):
                solution[rows, index] = march.advance(gap)
        except SolverError as error:
            raise SolverError(start + error.sample, error.sentence) from None
    return solution


class _Torus:
    """Transforms and derivatives; spectra are (..., n, m): all rows, and the m columns that can be kept."""

    def __init__(self, n: int, length: float, dealias: bool, device: torch.device):
        rows = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=device)
        columns = torch.arange(n // 2 + 1, dtype=torch.float64, device=device)
        factor = 3 if dealias else 2
        columns = columns[factor * columns < n]
        keep = (factor * rows.abs() < n)[:, None] & (columns >= 0)
        x, y = (2 * math.pi / length * k for k in (rows[:, None], columns[None, :]))
        self.n, self.spacing, self.columns = n, length / n, len(columns)
        self.keep, self.squares = keep.double(), x**2 + y**2
        inverse = torch.where(self.squares > 0, 1 / self.squares, 0.0) * keep
        self._velocity = torch.stack([1j * y * inverse, -1j * x * inverse])
        # Complex although real: a product of a real and a complex tensor takes twice as long.
        self._advection = (torch.stack([x**2 - y**2, x * y]) * keep).to(torch.complex128)

    def spectrum(self, field: Tensor) -> Tensor:
        """(..., n, n) -> (..., n, m); modes that are not kept are not yet zero."""
        return torch.fft.fft(torch.fft.rfft(field)[..., : self.columns], dim=-2)

    def field(self, spectrum: Tensor) -> Tensor:
        """(..., n, m) -> (..., n, n)."""
        return torch.fft.irfft(torch.fft.ifft(spectrum, dim=-2), n=self.n)

    def velocity(self, w: Tensor) -> Tensor:
        """(count, n, m) -> (count, 2, n, n)."""
        return self.field(self._velocity * w[:, None])

    def advection(self, velocity: Tensor) -> Tensor:
        """-u . grad w: (count, 2, n, n) -> (count, n, m)."""
        u, v = velocity.unbind(1)
        products = torch.empty_like(velocity)
        torch.mul(u, v, out=products[:, 0])
        torch.mul(v - u, v + u, out=products[:, 1])
        first, second = self.spectrum(products).unbind(1)
        return torch.addcmul(self._advection[0] * first, self._advection[1], second)

    def norm(self, w: Tensor) -> Tensor:
        """Root mean square over the points, (count,)."""
        squares = torch.view_as_real(w).square().sum((1, 3))
        return (2 * squares.sum(1) - squares[:, 0]).sqrt() / self.n**2


Rate = Callable[[Tensor], Tensor]
Factors = tuple[Tensor, Tensor]


class _Scheme(NamedTuple):
    """How a step is made: `factors(viscous rates, dt)`, `step(w, its rate, rate of others, factors, dt)`.

    `stable(viscosity, speeds, wave number)`: the longest steps with which a wave that a constant speed carries
    does not grow.
    """

    factors: Callable[[Tensor, Tensor], Factors]
    step: Callable[[Tensor, Tensor, Rate, Factors, Tensor], Tensor]
    stable: Callable[[float, Tensor, Tensor], Tensor]


def _crank_nicolson(rates: Tensor, dt: Tensor) -> Factors:
    """(1 - a) / (1 + a) and dt / (1 + a), a = rate dt / 2."""
    half = rates * dt / 2
    return ((1 - half) / (1 + half)).to(torch.complex128), (dt / (1 + half)).to(torch.complex128)


def _decay(rates: Tensor, dt: Tensor) -> Factors:
    """exp(-rate dt / 2) and its square."""
    half = torch.exp(-rates * dt / 2).to(torch.complex128)
    return half, half * half


def _euler(w: Tensor, first: Tensor, rate: Rate, factors: Factors, dt: Tensor) -> Tensor:
    return torch.addcmul(factors[0] * w, factors[1], first)


def _heun(w: Tensor, first: Tensor, rate: Rate, factors: Factors, dt: Tensor) -> Tensor:
    guess = _euler(w, first, rate, factors, dt)
    return torch.addcmul(guess, factors[1], rate(guess) - first, value=0.5)


def _runge_kutta(w: Tensor, first: Tensor, rate: Rate, factors: Factors, dt: Tensor) -> Tensor:
    half, full = factors
    halfway = half * w
    second = rate(halfway + half * first * (dt / 2))
    third = rate(halfway + second * (dt / 2))
    fourth = rate(half * (halfway + third * dt))
    middle = half * (second + third)
    return full * w + (full * first + 2 * middle + fourth) * (dt / 6)


SCHEMES = {
    "cn_euler": _Scheme(_crank_nicolson, _euler, lambda nu, u, k: 2 * nu / u**2),
    "cn_heun": _Scheme(_crank_nicolson, _heun, lambda nu, u, k: (8 * nu / (u**4 * k**2)) ** (1 / 3)),
    "if_rk4": _Scheme(_decay, _runge_kutta, lambda nu, u, k: 2.8 / (u * k)),
}


class _March:
    """A block of samples on their way in time; `advance` brings all of them to the next record."""

    def __init__(
        self,
        torus: _Torus,
        viscosity: float,
        dt: float,
        cfl: float | None,
        scheme: _Scheme,
        initial: Tensor,
        forcing: Tensor | None,
    ):
        self.torus, self.viscosity, self.dt, self.cfl, self.scheme = torus, viscosity, dt, cfl, scheme
        self.w = torus.spectrum(initial) * torus.keep
        self.force = None if forcing is None else torus.spectrum(forcing) * torus.keep
        self.rates = viscosity * torus.squares
        self.step = torch.tensor(dt, dtype=torch.float64, device=initial.device)
        self.factors = scheme.factors(self.rates, self.step)
        self.elapsed = initial.new_zeros(len(initial))
        self.start = torus.norm(self.w)
        force = self.force if self.force is None or self.force.ndim == 3 else self.force[None]
        self.push = torch.zeros_like(self.start) if force is None else torus.norm(force)
        self.speed, self.highest = torch.zeros_like(self.start), torus.squares.max().sqrt()

    def advance(self, gap: float) -> Tensor:
        """The vorticity at the points after the time `gap`."""
        if self.cfl is None:
            self._fixed(round(gap / self.dt))
        else:
            self._adaptive(gap, self.cfl)
        self._guard(None)
        return self.torus.field(self.w)

    def _fixed(self, steps: int) -> None:
        for index in range(steps):
            velocity = self.torus.velocity(self.w)
            if index % CHECK_EVERY == 0:
                self._guard(velocity)
            first = self._forced(self.torus.advection(velocity))
            self.w = self.scheme.step(self.w, first, self._rate, self.factors, self.step)
            self.elapsed += self.dt

    def _adaptive(self, gap: float, cfl: float) -> None:
        remaining = torch.full_like(self.elapsed, gap)
        while (remaining > 0).any():
            velocity = self.torus.velocity(self.w)
            self._guard(velocity)
            longest = self._longest(cfl).clamp(max=self.dt)
            step = remaining / (remaining / longest).ceil().clamp(min=1)
            first = self._forced(self.torus.advection(velocity))
            wide = step[:, None, None]  # a sample that has arrived makes a step of length zero
            factors = self.scheme.factors(self.rates, wide)
            self.w = self.scheme.step(self.w, first, self._rate, factors, wide)
            self.elapsed, remaining = self.elapsed + step, remaining - step

    def _rate(self, w: Tensor) -> Tensor:
        return self._forced(self.torus.advection(self.torus.velocity(w)))

    def _forced(self, advection: Tensor) -> Tensor:
        return advection if self.force is None else advection + self.force

    def _longest(self, cfl: float) -> Tensor:
        """The steps that the speeds allow, infinite where the fluid is at rest."""
        stable = self.scheme.stable(self.viscosity, self.speed, self.highest)
        return torch.minimum(cfl * self.torus.spacing / self.speed, stable)

    def _guard(self, velocity: Tensor | None) -> None:
        """SolverError where a sample has left the bound of its norm, or a fixed step is too long for the velocity."""
        norm, bound = self.torus.norm(self.w), self.start + self.elapsed * self.push
        bad = ~(norm <= GROWTH_LIMIT * bound)
        if velocity is not None:
            speed = velocity.square().sum(1).amax((1, 2)).sqrt()
            self.speed = torch.where(torch.isfinite(speed), speed, self.speed)
            stable = self.scheme.stable(self.viscosity, speed, self.highest)
            longest = torch.minimum(CFL_LIMIT * self.torus.spacing / speed, LINEAR_MARGIN * stable)
            bad |= ~(longest >= self.dt) if self.cfl is None else ~torch.isfinite(speed)
        if bad.any():
            self._fail(int(bad.nonzero()[0, 0]))

    def _fail(self, sample: int) -> None:
        allowed = self._longest(self.cfl or CFL_LIMIT)[sample].item()
        used = self.dt if self.cfl is None else min(self.dt, allowed)
        number = self.speed[sample].item() * used / self.torus.spacing
        raise SolverError(
            sample,
            f"dt={used:g} is unstable at viscosity={self.viscosity:g}: at time {self.elapsed[sample].item():g} "
            f"the advective CFL number is {number:.3g}; dt of at most {min(allowed, used / 2):.2g} is allowed",
        )


def _gaps(times: Sequence[float], dt: float, fixed: bool) -> list[float]:
    """Times between the records, checked."""
    gaps = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    if not gaps or not all(0 < gap < math.inf for gap in gaps):
        raise ValueError(f"times={list(times)}: must be above 0 and increasing, at least one")
    for time in times if fixed else ():
        if round(time / dt) == 0 or abs(round(time / dt) * dt - time) > DIVIDES * time:
            raise ValueError(f"dt={dt:g}: must divide the times of the records, and does not divide {time:g}")
    return gaps


def _check(initial: Tensor, forcing: Tensor | None, positive: dict[str, float]) -> None:
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: must be above 0 and finite")
    if initial.ndim != 3 or initial.shape[1] != initial.shape[2] or initial.shape[1] < 4 or not len(initial):
        raise ValueError(f"initial: must be (count, n, n) with n at least 4, got {tuple(initial.shape)}")
    for name, fields in (("initial", initial), ("forcing", forcing)):
        if fields is None:
            continue
        if fields.dtype != torch.float64:
            raise ValueError(f"{name}: must be float64, got {fields.dtype}")
        if fields.shape not in (initial.shape, initial.shape[1:]):
            raise ValueError(
                f"{name}: must be (n, n) or (count, n, n) as initial {tuple(initial.shape)}, "
                f"got {tuple(fields.shape)}"
            )
        bad = ~torch.isfinite(fields).flatten(-2).all(-1)
        if bad.any():
            raise ValueError(f"{name}, sample {int(bad.nonzero()[0, 0]) if bad.ndim else 0}: NaN or infinite")
