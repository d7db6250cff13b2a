"""Tasks: a model, a loss and metrics for one kind of problem, as LightningModules."""

from .base import Task
from .classification import Classification
from .field_losses import RelativeH1, RelativeL2
from .kernel_fit import DelayFit
from .operator_learning import OperatorLearning
from .patch_memory import PatchMemory
from .ptd_studies import FourierGain, TransferStudy
from .reconstruction import ReconstructionFit
from .regression import Regression
from .robustness import NoisyClassification
from .skr_study import SKRStudy, SortingStudy
from .step_classification import StepClassification

__all__ = [
    "Classification",
    "DelayFit",
    "FourierGain",
    "NoisyClassification",
    "OperatorLearning",
    "PatchMemory",
    "ReconstructionFit",
    "Regression",
    "RelativeH1",
    "RelativeL2",
    "SKRStudy",
    "SortingStudy",
    "StepClassification",
    "Task",
    "TransferStudy",
]
