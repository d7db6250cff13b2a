"""Learning-rate schedules, per optimiser step, as factors of each group's own rate."""

import math
from collections.abc import Sequence
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def _warmup_cosine_factor(step: int, *, warmup: float, total: int, floor: float) -> float:
    if step < warmup:
        return (step + 1) / max(1.0, warmup)
    done = (step - warmup) / max(1.0, total - warmup)
    return floor + (1.0 - floor) * (0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


def warmup_cosine(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: int,
    warmup_steps: int = 0,
    warmup_epochs: float = 0.0,
    warmup_ratio: float = 0.0,
    floor: float = 0.0,
) -> LambdaLR:
    """Linear warm-up, then half a cosine to the fraction `floor` of the rate at `total_steps`.

    Step k (from 0) has the factor `(k + 1) / w` for k < w, then `f + (1 - f) (1 + cos(pi (k - w) / (total - w))) / 2`,
    with `f = floor` and `w = warmup_steps + warmup_epochs * steps_per_epoch + ceil(warmup_ratio * total_steps)`. Raises
    ValueError for a negative warm-up, a ratio that is not in [0, 1) or a floor that is not in [0, 1].
    """
    if warmup_steps < 0 or warmup_epochs < 0:
        raise ValueError(f"warmup_steps={warmup_steps}, warmup_epochs={warmup_epochs}: must not be negative")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor}: must lie in [0, 1]")
    warmup = warmup_steps + warmup_epochs * steps_per_epoch + _share(warmup_ratio, total_steps)
    return LambdaLR(optimizer, partial(_warmup_cosine_factor, warmup=warmup, total=total_steps, floor=floor))


def _share(ratio: float, total: int) -> int:
    """So many of the steps, rounded up."""
    if not 0 <= ratio < 1:
        raise ValueError(f"warmup_ratio={ratio}: must lie in [0, 1)")
    return math.ceil(ratio * total)


def _warmup_linear_factor(step: int, *, warmup: int, total: int) -> float:
    if step < warmup:
        return (step + 1) / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


def warmup_linear(
    optimizer: Optimizer, *, total_steps: int, warmup_steps: int = 0, warmup_ratio: float = 0.0
) -> LambdaLR:
    """Linear warm-up, then linearly to zero at `total_steps`: the schedule of BERT and RoBERTa.

    Step k (from 0) has the factor `(k + 1) / w` for k < w, then `(total - k) / (total - w)`, with
    `w = warmup_steps + ceil(warmup_ratio * total_steps)`. Raises ValueError for a negative warm-up or a ratio that is
    not in [0, 1).
    """
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps={warmup_steps}: must not be negative")
    warmup = warmup_steps + _share(warmup_ratio, total_steps)
    return LambdaLR(optimizer, partial(_warmup_linear_factor, warmup=warmup, total=total_steps))


def _step_decay_factor(step: int, *, milestones: Sequence[int], every: int | float, factor: float) -> float:
    return factor ** (sum(step >= m for m in milestones) + step // every)


def step_decay(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: Sequence[int] = (),
    every: int | None = None,
    factor: float = 0.5,
) -> LambdaLR:
    """The rate times `factor` at the start of each of the named `epochs` (counted from 0), or `every` so many.

    Raises ValueError unless exactly one of `epochs` and `every` is given, `every` at least 1.
    """
    if bool(epochs) == (every is not None) or (every is not None and every < 1):
        raise ValueError(f"epochs={list(epochs)}, every={every}: one of them is needed, every at least 1")
    milestones = [e * steps_per_epoch for e in epochs]
    period = math.inf if every is None else every * steps_per_epoch
    return LambdaLR(
        optimizer, partial(_step_decay_factor, milestones=milestones, every=period, factor=factor)
    )
