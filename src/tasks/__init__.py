"""Tasks: a model, a loss and metrics for one kind of problem, as LightningModules."""

from .base import Task
from .classification import Classification
from .kernel_fit import DelayFit
from .regression import Regression

__all__ = ["Classification", "DelayFit", "Regression", "Task"]
