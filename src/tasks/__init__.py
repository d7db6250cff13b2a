"""Tasks: a model, a loss and metrics for one kind of problem, as LightningModules."""

from .adapter_toy import AdapterToy
from .answers import QuestionAnswering
from .barlow_study import BarlowSyntheticStudy
from .barlow_twins import BarlowTwinsTask
from .base import Task
from .bessel_studies import BesselAccuracyStudy, BesselSpeedStudy, VMFFeatureStudy, VMFRecoveryStudy
from .classification import Classification
from .collapse_studies import Descent, UnconstrainedFeaturesStudy
from .compression_study import CompressionStudy
from .equiangular_study import EquiangularGeometryStudy
from .equivariance_study import EquivarianceStudy
from .farms_studies import PruningStudy, RandomSpectrum
from .feature_analysis import FeatureAnalysis
from .field_losses import RelativeH1, RelativeL2
from .flora_studies import DigitTransferStudy, PlantedTuckerStudy
from .frame_studies import FrameDegeneracy, FrameInvariance, GraphSeparation
from .gaunt_studies import GauntParity, GauntSpeed
from .kernel_fit import DelayFit
from .language import LanguageModelling
from .lie_studies import EKFStudy, LieIdentities, SmoothingStudy
from .maestro import OrderedClassification, PrefixClassification
from .maestro_studies import OrderedAutoencoder, OrderedLinearMap
from .motion import ParticleForecast, TrajectoryForecast
from .neural_collapse import NeuralCollapse
from .normals import NormalEstimation
from .operator_learning import OperatorLearning
from .patch_memory import PatchMemory
from .ponita_study import OrientationError, OrientationRate
from .product_studies import PathCounts, ProductSpeed
from .ptd_studies import FourierGain, TransferStudy
from .quantisation_study import QuantisationStudy
from .reconstruction import ReconstructionFit
from .regression import Regression
from .robustness import NoisyClassification
from .rotation_regression import PoseReconstruction, RotationRegression
from .sequence_classification import SequenceClassification
from .skr_study import SKRStudy, SortingStudy
from .step_classification import StepClassification
from .temperature_balance import TemperatureBalance
from .transfer_callback import LinearTransfer

__all__ = [
    "AdapterToy",
    "BarlowSyntheticStudy",
    "BarlowTwinsTask",
    "BesselAccuracyStudy",
    "BesselSpeedStudy",
    "Classification",
    "CompressionStudy",
    "DelayFit",
    "Descent",
    "DigitTransferStudy",
    "EKFStudy",
    "EquiangularGeometryStudy",
    "EquivarianceStudy",
    "FeatureAnalysis",
    "FourierGain",
    "FrameDegeneracy",
    "FrameInvariance",
    "GauntParity",
    "GauntSpeed",
    "GraphSeparation",
    "LanguageModelling",
    "LieIdentities",
    "LinearTransfer",
    "NeuralCollapse",
    "NoisyClassification",
    "NormalEstimation",
    "OperatorLearning",
    "OrderedAutoencoder",
    "OrderedClassification",
    "OrderedLinearMap",
    "OrientationError",
    "OrientationRate",
    "ParticleForecast",
    "PatchMemory",
    "PathCounts",
    "PlantedTuckerStudy",
    "PoseReconstruction",
    "PrefixClassification",
    "ProductSpeed",
    "PruningStudy",
    "QuantisationStudy",
    "QuestionAnswering",
    "RandomSpectrum",
    "ReconstructionFit",
    "Regression",
    "RelativeH1",
    "RelativeL2",
    "RotationRegression",
    "SKRStudy",
    "SequenceClassification",
    "SmoothingStudy",
    "SortingStudy",
    "StepClassification",
    "Task",
    "TemperatureBalance",
    "TrajectoryForecast",
    "TransferStudy",
    "UnconstrainedFeaturesStudy",
    "VMFFeatureStudy",
    "VMFRecoveryStudy",
]
