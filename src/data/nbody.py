"""Charged particles and springs that are simulated where they are needed: states to later states, and trajectories.

Satorras, Hoogeboom, Welling, "E(n) Equivariant Graph Neural Networks", ICML 2021, arXiv 2102.09844 (`NBody`); Xu et
al., "EqMotion", CVPR 2023, arXiv 2303.10876 (`NBodyTrajectories`, `SpringTrajectories`). The random draws are those of
the released generators, see `nbody_simulator`: the same charges, springs and initial states. Positions differ in the
last digits, and more where two particles are bound: statistics of the standard set are checked instead.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..errors import DataError
from .cache import cached, update_digest
from .module import SPLITS, Splits, TensorData, check_samples, check_whole
from .nbody_simulator import ChargedParticles, Particles, Springs, Start, integrate

RELEASED = (10000, 2000, 2000)
CHUNK = 1000  # systems between two looks at the progress bar
STANDARD, STANDARD_FRAMES, STANDARD_COUNTS = ChargedParticles(), (30, 40), (3000, 2000, 2000)
# Of the standard set: value and tolerance. They hold for the order in which the simulator sums, the original's: bound
# pairs amplify rounding, and starts that differ by 1e-15 give from 0.105 to 0.116 for `straight_val`.
EXPECTED = {
    "no_motion_train": (0.270, 0.001),
    "no_motion_val": (0.258, 0.001),
    "no_motion_test": (0.272, 0.001),
    "straight_train": (0.1135, 0.003),
    "straight_val": (0.1084, 0.003),
    "straight_test": (0.1079, 0.003),
    "slope_train": (0.7237, 0.006),
    "slope_mse_test": (0.0836, 0.003),
}


class SimulatedData(TensorData):
    """Systems of a simulation at some of its frames; a subclass says which, and what is made of them.

    Args:
        batch_size: samples of a training batch.
        particles: the simulation.
        frames: the stored frames that are needed, ascending.
        seed: of the order of the training batches.
        samples: (train, val, test): so many of each split, its first ones; the draws are those of the whole stream.
        train_limit: train on at most so many, the first; None takes all of `samples`.

    Raises:
        ValueError: a size out of range, more systems than the stream's splits have, frames that it does not store.
    """

    VERSION = 1  # changes with whatever changes what is simulated

    def __init__(
        self,
        batch_size: int,
        *,
        particles: Particles,
        frames: Sequence[int],
        seed: int = 0,
        samples: Sequence[int] = RELEASED,
        train_limit: int | None = None,
    ):
        super().__init__(batch_size, seed=seed)
        check_samples(samples)
        if any(count > released for count, released in zip(samples, particles.released, strict=True)):
            raise ValueError(
                f"samples={list(samples)}: the stream has {list(particles.released)} of train, val and test"
            )
        if train_limit is not None:
            check_whole("train_limit", train_limit, 1)
        self.particles, self.frames, self.samples = particles, tuple(frames), tuple(samples)
        self.train_limit = train_limit

    @property
    def counted(self) -> tuple[int, int, int]:
        """Systems of train, val and test that are simulated."""
        train, val, test = self.samples
        return (train if self.train_limit is None else min(train, self.train_limit)), val, test

    @property
    def sizes(self) -> dict[str, Any]:
        """`dim_out` 3, `points` the particles of a system."""
        return {"dim_out": 3, "points": self.particles.count}

    @abstractmethod
    def sample(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a split, from `pos`, `vel` (S, frames, n, 3), `bonds` (S, n, n), `charge` (S, n, 1) if any."""

    def load(self) -> Splits:
        """Simulates the systems, or reads them from the cache."""
        key = {"name": self.name, "version": self.VERSION, "counts": list(self.counted)}
        key |= {"frames": list(self.frames), **self.particles.parameters}
        held = cached(key, self._simulate)
        digest = hashlib.sha256()
        update_digest(digest, held)
        revision = f"generator {self.VERSION}, data seed {self.particles.data_seed}"
        self.note_source({"name": self.name, "revision": revision, "sha256": digest.hexdigest()})
        splits: Splits = {}
        for split, count in zip(SPLITS, self.counted, strict=True):
            if count:
                names = [name for name in held if name.startswith(f"{split}.")]
                splits[split] = self.sample({name.removeprefix(f"{split}."): held[name] for name in names})
        return splits

    def _simulate(self) -> dict[str, Tensor]:
        """States in float32, named `split.what`."""
        starts = zip(SPLITS, self.particles.replay(self.counted), strict=True)
        work = [
            (split, start[first : first + CHUNK])
            for split, start in starts
            if start is not None
            for first in range(0, len(start.pos), CHUNK)
        ]
        console = Console(stderr=True)
        text = (
            f"{self.name}: {sum(self.counted)} systems, {self.particles.every * (self.frames[-1] + 1)} steps"
        )
        found: dict[str, list[np.ndarray]] = {}
        for split, start in track(
            work, text, console=console, transient=True, disable=not console.is_terminal
        ):
            for name, array in self._states(start).items():
                found.setdefault(f"{split}.{name}", []).append(array)
        return {name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in found.items()}

    def _states(self, start: Start) -> dict[str, np.ndarray]:
        run = integrate(self.particles, start, self.frames)
        states = {"pos": run.pos, "vel": run.vel, "bonds": start.bonds}
        states |= {} if start.charge is None else {"charge": start.charge}
        return {name: array.astype(np.float32) for name, array in states.items()}


class NBody(SimulatedData):
    """Charged particles at one frame to their positions at a later one.

    Batches: `pos`, `vel` (B, n, 3), `charge` (B, n, 1), `y` (B, n, 3). The default is the set `nbody_small`, frames 30
    to 40 (one unit of time), trained on the first 3000 systems; `frames=(20, 30)` is its other task. EGNN's first
    set is `particles=ChargedParticles(every=500, data_seed=42, released=(50000, 2000, 2000))`, `frames=(6, 8)`.

    Args:
        batch_size: samples of a training batch.
        seed: of the order of the training batches.
        particles: the simulation.
        frames: of the inputs, of the targets.
        samples: (train, val, test): so many of each split, its first ones.
        train_limit: train on at most so many, the first.

    Raises:
        ValueError: a size out of range, frames that are not stored or not in order.
        DataError: on load, statistics of the standard set that are not the known ones.
    """

    name = "nbody"

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        particles: Particles = STANDARD,
        frames: Sequence[int] = STANDARD_FRAMES,
        samples: Sequence[int] = RELEASED,
        train_limit: int | None = 3000,
    ):
        if len(frames) != 2 or not 0 <= frames[0] < frames[1] < particles.frames:
            raise ValueError(
                f"frames={list(frames)}: must be two of 0 .. {particles.frames - 1}, the earlier one first"
            )
        super().__init__(
            batch_size,
            particles=particles,
            frames=frames,
            seed=seed,
            samples=samples,
            train_limit=train_limit,
        )

    def sample(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The earlier frame's state, and the later one's positions."""
        pos, vel = states["pos"], states["vel"]
        charges = {"charge": states["charge"]} if "charge" in states else {}
        return {"pos": pos[:, 0], "vel": vel[:, 0], **charges, "y": pos[:, 1]}

    def load(self) -> Splits:
        """As `SimulatedData.load`; of the standard set the statistics are checked."""
        splits = super().load()
        standard = self.particles == STANDARD and self.frames == STANDARD_FRAMES
        if standard and all(own >= all_ for own, all_ in zip(self.counted, STANDARD_COUNTS, strict=True)):
            kept = {k: t[: STANDARD_COUNTS[0]] for k, t in splits["train"].items()}
            check_statistics(statistics({**splits, "train": kept}))
        return splits


class NBodyTrajectories(SimulatedData):
    """Trajectories of charged particles: `history` frames to the `horizon` ones that follow.

    Batches: `pos`, `vel` (B, n, history, 3), velocities per unit of time, `charge` (B, n, 1), `y` (B, n, horizon, 3).
    The default is EqMotion's copy of the set, 10000 steps of which every 200th is stored, frames 0 .. 19 to 20 .. 39.

    Args:
        batch_size: samples of a training batch.
        seed: of the order of the training batches.
        particles: the simulation; None takes the released one.
        history, horizon: numbers of frames, from frame 0 on.
        samples: (train, val, test): so many of each split, its first ones.
        train_limit: train on at most so many, the first.

    Raises:
        ValueError: a size out of range, more frames than are stored.
    """

    name = "nbody_trajectories"
    FORCE: type[Particles] = ChargedParticles

    def __init__(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        particles: Particles | None = None,
        history: int = 20,
        horizon: int = 20,
        samples: Sequence[int] = RELEASED,
        train_limit: int | None = 5000,
    ):
        particles = particles or self.FORCE(steps=10000, every=200, data_seed=42)
        check_whole("history", history, 1)
        check_whole("horizon", horizon, 1)
        if history + horizon > particles.frames:
            raise ValueError(f"history={history} and horizon={horizon}: there are {particles.frames} frames")
        self.history, self.horizon = history, horizon
        frames = range(history + horizon)
        super().__init__(
            batch_size,
            particles=particles,
            frames=frames,
            seed=seed,
            samples=samples,
            train_limit=train_limit,
        )

    @property
    def sizes(self) -> dict[str, Any]:
        """`dim_out` 3, `points` the particles, `history` and `horizon` the frames."""
        return {**super().sizes, "history": self.history, "horizon": self.horizon}

    def sample(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Past and future, with time after the particles."""
        pos, vel = (states[name].transpose(1, 2) for name in ("pos", "vel"))
        past = {"pos": pos[:, :, : self.history], "vel": vel[:, :, : self.history]}
        split = {**past, **self.known(states), "y": pos[:, :, self.history :]}
        return {name: tensor.contiguous() for name, tensor in split.items()}

    def known(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a batch tells of the particles beside where they are."""
        return {"charge": states["charge"]} if "charge" in states else {}


class SpringTrajectories(NBodyTrajectories):
    """Trajectories of particles that springs join: as `NBodyTrajectories`, with `edges` (B, n, n) instead of `charge`.

    `edges` is 1 where two particles are joined, 0 elsewhere and on the diagonal. A model sees it in no input: it is
    there to judge what the model infers.
    """

    name = "spring_trajectories"
    FORCE = Springs

    def known(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The springs."""
        return {"edges": states["bonds"]}


def statistics(splits: Splits, horizon: float = 1.0) -> dict[str, float]:
    """Mean squared errors of what needs no learning, over samples, particles and components, in float64.

    | name | prediction |
    |---|---|
    | `no_motion_<split>` | x |
    | `straight_<split>` | x + horizon v |
    | `slope_train` | the c of the best x + c v on train |
    | `slope_mse_<split>` | x + c v |

    Args:
        splits: of `NBody`.
        horizon: time from the inputs to the targets.
    """
    moved = {split: (t["y"].double() - t["pos"].double()) for split, t in splits.items()}
    speed = {split: t["vel"].double() for split, t in splits.items()}
    slope = (moved["train"] * speed["train"]).sum() / speed["train"].square().sum()
    found = {"slope_train": float(slope)}
    for split in splits:
        for name, c in (("no_motion", 0.0), ("straight", horizon), ("slope_mse", slope)):
            found[f"{name}_{split}"] = float((moved[split] - c * speed[split]).square().mean())
    return found


def check_statistics(found: Mapping[str, float]) -> None:
    """Raises DataError, naming the statistics, unless they are those of the standard set, to its tolerances."""
    wrong = [
        f"{name} is {found[name]:.4f}, expected {value:g} +- {tolerance:g}"
        for name, (value, tolerance) in EXPECTED.items()
        if not abs(found[name] - value) <= tolerance
    ]
    if wrong:
        raise DataError(f"'nbody': the simulated set is not the released one: {'; '.join(wrong)}")
