"""Optimisers with parameter groups by tag, and learning-rate schedules."""

from .groups import AdamW, ModuleOptimizer, parameter_groups
from .layerwise import LayerwiseSGD, layer_groups
from .orthonormal import OrthonormalAdamW
from .schedules import step_decay, warmup_cosine, warmup_linear

__all__ = [
    "AdamW", "LayerwiseSGD", "ModuleOptimizer", "OrthonormalAdamW", "layer_groups", "parameter_groups", "step_decay",
    "warmup_cosine", "warmup_linear",
]  # fmt: skip
