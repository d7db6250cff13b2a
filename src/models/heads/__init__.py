"""Class heads: from features to logits, with one interface, so that any fits on any backbone."""

from .baselines import MultiLinearHead, SoftTripleHead, SubCenterArcFaceHead
from .classifier import Classifier
from .cosine import ArcFaceHead, CosineHead
from .deep_linear import DeepLinearHead
from .equiangular import EquiangularHead
from .etf import SimplexETFHead
from .grassmann import GrassmannHead
from .head import Head
from .linear import LinearHead
from .vmf import VonMisesFisherHead

__all__ = [
    "ArcFaceHead", "Classifier", "CosineHead", "DeepLinearHead", "EquiangularHead", "GrassmannHead", "Head",
    "LinearHead", "MultiLinearHead", "SimplexETFHead", "SoftTripleHead", "SubCenterArcFaceHead", "VonMisesFisherHead",
]  # fmt: skip
