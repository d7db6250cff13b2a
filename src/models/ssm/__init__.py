"""State-space sequence models."""

from .attention import SelfAttention as SelfAttention
from .attention import TransformerBlock as TransformerBlock
from .block import Block as Block
from .block import MaskedBatchNorm as MaskedBatchNorm
from .block import MaskedLayerNorm as MaskedLayerNorm
from .block import TiedDropout as TiedDropout
from .linear_block import LinearBlock as LinearBlock
from .pair import PairModel as PairModel
from .ptd import PTDInit as PTDInit
from .ptd import S5PTDInit as S5PTDInit
from .s4 import S4 as S4
from .s4 import DPLRInit as DPLRInit
from .s4d import S4D as S4D
from .s4d import DiagonalInit as DiagonalInit
from .s5 import S5 as S5
from .s5 import S5Init as S5Init
from .sequence import SequenceModel as SequenceModel
from .sequence import TokenModel as TokenModel
