"""The generators of the sets of partial differential equations: fields drawn and equations solved, uncached.

`ours_ms` and `peer_ms` are per sample, `seconds` is all `samples` of the case, float64. Peers, on fewer samples:

- Darcy: `scipy.sparse.linalg.spsolve` with its own ordering, sample by sample, on the same matrices.
- Burgers: the method published with the set: heat part exact in Fourier space, forward Euler with small steps.
- Navier-Stokes: the published scheme in its published form, u . grad w by five transforms of the whole batch,
  with the same steps.

The difference is that of the two solutions: with Burgers the Euler steps' own error. With `--device cuda` Darcy
takes conjugate gradients, and Helmholtz, which has a sparse factorisation only, is left out.
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benching import milliseconds
from scipy.sparse.linalg import spsolve

from eigenzoo.data.pde.burgers import BurgersProblem
from eigenzoo.data.pde.coefficients import TwoPhase
from eigenzoo.data.pde.darcy import assemble_darcy, solve_darcy
from eigenzoo.data.pde.helmholtz_set import HelmholtzProblem
from eigenzoo.data.pde.navier_stokes import solve_vorticity
from eigenzoo.data.pde.navier_stokes_set import DecayingVorticity

CHUNK = 50  # samples solved at once
PEER_SAMPLES = 16
DARCY_SIZES = (43, 85)
BURGERS_POINTS, EULER_STEP = 1024, 1e-4
VORTICITY_POINTS, VISCOSITY, RELEASED_STEP = 64, 1e-3, 1e-3
PEERS = {
    "darcy": "scipy spsolve per sample",
    "burgers": f"split step, forward Euler, dt={EULER_STEP:g}",
    "vorticity": "the same scheme, advective form",
}

Solver = Callable[[torch.Tensor], torch.Tensor]


def run(report: Any, options: argparse.Namespace) -> None:
    """All cases; see the module."""
    _darcy(report, options)
    _burgers(report, options)
    _vorticity(report, options)
    if options.device == "cpu":
        _helmholtz(report, options)


def _darcy(report: Any, options: argparse.Namespace) -> None:
    solver = "direct" if options.device == "cpu" else "cg"
    for size in DARCY_SIZES[:1] if options.quick else DARCY_SIZES:
        _case(
            report,
            options,
            f"darcy {size}x{size} {solver}",
            100 if options.quick else 1000,
            lambda count, size=size: TwoPhase()(np.random.default_rng(0), count, size),
            lambda fields: solve_darcy(fields, solver=solver),
            ("darcy", spsolve_darcy),
        )


def _burgers(report: Any, options: argparse.Namespace) -> None:
    problem = BurgersProblem(size=BURGERS_POINTS)
    _case(
        report,
        options,
        f"burgers {BURGERS_POINTS}",
        100 if options.quick else 1000,
        lambda count: problem.initial(np.random.default_rng(0), count),
        lambda start: problem.solve(start, (1.0,))[:, 0],
        ("burgers", lambda start: split_step_burgers(start, problem.viscosity, 1.0)),
    )


def _vorticity(report: Any, options: argparse.Namespace) -> None:
    settings = {"viscosity": VISCOSITY, "size": VORTICITY_POINTS, "solver_size": VORTICITY_POINTS}
    problem = DecayingVorticity(**settings, horizon=20, dt=0.02, scheme="if_rk4", device=options.device)
    force = problem.force().to(options.device)

    def draw(count: int) -> torch.Tensor:
        return problem.initial(np.random.default_rng(0), count)

    time = 0.1 if options.quick else 1.0
    _case(
        report,
        options,
        f"navier-stokes 64x64 cn_euler dt={RELEASED_STEP:g} T={time:g}",
        PEER_SAMPLES,
        draw,
        lambda start: solve_vorticity(
            start, viscosity=VISCOSITY, times=[time], dt=RELEASED_STEP, forcing=force
        )[:, 0],
        ("vorticity", lambda start: advective_vorticity(start, VISCOSITY, time, force)),
    )
    _case(
        report,
        options,
        "navier-stokes 64x64 if_rk4 dt=0.02 T=20",
        4 if options.quick else 48,
        draw,
        lambda start: problem.solve(start)[:, -1],
        None,
    )


def _helmholtz(report: Any, options: argparse.Namespace) -> None:
    problem = HelmholtzProblem()
    _case(
        report,
        options,
        f"helmholtz {problem.size}x{problem.size}",
        5 if options.quick else 100,
        lambda count: problem.speeds(np.random.default_rng(0), count),
        problem.solve,
        None,
    )


def _case(
    report: Any,
    options: argparse.Namespace,
    name: str,
    count: int,
    draw: Callable[[int], torch.Tensor],
    solve: Solver,
    peer: tuple[str, Solver] | None,
) -> None:
    """Times drawing and solving in chunks, and the peer on the first samples."""
    device = options.device
    solve(draw(1).to(device))  # imports, first transforms

    def ours() -> None:
        for start in range(0, count, CHUNK):
            solve(draw(min(CHUNK, count - start)).to(device))

    elapsed = milliseconds(ours, device)
    fields: dict[str, Any] = {
        "case": name,
        "samples": count,
        "seconds": elapsed / 1e3,
        "ours_ms": elapsed / count,
    }
    if peer is not None:
        few = min(count, PEER_SAMPLES)
        given, found = draw(few).to(device), torch.empty(0)
        label, function = peer

        def theirs() -> None:
            nonlocal found
            found = function(given)

        time = milliseconds(theirs, device) / few
        difference = ((found - solve(given)).abs().max() / found.abs().max()).item()
        fields |= {"peer": PEERS[label], "peer_version": None, "peer_samples": few, "peer_ms": time}
        fields |= {"ratio": time * count / elapsed, "max_rel_diff": difference}
    report.add(**fields)


def spsolve_darcy(coefficients: torch.Tensor) -> torch.Tensor:
    """One sparse solve after the other."""
    size = coefficients.shape[-1]
    solutions = np.zeros(tuple(coefficients.shape))
    for solution, a in zip(solutions, coefficients.cpu().numpy(), strict=True):
        matrix = assemble_darcy(a, spacing=1 / (size - 1)).tocsc()
        inner = np.asarray(spsolve(matrix, np.ones((size - 2) ** 2)))
        solution[1:-1, 1:-1] = inner.reshape(size - 2, size - 2)
    return torch.from_numpy(solutions).to(coefficients.device)


def split_step_burgers(initial: torch.Tensor, viscosity: float, time: float) -> torch.Tensor:
    """u(., time): a step is exp(dt nu d_xx) and then forward Euler for -(u^2 / 2)_x, 2/3 dealiased."""
    points = initial.shape[-1]
    waves = 2 * math.pi * torch.arange(points // 2 + 1, dtype=torch.float64, device=initial.device)
    decay = torch.exp(-EULER_STEP * viscosity * waves**2)
    advection = -0.5j * EULER_STEP * waves * (3 * waves < 2 * math.pi * points)
    spectrum = torch.fft.rfft(initial)
    for _ in range(round(time / EULER_STEP)):
        spectrum = decay * spectrum
        spectrum = spectrum + advection * torch.fft.rfft(torch.fft.irfft(spectrum, n=points).square())
    return torch.fft.irfft(spectrum, n=points)


def advective_vorticity(
    initial: torch.Tensor, viscosity: float, time: float, force: torch.Tensor
) -> torch.Tensor:
    """w(., time): Crank-Nicolson for the viscous term, Euler for f - u . grad w."""
    n = initial.shape[-1]
    rows = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=initial.device)[:, None]
    columns = torch.arange(n // 2 + 1, dtype=torch.float64, device=initial.device)
    keep = ((3 * rows.abs() < n) & (3 * columns < n)).double()
    x, y = 2 * math.pi * rows, 2 * math.pi * columns
    squares = x**2 + y**2
    inverse = torch.where(squares > 0, 1 / squares, 0)
    half = RELEASED_STEP * viscosity * squares / 2
    spectrum, forcing = torch.fft.rfft2(initial) * keep, torch.fft.rfft2(force) * keep
    for _ in range(round(time / RELEASED_STEP)):
        stream = spectrum * inverse
        u, v = torch.fft.irfft2(1j * y * stream, s=(n, n)), torch.fft.irfft2(-1j * x * stream, s=(n, n))
        w_x, w_y = (
            torch.fft.irfft2(1j * x * spectrum, s=(n, n)),
            torch.fft.irfft2(1j * y * spectrum, s=(n, n)),
        )
        rate = forcing - keep * torch.fft.rfft2(u * w_x + v * w_y)
        spectrum = ((1 - half) * spectrum + RELEASED_STEP * rate) / (1 + half)
    return torch.fft.irfft2(spectrum, s=(n, n))
