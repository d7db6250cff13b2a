"""Optimisers with parameter groups by tag, and learning-rate schedules."""

from .groups import AdamW, ModuleOptimizer, parameter_groups
from .schedules import step_decay, warmup_cosine

__all__ = ["AdamW", "ModuleOptimizer", "parameter_groups", "step_decay", "warmup_cosine"]
