"""Tasks: a model, a loss and metrics for one kind of problem, as LightningModules."""

from .base import Task
from .classification import Classification
from .kernel_fit import DelayFit
from .ptd_studies import FourierGain, TransferStudy
from .reconstruction import ReconstructionFit
from .regression import Regression
from .robustness import NoisyClassification
from .step_classification import StepClassification

__all__ = [
    "Classification",
    "DelayFit",
    "FourierGain",
    "NoisyClassification",
    "ReconstructionFit",
    "Regression",
    "StepClassification",
    "Task",
    "TransferStudy",
]
