"""Rates step by step against their closed forms."""

import math
import warnings
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.optim.schedules import step_decay, warmup_cosine, warmup_linear


def rates(make, steps: int, base: float = 2.0) -> list[float]:
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]}], lr=base)
    schedule = make(optimizer)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            seen.append(optimizer.param_groups[0]["lr"])
            schedule.step()
    return seen


@settings(max_examples=25, deadline=None)
@given(total=st.integers(2, 60), warm=st.integers(0, 10), epochs=st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_warmup_cosine(total: int, warm: int, epochs: float) -> None:
    seen = rates(
        lambda o: warmup_cosine(
            o, total_steps=total, steps_per_epoch=4, warmup_steps=warm, warmup_epochs=epochs
        ),
        total,
    )
    w = warm + 4 * epochs
    for k, rate in enumerate(seen):
        wanted = (
            (k + 1) / max(1, w)
            if k < w
            else (1 + math.cos(math.pi * min(1, (k - w) / max(1, total - w)))) / 2
        )
        assert rate == pytest.approx(2.0 * wanted, abs=1e-12)


def test_warmup_reaches_the_rate_and_the_end_is_zero() -> None:
    seen = rates(lambda o: warmup_cosine(o, total_steps=10, steps_per_epoch=5, warmup_steps=4), 11)
    assert seen[3] == seen[4] == 2.0 and max(seen) == 2.0 and seen[10] == pytest.approx(0.0)


@pytest.mark.parametrize("options", [{"warmup_steps": -1}, {"warmup_epochs": -0.5}])
def test_a_negative_warmup(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        rates(lambda o: warmup_cosine(o, total_steps=10, steps_per_epoch=5, **options), 1)


def test_step_decay() -> None:
    seen = rates(lambda o: step_decay(o, steps_per_epoch=3, epochs=[1, 3], factor=0.1), 12)
    assert seen == pytest.approx([2.0] * 3 + [0.2] * 6 + [0.02] * 3)


def test_step_decay_at_regular_distances() -> None:
    seen = rates(lambda o: step_decay(o, steps_per_epoch=2, every=2, factor=0.5), 9)
    assert seen == pytest.approx([2.0] * 4 + [1.0] * 4 + [0.5])


@pytest.mark.parametrize("words", [{}, {"epochs": [1], "every": 2}, {"every": 0}])
def test_step_decay_wants_exactly_one_of_its_two_forms(words) -> None:
    with pytest.raises(ValueError, match="one of them is needed"):
        rates(lambda o: step_decay(o, steps_per_epoch=2, **words), 1)


def plain(k: int, w: float, total: int) -> float:
    """Warm-up and cosine to zero in the order of operations that runs before had: to be reproduced bit by bit."""
    if k < w:
        return (k + 1) / max(1.0, w)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (k - w) / max(1.0, total - w))))


def test_without_a_floor_the_cosine_is_bit_equal_to_itself() -> None:
    seen = rates(lambda o: warmup_cosine(o, total_steps=37, steps_per_epoch=4, warmup_epochs=1.5), 37)
    assert seen == [2.0 * plain(k, 6.0, 37) for k in range(37)]


def test_a_floor_and_a_warmup_by_ratio() -> None:
    def make(o):
        return warmup_cosine(
            o, total_steps=110, steps_per_epoch=5, warmup_steps=6, warmup_ratio=0.03, floor=0.1
        )

    seen = rates(make, 111)  # 3 % of 110 is 3.3: 4 steps and the other 6
    assert seen[:10] == pytest.approx([0.2 * (k + 1) for k in range(10)])
    assert seen[60] == pytest.approx(2.0 * 0.55) and seen[110] == pytest.approx(0.2)
    assert seen[10:] == pytest.approx([2.0 * (0.1 + 0.9 * plain(k, 10, 110)) for k in range(10, 111)])


def test_warmup_linear() -> None:
    seen = rates(lambda o: warmup_linear(o, total_steps=20, warmup_steps=1, warmup_ratio=0.06), 22)
    wanted = [1 / 3, 2 / 3, 1.0, *((20 - k) / 17 for k in range(3, 20)), 0.0, 0.0]
    assert seen == pytest.approx([2.0 * f for f in wanted])
    assert rates(lambda o: warmup_linear(o, total_steps=4), 4) == pytest.approx([2.0, 1.5, 1.0, 0.5])


@pytest.mark.parametrize("make", [partial(warmup_cosine, steps_per_epoch=5), warmup_linear])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps=-1.*must not be negative"),
        ({"warmup_ratio": -0.1}, r"warmup_ratio=-0.1: must lie in \[0, 1\)"),
        ({"warmup_ratio": 1.0}, r"warmup_ratio=1.0: must lie in \[0, 1\)"),
        ({"warmup_ratio": math.nan}, "warmup_ratio=nan"),
    ],
)
def test_faults_of_a_warmup(make, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rates(lambda o: make(o, total_steps=10, **options), 1)


@pytest.mark.parametrize("floor", [-0.1, 1.1, math.nan])
def test_a_floor_is_a_fraction(floor: float) -> None:
    with pytest.raises(ValueError, match=r"floor=.*: must lie in \[0, 1\]"):
        rates(lambda o: warmup_cosine(o, total_steps=10, steps_per_epoch=5, floor=floor), 1)
