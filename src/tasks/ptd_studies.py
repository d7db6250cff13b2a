"""Transfer functions of LegS, of its normal part and of perturbed LegS, without training (PTD, sections 3 and 4).

All in float64, with a fixed random C and the input vector `b = (sqrt(2n+1))` divided by its norm. "DPLR" is the
system `(A, b, C)` of LegS itself, which S4 starts from; "legs" is `(S, b/2, C)`, the diagonal system that S4D and
S5 start from; "gauss" and "opt" are the perturbed systems `(A + E, b, C)` in their eigenbasis.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.arguments import check_choice
from ..models.ssm import S4D, DiagonalInit
from ..models.ssm.ptd import PerturbedLegs, PTDInit, check_perturbation, decompose, perturbed_legs
from ..ops import legs_matrix, legs_normal_part, legs_spectrum, legs_vector
from ..ops.transfer import dense_transfer, diagonal_transfer, phi

METHODS = ("legs", "gauss", "opt")
OUTPUTS, POINTS = 8, 200  # rows of C and frequencies of `TransferStudy`
SPIKES = 5
GRID = 4001  # points of the search for a spike within 1 of an eigenfrequency


@dataclass(frozen=True)
class TransferStudy:
    """How far a diagonal system's transfer function is from DPLR's; deterministic.

    Calling it returns, with C of 8 random unit rows and 200 frequencies w from 0.1 to 1e4, evenly spaced in log w,

    | name | meaning |
    |---|---|
    | `error/sup` | largest `|G(iw) - G_DPLR(iw)|_2` over w |
    | `error/clipped` | the same after the unstable eigenvalues were moved |
    | `gain/sup` | largest `|G_DPLR(iw)|_2` |
    | `deviation/w1` | `|G(i) - G_DPLR(i)|_2 / |G_DPLR(i)|_2` |
    | `relation` | largest `|G_DPLR / G_Diag - (1 + Phi)|` over w and outputs, by dense solves |
    | `condition` | cond_2 of the eigenvectors |
    | `max_re` | largest real part of an eigenvalue before any was moved |
    | `clipped` | how many were moved |

    Args:
        method: `legs`, or a method of `perturbed_legs`, which `size`, `gamma` and `perturbation_seed` go to.
        seed: of C.

    Raises:
        ValueError: an unknown method, an odd `state_dim`, `size` or `gamma` out of range.
    """

    method: str = "gauss"
    state_dim: int = 64
    size: float | None = None
    gamma: float = 1.0
    perturbation_seed: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.method, self.state_dim, self.size, self.gamma)

    def __call__(self) -> dict[str, float]:
        n, c = self.state_dim, unit_rows(OUTPUTS, self.state_dim, self.seed)
        b = legs_vector(n) / legs_vector(n).norm()
        w = torch.logspace(-1, 4, POINTS, dtype=torch.float64)
        s = 1j * torch.cat([w, torch.ones(1, dtype=w.dtype)])  # the last point is w = 1
        exact = dense_transfer(legs_matrix(n), b, c, s)
        diagonal = dense_transfer(legs_normal_part(n), b / 2, c, s)
        found = eigensystem(self.method, n, self.size, self.gamma, self.perturbation_seed)
        b, c = inputs_and_outputs(found, b / 2 if self.method == "legs" else b, c)
        error, clipped = (
            (diagonal_transfer(a, b, c, s) - exact).norm(dim=1) for a in (found.raw, found.eigenvalues)
        )
        relation = exact / diagonal - (1 + phi(s, n))[:, None]
        return {
            "error/sup": float(error[:-1].max()),
            "error/clipped": float(clipped[:-1].max()),
            "gain/sup": float(exact[:-1].norm(dim=1).max()),
            "deviation/w1": float(error[-1] / exact[-1].norm()),
            "relation": float(relation[:-1].abs().max()),
            "condition": found.condition,
            "max_re": float(found.raw.real.max()),
            "clipped": float(found.clipped),
        }


@dataclass(frozen=True)
class FourierGain:
    """Gain of one `S4D` layer at its spurious resonances, against that of the DPLR filter; deterministic.

    The layer has one channel, bilinear discretisation, and C set to a random unit row in the layer's eigenbasis
    (`C V`), so that layer and DPLR filter are the same system up to the approximation of A. Its gain at a frequency
    is that of its kernel, `|sum_l K_l exp(-i theta l)|` over `length` samples. The bilinear filter has at
    `theta = 2 atan(w dt / 2)` the gain of the continuous system at w, up to a factor common to all systems.

    The frequencies w are those of the five largest spikes of `1/|1 + Phi(iw)|`, from the highest down, and those half
    way between neighbours. Calling it returns the gain ratios `ratio/spike1` .. `ratio/spike5` and
    `ratio/spike_min`, `deviation/spikes`, `deviation/between` and `deviation/max`, the largest `|ratio - 1|`.

    Args:
        method, state_dim, size, gamma, perturbation_seed: as for `TransferStudy`; state_dim >= 10.
        dt: step of the layer; all frequencies must lie well below 1/dt.
        length: of the kernel; with decays of 1/2 and more, `length dt / 2` nepers are kept.
        seed: of C.

    Raises:
        ValueError: as `TransferStudy`; `dt` or `length` out of range.
    """

    method: str = "gauss"
    state_dim: int = 64
    size: float | None = None
    gamma: float = 1.0
    perturbation_seed: int = 0
    dt: float = 1e-3
    length: int = 65536
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.method, self.state_dim, self.size, self.gamma)
        if self.state_dim < 2 * SPIKES:
            raise ValueError(f"state_dim is {self.state_dim}, {SPIKES} spikes need at least {2 * SPIKES}")
        if not self.dt > 0:
            raise ValueError(f"dt is {self.dt}, it must be > 0")
        if self.length < 1:
            raise ValueError(f"length is {self.length}, it must be at least 1")

    def __call__(self) -> dict[str, float]:
        spikes = spike_frequencies(self.state_dim)
        ratios = self._ratios(torch.cat([spikes, (spikes[1:] + spikes[:-1]) / 2])).tolist()
        off = [abs(ratio - 1) for ratio in ratios]
        found = {f"ratio/spike{i + 1}": ratios[i] for i in range(SPIKES)}
        return {
            **found,
            "ratio/spike_min": min(found.values()),
            "deviation/spikes": max(off[:SPIKES]),
            "deviation/between": max(off[SPIKES:]),
            "deviation/max": max(off),
        }

    def _ratios(self, w: Tensor) -> Tensor:
        n, c = self.state_dim, unit_rows(1, self.state_dim, self.seed)
        exact = dense_transfer(legs_matrix(n), legs_vector(n), c, 1j * w)[:, 0]
        theta = 2 * torch.atan(w * self.dt / 2)
        factor = 2 / (1 + torch.exp(-1j * theta))  # of the trapezoidal rule, common to all filters
        kernel = self.layer(c).kernel(self.length)[0, 0]
        phases = theta[:, None] * torch.arange(self.length, dtype=torch.float64)
        gain = (torch.exp(-1j * phases) @ kernel.to(torch.complex128)).abs()
        return gain / (exact * factor).abs()

    @torch.no_grad()
    def layer(self, c: Tensor) -> S4D:
        """The layer in float64, with the random row `c` (1, state) in its eigenbasis as C."""
        n = self.state_dim
        init = DiagonalInit("legs") if self.method == "legs" else self._init()
        layer = S4D(1, n, init=init, dt=(self.dt, self.dt), discretisation="bilinear").double().eval()
        found = eigensystem(self.method, n, self.size, self.gamma, self.perturbation_seed)
        b = legs_vector(n) / (2 if self.method == "legs" else 1)
        b, c = (x[..., found.kept] for x in inputs_and_outputs(found, b, c))
        a = found.eigenvalues[found.kept]
        # the layer was made in single precision
        layer.log_dt.fill_(math.log(self.dt))
        layer.A_re.copy_(init.encode_real(a.real))
        layer.get_parameter("A_im").copy_(a.imag)
        layer.B.copy_(torch.view_as_real(b * found.weight))  # real and positive, as in S4D
        layer.C.copy_(torch.view_as_real(c).unsqueeze(0))
        return layer

    def _init(self) -> PTDInit:
        return PTDInit(self.method, size=self.size, gamma=self.gamma, seed=self.perturbation_seed)


def _check(method: str, state_dim: int, size: float | None, gamma: float) -> None:
    check_choice("method", method, METHODS)
    if state_dim < 2 or state_dim % 2:
        raise ValueError(f"state_dim is {state_dim}, it must be even and >= 2")
    check_perturbation(size, "gauss", gamma)


def eigensystem(
    method: str, state_dim: int, size: float | None, gamma: float, perturbation_seed: int
) -> PerturbedLegs:
    """The eigen-decomposition of a perturbed LegS, or for `legs` of its normal part."""
    if method == "legs":
        normal = legs_normal_part(state_dim)
        return decompose(normal, torch.zeros_like(normal))
    return perturbed_legs(state_dim, size=size, method=method, seed=perturbation_seed, gamma=gamma)


def inputs_and_outputs(found: PerturbedLegs, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """`(V^{-1} b, C V)` of real b (state,) and C (outputs, state)."""
    return found.inverse @ b.to(found.inverse.dtype), c.to(found.vectors.dtype) @ found.vectors


def unit_rows(rows: int, state_dim: int, seed: int) -> Tensor:
    """Independent random directions, (rows, state) in float64."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    c = torch.randn(rows, state_dim, dtype=torch.float64, generator=generator)
    return c / c.norm(dim=1, keepdim=True)


def spike_frequencies(state_dim: int) -> Tensor:
    """The w of the five largest spikes of `1/|1 + Phi(iw)|`, descending.

    There is one at each eigenfrequency of the normal part, the higher the larger; the maximum is searched within 1.
    """
    found = []
    for middle in legs_spectrum(state_dim)[0].flip(0)[:SPIKES]:
        w = torch.linspace(float(middle) - 1, float(middle) + 1, GRID, dtype=torch.float64)
        found.append(w[(1 + phi(1j * w, state_dim)).abs().argmin()])
    return torch.stack(found)
