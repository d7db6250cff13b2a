"""State-space sequence models."""

from .block import Block as Block
from .block import MaskedBatchNorm as MaskedBatchNorm
from .block import MaskedLayerNorm as MaskedLayerNorm
from .block import TiedDropout as TiedDropout
from .s4d import S4D as S4D
from .s4d import DiagonalInit as DiagonalInit
from .sequence import SequenceModel as SequenceModel
