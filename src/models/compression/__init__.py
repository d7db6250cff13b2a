"""Compression by low rank: layers replaced by two thinner ones, ranks found in training, and pruning by spectra."""

from .compress import METHODS, Compression, LayerReport, Prepared, compress, prepare
from .fwsvd import FWSVD, fisher
from .lenet import LeNet5
from .lord import LoRD, Whitened, layer_moments
from .low_rank import Factorised, LowRankConv, LowRankLinear, factorise
from .maestro import Maestro, decompose
from .method import Method
from .ordered import MaestroConv2d, MaestroLinear
from .pruning import prune_by_magnitude, pruning_ratios, sparsity_ratios
from .ranks import choose_ranks, greedy_ranks
from .svd import SVD

__all__ = [
    "FWSVD", "METHODS", "SVD", "Compression", "Factorised", "LayerReport", "LeNet5", "LoRD", "LowRankConv",
    "LowRankLinear", "Maestro", "MaestroConv2d", "MaestroLinear", "Method", "Prepared", "Whitened", "choose_ranks",
    "compress", "decompose", "factorise", "fisher", "greedy_ranks", "layer_moments", "prepare", "prune_by_magnitude",
    "pruning_ratios", "sparsity_ratios",
]  # fmt: skip
