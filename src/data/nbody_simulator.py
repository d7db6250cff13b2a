"""Interacting particles: the random draws of the released generators, and their integrator, for many systems at once.

Kipf et al., "Neural Relational Inference for Interacting Systems", ICML 2018, arXiv 1802.04687 (springs, charges), in
the 3-D form of Fuchs et al. 2020, arXiv 2006.10503, and Satorras et al. 2021, arXiv 2102.09844. With x (3, n) and
v (3, n) of a system, and charges q in {-1, 1} or springs E (n, n) in {0, 1}:

    F_i = sum_{j != i} q_i q_j (x_i - x_j) / |x_i - x_j|^3      or      F_i = -0.1 sum_j E_ij (x_i - x_j)

each component of F clipped to [-100, 100], and v += dt F, then x += dt v. The draws do not depend on the dynamics,
so that all are replayed first, bit for bit, and all systems are integrated together.

What differs: |x_i - x_j|^2 is summed from differences (the original expands the square), every pair is computed
once, and so trajectories agree to rounding, which bound pairs amplify.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from .module import check_whole

BOX, SPEED, LIMIT, SPRING = 5.0, 0.5, 100.0, 0.1
PAIRS = 10240  # of all systems that are integrated together: their buffers stay in a core's own cache

Draw = tuple[np.ndarray, np.ndarray | None, np.ndarray]  # bonds, charges, normal numbers of one system


@dataclass(frozen=True)
class Start:
    """Initial states: `pos`, `vel` (S, 3, n), and `bonds` (S, n, n), the products q_i q_j or the springs;
    `charge` (S, n, 1) of charged particles, else None.
    """

    pos: np.ndarray
    vel: np.ndarray
    bonds: np.ndarray
    charge: np.ndarray | None = None

    def __getitem__(self, rows: slice) -> "Start":
        charge = None if self.charge is None else self.charge[rows]
        return Start(self.pos[rows], self.vel[rows], self.bonds[rows], charge)


@dataclass(frozen=True)
class Particles:
    """A released simulation: what is drawn, and how often it is stored.

    Args:
        count: particles of a system.
        steps: T of the generator. With `every` it says how many random numbers a system takes from the stream.
        every: f: frame k is the state after (k + 1) f steps; frame -1, the initial state, is not stored.
        data_seed: of the one stream that all splits are drawn from.
        released: systems of train, val and test in the stream.
        dt: time step.

    Raises:
        ValueError: a size out of range, `steps` that `every` does not divide.
    """

    count: int = 5
    steps: int = 5000
    every: int = 100
    data_seed: int = 43
    released: Sequence[int] = (10000, 2000, 2000)
    dt: float = 1e-3

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("steps", 1), ("every", 1), ("data_seed", 0)):
            check_whole(name, getattr(self, name), least)
        if self.steps % self.every or self.frames < 1:
            raise ValueError(
                f"steps={self.steps}: must be a multiple of every={self.every}, at least twice that"
            )
        if len(self.released) != 3 or min(self.released) < 0:
            raise ValueError(f"released={list(self.released)}: must be the sizes of train, val and test")
        object.__setattr__(self, "released", tuple(self.released))  # a list is not equal to a tuple
        if not 0 < self.dt < np.inf:
            raise ValueError(f"dt={self.dt}: must be above 0 and finite")

    @property
    def frames(self) -> int:
        """Frames of the released files."""
        return self.steps // self.every - 1

    @property
    def parameters(self) -> dict[str, Any]:
        """All that a state depends on, as JSON values."""
        return {
            "force": type(self).__name__, "count": self.count, "steps": self.steps, "every": self.every,
            "data_seed": self.data_seed, "released": list(self.released), "dt": self.dt,
        }  # fmt: skip

    @property
    def spread(self) -> float:
        """Standard deviation of the initial positions."""
        raise NotImplementedError

    def draw_bonds(self, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray | None]:
        """The first draw of a system: bonds (n, n), and charges (n, 1) where there are any."""
        raise NotImplementedError

    def strength(self, bonds: np.ndarray, squares: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Writes a_ij of F_i = sum_j a_ij (x_i - x_j) into `out`, from bonds and |x_i - x_j|^2 of the pairs."""
        raise NotImplementedError

    def draws(self) -> Iterator[Draw]:
        """One system of the stream after the other."""
        random = np.random.RandomState(self.data_seed)
        state = 6 * self.count
        while True:
            bonds, charge = self.draw_bonds(random)
            # The noise of the observations is drawn, too, although its scale is 0.
            yield bonds, charge, random.randn(state * (1 + self.frames))[:state]

    def replay(self, counts: Sequence[int]) -> list[Start | None]:
        """Initial states of the first `counts` systems of train, val and test; None of a split without any.

        The draws of all systems that come before are made and dropped.
        """
        stream, starts = self.draws(), []
        last = max((index for index, count in enumerate(counts) if count), default=-1)
        for index, (count, released) in enumerate(zip(counts, self.released, strict=True)):
            kept = list(islice(stream, count))
            if index < last:
                for _ in islice(stream, released - count):
                    pass
            starts.append(self._start(kept) if kept else None)
        return starts

    def _start(self, drawn: Sequence[Draw]) -> Start:
        normal = np.stack([numbers for *_, numbers in drawn]).reshape(len(drawn), 2, 3, self.count)
        pos, vel = normal[:, 0] * self.spread, normal[:, 1]
        vel = vel * SPEED / np.sqrt((vel**2).sum(1, keepdims=True))
        reflect(pos, vel)
        charges = [charge for _, charge, _ in drawn if charge is not None]
        charge = np.stack(charges) if charges else None
        return Start(pos, vel, np.stack([bonds for bonds, *_ in drawn]), charge)


class ChargedParticles(Particles):
    """Particles of charge -1 or 1, each with probability 1/2; positions of deviation (n/5)^(1/3)."""

    @property
    def spread(self) -> float:
        """(n/5)^(1/3)."""
        return (self.count / 5.0) ** (1 / 3)

    def draw_bonds(self, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray | None]:
        """Charges and their products."""
        charge = random.choice([-1.0, 0.0, 1.0], size=(self.count, 1), p=[0.5, 0, 0.5])
        return charge @ charge.T, charge

    def strength(self, bonds: np.ndarray, squares: np.ndarray, out: np.ndarray) -> np.ndarray:
        """q_i q_j / |x_i - x_j|^3."""
        np.multiply(squares, np.sqrt(squares, out=out), out=out)
        return np.divide(bonds, out, out=out)


class Springs(Particles):
    """Pairs joined by a spring of stiffness 0.1 and length 0 with probability 1/2; positions of deviation 0.5."""

    @property
    def spread(self) -> float:
        """0.5."""
        return 0.5

    def draw_bonds(self, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray | None]:
        """The symmetric matrix of springs."""
        drawn = random.choice([0.0, 0.5, 1.0], size=(self.count, self.count), p=[0.5, 0, 0.5])
        bonds = np.tril(drawn, -1)
        return bonds + bonds.T, None

    def strength(self, bonds: np.ndarray, squares: np.ndarray, out: np.ndarray) -> np.ndarray:
        """-0.1 E_ij."""
        return np.multiply(bonds, -SPRING, out=out)


def reflect(pos: np.ndarray, vel: np.ndarray) -> None:
    """Folds what lies outside of the box back into it, in place, with velocities that point inwards."""
    over, under = pos > BOX, pos < -BOX
    pos[over] = 2 * BOX - pos[over]
    pos[under] = -2 * BOX - pos[under]
    vel[over], vel[under] = -np.abs(vel[over]), np.abs(vel[under])


@dataclass(frozen=True)
class Trajectories:
    """`pos`, `vel` (S, frames, n, 3), and `force` (S,), the largest component of a force before it was clipped."""

    pos: np.ndarray
    vel: np.ndarray
    force: np.ndarray


def integrate(particles: Particles, start: Start, frames: Sequence[int]) -> Trajectories:
    """The states of all systems at the frames (ascending), in float64; ends at the last of them."""
    together = max(1, PAIRS // max(1, particles.count * (particles.count - 1) // 2))
    parts = []
    for first in range(0, len(start.pos), together):
        chunk = _Systems(particles, start[first : first + together])
        parts.append(chunk.run(frames))
    return Trajectories(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class _Systems:
    """Systems along the last axis, pairs i < j along the one before, and buffers that every step writes into."""

    def __init__(self, particles: Particles, start: Start):
        self.particles, count = particles, start.pos.shape[-1]
        self.pos, self.vel = (np.ascontiguousarray(a.transpose(1, 2, 0)) for a in (start.pos, start.vel))
        first, second = np.triu_indices(count, 1)
        self.bonds = np.ascontiguousarray(start.bonds[:, first, second].T)
        self.away, self.scratch = (np.empty((3, *self.bonds.shape)) for _ in range(2))
        self.squares, self.weights = (np.empty_like(self.bonds) for _ in range(2))
        self.forces, self.size, self.largest = (np.zeros_like(self.pos) for _ in range(3))
        # Of particle i: itself, those behind it, and its pairs with them.
        ends = np.cumsum([0, *range(count - 1, 0, -1)]).tolist()
        self.fans = [(i, slice(i + 1, None), slice(ends[i], ends[i + 1])) for i in range(count - 1)]

    def run(self, frames: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """pos, vel (S, frames, n, 3) and the largest force (S,)."""
        states, wanted, every = [], set(frames), self.particles.every
        for frame in range(max(frames) + 1):
            for _ in range(every):
                self.step()
            if frame in wanted:
                states.append((self.pos.T.copy(), self.vel.T.copy()))
        pos, vel = (np.stack(parts, 1) for parts in zip(*states, strict=True))
        return pos, vel, self.largest.max((0, 1))

    def step(self) -> None:
        """A kick, then a drift."""
        dt = self.particles.dt
        self.sum_forces()
        np.abs(self.forces, out=self.size)
        np.maximum(self.largest, self.size, out=self.largest)
        np.clip(self.forces, -LIMIT, LIMIT, out=self.forces)
        self.forces *= dt
        self.vel += self.forces
        np.multiply(self.vel, dt, out=self.size)
        self.pos += self.size

    def sum_forces(self) -> None:
        """Of every pair once: it acts on i, and with the other sign on j.

        F_i is summed in the order of j, as in the original: bound pairs amplify rounding until it is seen.
        """
        away, scratch = self.away, self.scratch
        for i, others, pairs in self.fans:
            np.subtract(self.pos[:, i : i + 1], self.pos[:, others], out=away[:, pairs])
        np.multiply(away, away, out=scratch)
        np.add(scratch[0], scratch[1], out=self.squares)
        self.squares += scratch[2]
        away *= self.particles.strength(self.bonds, self.squares, self.weights)
        self.forces.fill(0)
        for i, others, pairs in self.fans:
            self.forces[:, others] -= away[:, pairs]
            for pair in range(pairs.start, pairs.stop):
                self.forces[:, i] += away[:, pair]
