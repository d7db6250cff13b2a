"""Rates step by step against their closed forms."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenzoo.optim import step_decay, warmup_cosine


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
