"""Neural operators: maps between functions that are sampled on uniform grids."""

from .cnn import CNN as CNN
from .cnn import ResNet as ResNet
from .factorised import CPWeight as CPWeight
from .factorised import TTWeight as TTWeight
from .factorised import TuckerWeight as TuckerWeight
from .fno import FNO as FNO
from .mgno import HelmholtzMgNO as HelmholtzMgNO
from .mgno import IncrementMgNO as IncrementMgNO
from .mgno import MgNO as MgNO
from .operator import Normaliser as Normaliser
from .operator import Operator as Operator
from .patched import PatchedOperator as PatchedOperator
from .spectral import SpectralConv as SpectralConv
from .tfno import TFNO as TFNO
from .tfno import Joint as Joint
from .tfno import TFNOBlock as TFNOBlock
from .unet import UNet as UNet
from .vcycle import VCycle as VCycle
