"""Randomness that a resumed run repeats exactly: a pure function of (seed, global step, rank)."""

from typing import Any

import lightning.pytorch as pl
import torch


def mix(seed: int, step: int, rank: int) -> int:
    """A 63-bit number from three small ones, well spread (the finaliser of SplitMix64, Steele et al. 2014)."""
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + rank * 0x8CB92BA72F3D8DD7) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (z ^ (z >> 31)) >> 1


class StepNoise(pl.Callback):
    """Seeds the default generators before every training step (dropout, augmentation, sampling)."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        number = mix(self.seed, trainer.global_step, trainer.global_rank)
        # torch.manual_seed looks at every kind of device and costs a hundred times as much.
        torch.default_generator.manual_seed(number)
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(number)
