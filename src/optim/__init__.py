"""Optimisers with parameter groups by tag, and learning-rate schedules."""

from .grassmann import GrassmannAdamW, GrassmannSGD, RiemannianSGD, check_moved
from .groups import AdamW, ModuleOptimizer, parameter_groups
from .lars import LARS
from .layerwise import LayerwiseSGD, layer_groups
from .orthonormal import OrthonormalAdamW
from .schedules import step_decay, warmup_cosine, warmup_linear

__all__ = [
    "LARS", "AdamW", "GrassmannAdamW", "GrassmannSGD", "LayerwiseSGD", "ModuleOptimizer", "OrthonormalAdamW",
    "RiemannianSGD", "check_moved", "layer_groups", "parameter_groups", "step_decay", "warmup_cosine", "warmup_linear",
]  # fmt: skip
