"""Charged particles and springs: draws of the original loop, its dynamics, symmetries, statistics, the data modules."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import eigenzoo.data.nbody as nbody
from eigenzoo.data.nbody import (
    NBody,
    NBodyTrajectories,
    SpringTrajectories,
    check_statistics,
    statistics,
)
from eigenzoo.data.nbody_simulator import (
    LIMIT,
    ChargedParticles,
    Particles,
    Springs,
    Start,
    integrate,
    reflect,
)
from eigenzoo.errors import DataError

SHORT = ChargedParticles(steps=400, every=100, released=(3, 2, 2))


def literal(particles, systems, until=None):
    """The original, one system after the other: (loc, vel (frames, 3, n), edges, charges) of each."""
    np_random = np.random.RandomState(particles.data_seed)
    n, dt, found = particles.count, particles.dt, []
    springs, frames = isinstance(particles, Springs), particles.steps // particles.every - 1

    def force(x, edges):
        difference = x[:, :, None] - x[:, None, :]
        if springs:
            size = -0.1 * edges
        else:
            squares = (x.T**2).sum(1)
            with np.errstate(divide="ignore", invalid="ignore"):
                size = edges / np.power(squares[:, None] + squares[None] - 2 * x.T @ x, 1.5)
        np.fill_diagonal(size, 0)
        return np.clip((size[None] * difference).sum(-1), -100, 100)

    for _ in range(systems):
        if springs:
            edges, charges = np_random.choice([0, 0.5, 1], size=(n, n), p=[0.5, 0, 0.5]), None
            edges = np.tril(edges) + np.tril(edges, -1).T
            np.fill_diagonal(edges, 0)
        else:
            charges = np_random.choice([-1.0, 0.0, 1.0], size=(n, 1), p=[0.5, 0, 0.5])
            edges = charges.dot(charges.T)
        x = np_random.randn(3, n) * (0.5 if springs else (n / 5) ** (1 / 3))
        v = np_random.randn(3, n)
        v = v * 0.5 / np.sqrt((v**2).sum(0)).reshape(1, -1)
        loc, vel = np.zeros((2, frames, 3, n))
        v = v + dt * force(x, edges)
        for i in range(1, until or particles.steps):
            x = x + dt * v
            if i % particles.every == 0:
                loc[i // particles.every - 1], vel[i // particles.every - 1] = x, v
            v = v + dt * force(x, edges)
        np_random.randn(2, frames, 3, n)
        found.append((loc, vel, edges, charges))
    return found


def compare(particles, systems, until=None):
    starts = particles.replay(particles.released)
    wanted = literal(particles, systems, until)
    frames = range((until or particles.steps) // particles.every - 1)
    bonds, pos, vel, charges = [], [], [], []
    for start in filter(None, starts):
        run = integrate(particles, start, frames)
        bonds.append(start.bonds), pos.append(run.pos), vel.append(run.vel), charges.append(start.charge)
    for k, (loc, velocity, edges, charge) in enumerate(wanted):
        assert (np.concatenate(bonds)[k] == edges).all()
        assert charge is None or (np.concatenate(charges)[k] == charge).all()
        for own, theirs in ((pos, loc), (vel, velocity)):
            difference = np.concatenate(own)[k] - theirs[: len(frames)].transpose(0, 2, 1)
            assert np.abs(difference).max() < 1e-10


@pytest.mark.parametrize(
    "particles",
    [SHORT, replace(SHORT, count=3, data_seed=7), Springs(steps=400, every=100, released=(3, 2, 2))],
)
def test_equal_to_the_original_loop_over_the_splits(particles):
    compare(particles, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "particles",
    [
        ChargedParticles(released=(5, 0, 0)),
        ChargedParticles(steps=10000, every=200, data_seed=42, released=(5, 0, 0)),
        Springs(steps=10000, every=200, data_seed=42, released=(5, 0, 0)),
    ],
)
def test_equal_to_the_original_loop_for_1000_steps(particles):
    compare(replace(particles, released=(5, 0, 0)), 5, 1201)


def compare_starts(a, b):
    for name in ("pos", "vel", "bonds", "charge"):
        assert (getattr(a, name) == getattr(b, name)).all()


def test_fewer_systems_are_the_first_of_each_split():
    whole = replace(SHORT, released=(9, 5, 6)).replay((9, 5, 6))
    part = replace(SHORT, released=(9, 5, 6)).replay((2, 0, 3))
    assert part[1] is None
    compare_starts(part[0], whole[0][:2])
    compare_starts(part[2], whole[2][:3])


@pytest.fixture(scope="module")
def systems() -> Start:
    """The first 2000 of the standard set's training part."""
    start = ChargedParticles().replay((2000, 0, 0))[0]
    assert start is not None
    return start


@pytest.fixture(scope="module")
def run(systems):
    return integrate(ChargedParticles(), systems, (0, 1, 2))


def rotation(seed=0):
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    return q * np.sign(np.diag(r))


def test_the_generator_moves_with_its_start(systems, run):
    turn, boost, shift = rotation(), np.array([0.3, -0.2, 0.5]), np.array([4.0, 1.0, -7.0])
    free = run.force < LIMIT
    assert (~free).mean() == pytest.approx(0.06, abs=0.01)
    moved = Start(
        np.einsum("ij,sjn->sin", turn, systems.pos) + shift[:, None],
        np.einsum("ij,sjn->sin", turn, systems.vel) + boost[:, None],
        systems.bonds,
    )
    found = integrate(ChargedParticles(), moved, (2,))
    drift = shift + 0.3 * boost
    assert np.abs(found.pos[free, 0] - run.pos[free, 2] @ turn.T - drift).max() < 1e-9
    assert np.abs(found.vel[free, 0] - run.vel[free, 2] @ turn.T - boost).max() < 1e-9
    assert np.abs(found.pos[:, 0] - run.pos[:, 2] @ turn.T - drift).max() > 1e-6  # clipping has axes


def test_permuted_particles_are_permuted(systems, run):
    order = np.array([3, 0, 4, 1, 2])
    moved = Start(systems.pos[..., order], systems.vel[..., order], systems.bonds[:, order][:, :, order])
    found = integrate(ChargedParticles(), moved, (2,))
    free = run.force < LIMIT
    assert np.abs(found.pos[free, 0] - run.pos[free, 2][:, order]).max() < 1e-9


def test_momentum_is_conserved_where_no_force_is_clipped(systems, run):
    change = np.abs(run.vel[:, 2].sum(1) - systems.vel.sum(2)).max(1)
    free = run.force < LIMIT
    assert change[free].max() < 1e-12 and change[~free].max() > 1e-6


def energy(pos, vel, bonds):
    first, second = np.triu_indices(pos.shape[1], 1)
    distance = np.linalg.norm(pos[:, first] - pos[:, second], axis=-1)
    return (vel**2).sum((1, 2)) / 2 + (bonds[:, first, second] / distance).sum(1)


def energy_change(first, last, bonds):
    change = energy(*last, bonds) - energy(*first, bonds)
    return np.abs(change)


def test_energy_is_conserved_where_no_force_is_clipped(systems, run):
    change = energy_change((run.pos[:, 0], run.vel[:, 0]), (run.pos[:, 2], run.vel[:, 2]), systems.bonds)
    change = change[run.force < LIMIT]
    assert (change < 0.05).mean() >= 0.99 and np.median(change) < 4e-3


@pytest.mark.slow
def test_energy_and_clipping_up_to_frame_40(systems):
    run = integrate(ChargedParticles(), systems, (0, 40))
    free = run.force < LIMIT
    assert (~free).mean() == pytest.approx(0.46, abs=0.02)
    change = energy_change((run.pos[:, 0], run.vel[:, 0]), (run.pos[:, 1], run.vel[:, 1]), systems.bonds)
    assert np.median(change[free]) < 5e-4 and np.quantile(change[free], 0.99) < 1.4e-2
    assert 0.3 < np.median(change[~free]) < 3


def test_particles_without_bonds_move_straight():
    rng = np.random.default_rng(1)
    start = Start(rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 3, 2)), np.zeros((4, 2, 2)))
    found = integrate(ChargedParticles(count=2), start, (1,))
    x = start.pos.copy()
    for _ in range(200):
        x += 1e-3 * start.vel
    assert (found.pos[:, 0] == x.transpose(0, 2, 1)).all() and (found.force == 0).all()
    assert (found.vel[:, 0] == start.vel.transpose(0, 2, 1)).all()


def test_a_single_particle_and_chunks_of_many(monkeypatch, systems, run):
    start = ChargedParticles(count=1, steps=400).replay((3, 0, 0))[0]
    found = integrate(ChargedParticles(count=1, steps=400), start, (2,))
    assert np.allclose(found.pos[:, 0, 0], (start.pos + 0.3 * start.vel)[..., 0])
    monkeypatch.setattr("eigenzoo.data.nbody_simulator.PAIRS", 10 * 7)
    again = integrate(ChargedParticles(), systems[:20], (0, 1, 2))
    assert (again.pos == run.pos[:20]).all() and (again.force == run.force[:20]).all()


@pytest.mark.slow
def test_half_the_time_step_changes_little(systems):
    systems = systems[:500]
    whole = integrate(ChargedParticles(), systems, (40,)).pos
    half = integrate(ChargedParticles(steps=10000, every=200, dt=5e-4), systems, (40,)).pos
    difference = np.abs(whole - half).max((1, 2, 3))
    assert 1e-5 < np.median(difference) < 1e-2


def test_reflection_folds_into_the_box():
    pos, vel = np.array([[6.0, -7.0, 4.0]]), np.array([[1.0, -2.0, -3.0]])
    reflect(pos, vel)
    assert pos.tolist() == [[4.0, -3.0, 4.0]] and vel.tolist() == [[-1.0, 2.0, -3.0]]


def test_statistics_by_hand():
    rng = np.random.default_rng(2)
    x, v = torch.from_numpy(rng.standard_normal((2, 6, 5, 3)))
    splits = {
        "train": {"pos": x, "vel": v, "y": x + 0.7 * v},
        "test": {"pos": x, "vel": v, "y": x + 0.7 * v + 2},
    }
    found, scale = statistics(splits, horizon=0.5), float(v.square().mean())
    assert found["slope_train"] == pytest.approx(0.7)
    assert found["no_motion_train"] == pytest.approx(0.49 * scale)
    assert found["straight_train"] == pytest.approx(0.04 * scale)
    assert found["slope_mse_train"] == pytest.approx(0, abs=1e-20)
    assert found["slope_mse_test"] == pytest.approx(4)


def test_another_set_is_named():
    right = {name: value for name, (value, _) in nbody.EXPECTED.items()}
    check_statistics(right)
    with pytest.raises(DataError, match=r"slope_train is 0\.7310, expected 0\.7237 \+- 0\.006"):
        check_statistics({**right, "slope_train": 0.731})
    with pytest.raises(DataError, match="no_motion_val is nan"):
        check_statistics({**right, "no_motion_val": float("nan")})


@pytest.mark.slow
def test_the_standard_set_has_the_known_statistics():
    data = NBody(100)
    data.setup()  # checks them
    assert data.counts == {"train": 3000, "val": 2000, "test": 2000}
    assert set(nbody.EXPECTED) <= set(statistics(data.splits))


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "wanted"), [(NBodyTrajectories, 0.706), (SpringTrajectories, 0.594)])
def test_constant_velocity_of_the_trajectories(cls, wanted):
    data = cls(100, samples=(1, 0, 200))
    data.setup()
    pos, y = (data.splits["test"][name] for name in ("pos", "y"))
    line = pos[:, :, -1:] + torch.arange(1, 21)[:, None] * (pos[:, :, -1:] - pos[:, :, -2:-1])
    assert float((line - y).norm(dim=-1).mean()) == pytest.approx(wanted, abs=6e-3)


def small(**options):
    return NBody(4, **{"particles": SHORT, "frames": (0, 2), "samples": (3, 2, 2), **options})


def test_states_of_two_frames():
    data = small(train_limit=2)
    assert data.sizes == {"dim_out": 3, "points": 5} and data.counted == (2, 2, 2)
    data.setup()
    assert data.counts == {"train": 2, "val": 2, "test": 2}
    train, val, _ = SHORT.replay((2, 2, 2))
    for split, start in (("train", train), ("val", val)):
        run, held = integrate(SHORT, start, (0, 2)), data.splits[split]
        for name, array in (("pos", run.pos[:, 0]), ("vel", run.vel[:, 0]), ("y", run.pos[:, 1])):
            assert np.array_equal(held[name], array.astype(np.float32))
        assert np.array_equal(held["charge"], start.charge)
    (source,) = data.provenance
    assert source["name"] == "nbody" and "seed 43" in source["revision"] and len(source["sha256"]) == 64
    batch = next(iter(data.val_dataloader()))
    assert set(batch) == {"pos", "vel", "charge", "y", "weight", "mask"} and batch["pos"].shape == (2, 5, 3)


def test_the_second_time_it_is_read(monkeypatch):
    small().setup()
    monkeypatch.setattr(NBody, "_simulate", lambda self: pytest.fail("simulated again"))
    again = small()
    again.setup()
    assert again.counts["train"] == 3


def test_the_standard_set_is_checked_on_load(monkeypatch):
    for name, value in (("STANDARD", SHORT), ("STANDARD_FRAMES", (0, 2)), ("STANDARD_COUNTS", (2, 2, 2))):
        monkeypatch.setattr(nbody, name, value)
    with pytest.raises(
        DataError, match="'nbody': the simulated set is not the released one: no_motion_train"
    ):
        small().setup()
    small(samples=(3, 1, 2)).setup()  # too few for statistics
    small(frames=(0, 1)).setup()


def test_trajectories_of_charges_and_springs():
    charged = NBodyTrajectories(
        4, particles=replace(SHORT, steps=600), history=2, horizon=3, samples=(2, 0, 1)
    )
    assert charged.sizes == {"dim_out": 3, "points": 5, "history": 2, "horizon": 3}
    springs = Springs(steps=600, every=100, released=(3, 2, 2))
    joined = SpringTrajectories(4, particles=springs, history=2, horizon=3, samples=(2, 0, 1))
    for data, extra in ((charged, "charge"), (joined, "edges")):
        data.setup()
        assert data.counts == {"train": 2, "val": 0, "test": 1}
        held = data.splits["train"]
        assert set(held) == {"pos", "vel", "y", extra}
        start = data.particles.replay((2, 0, 0))[0]
        run = integrate(data.particles, start, range(5))
        pos = run.pos.transpose(0, 2, 1, 3).astype(np.float32)
        assert np.array_equal(held["pos"], pos[:, :, :2]) and np.array_equal(held["y"], pos[:, :, 2:])
        assert np.array_equal(held["vel"], run.vel.transpose(0, 2, 1, 3)[:, :, :2].astype(np.float32))
    edges = joined.splits["train"]["edges"]
    assert torch.equal(edges, edges.mT) and not edges.diagonal(dim1=1, dim2=2).any()
    assert set(edges.unique().tolist()) == {0.0, 1.0}


def test_defaults_are_the_released_simulations():
    assert ChargedParticles(released=[10000, 2000, 2000]) == NBody(1).particles  # as from a config
    for data in (NBodyTrajectories(1), SpringTrajectories(1)):
        own = data.particles
        assert (own.steps, own.every, own.data_seed, own.frames) == (10000, 200, 42, 49)
        assert data.counted == (5000, 2000, 2000)
    first = ChargedParticles(every=500, data_seed=42, released=(50000, 2000, 2000))
    assert NBody(1, particles=first, frames=(6, 8), train_limit=None, samples=first.released).frames == (6, 8)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: small(frames=(2, 1)), r"frames=\[2, 1\]: must be two of 0 .. 2"),
        (lambda: small(frames=(0, 3)), "must be two of 0 .. 2"),
        (lambda: small(samples=(4, 1, 1)), r"samples=\[4, 1, 1\]: the stream has \[3, 2, 2\]"),
        (lambda: small(samples=(0, 1, 1)), "train at least 1"),
        (lambda: small(train_limit=0), "train_limit must be a whole number of at least 1"),
        (lambda: NBodyTrajectories(1, history=30), "history=30 and horizon=20: there are 49 frames"),
        (lambda: NBodyTrajectories(1, horizon=0), "horizon must be"),
        (lambda: ChargedParticles(steps=450, every=100), "steps=450: must be a multiple of every=100"),
        (lambda: ChargedParticles(steps=100, every=100), "at least twice"),
        (lambda: ChargedParticles(count=0), "count must be"),
        (lambda: Springs(dt=0.0), "dt=0.0: must be above 0"),
        (lambda: Springs(released=(3, 2)), "released"),
    ],
)
def test_arguments_are_checked(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_the_base_has_no_force():
    with pytest.raises(NotImplementedError):
        Particles().replay((1, 0, 0))
