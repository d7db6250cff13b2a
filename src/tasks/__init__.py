"""Tasks: a model, a loss and metrics for one kind of problem, as LightningModules."""

from .base import Task
from .classification import Classification
from .equivariance_study import EquivarianceStudy
from .field_losses import RelativeH1, RelativeL2
from .frame_studies import FrameDegeneracy, FrameInvariance, GraphSeparation
from .gaunt_studies import GauntParity, GauntSpeed
from .kernel_fit import DelayFit
from .lie_studies import EKFStudy, LieIdentities, SmoothingStudy
from .motion import ParticleForecast, TrajectoryForecast
from .normals import NormalEstimation
from .operator_learning import OperatorLearning
from .patch_memory import PatchMemory
from .ponita_study import OrientationError, OrientationRate
from .product_studies import PathCounts, ProductSpeed
from .ptd_studies import FourierGain, TransferStudy
from .reconstruction import ReconstructionFit
from .regression import Regression
from .robustness import NoisyClassification
from .rotation_regression import PoseReconstruction, RotationRegression
from .skr_study import SKRStudy, SortingStudy
from .step_classification import StepClassification

__all__ = [
    "Classification",
    "DelayFit",
    "EKFStudy",
    "EquivarianceStudy",
    "FourierGain",
    "FrameDegeneracy",
    "FrameInvariance",
    "GauntParity",
    "GauntSpeed",
    "GraphSeparation",
    "LieIdentities",
    "NoisyClassification",
    "NormalEstimation",
    "OperatorLearning",
    "OrientationError",
    "OrientationRate",
    "ParticleForecast",
    "PatchMemory",
    "PathCounts",
    "PoseReconstruction",
    "ProductSpeed",
    "ReconstructionFit",
    "Regression",
    "RelativeH1",
    "RelativeL2",
    "RotationRegression",
    "SKRStudy",
    "SmoothingStudy",
    "SortingStudy",
    "StepClassification",
    "Task",
    "TrajectoryForecast",
    "TransferStudy",
]
