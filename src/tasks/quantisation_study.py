"""How much of the error of quantisation a low-rank pair takes away: QPiSSA, LoftQ and QLoRA on given weights.

Meng et al., "PiSSA", 2024, arXiv 2404.02948. No training. The measure is `ops.quantisation.error_reduction`, in per
cent of the nuclear norm of W - Quant(W), which QLoRA leaves as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.adapters.inject import find_sites
from ..models.adapters.loftq import LoftQ
from ..models.adapters.qpissa import QPiSSA
from ..models.arguments import check_choice, check_sizes
from ..ops.quantisation import dequantise, error_reduction, quantise

METHODS = {"qpissa": QPiSSA, "loftq": LoftQ}
GAUSSIAN = "gaussian"
SIZE = 512  # rows and columns of the Gaussian matrix


@dataclass(frozen=True)
class QuantisationStudy:
    """Error reduction of a quantised base with a pair, on the linear layers of a trained model or a Gaussian matrix.

    Calling it returns, in per cent,

    | name | meaning |
    |---|---|
    | `reduction/<layer>` | mean over the layers whose path ends in `layer`, one for each name of `layers` |
    | `reduction/gaussian` | without a base: of a 512 x 512 matrix of independent unit normal entries |

    Args:
        base: the trained model; None for the Gaussian matrix.
        method: `qpissa` or `loftq`.
        rank, rounds, bits, block: of the adapter.
        layers: patterns of layers, see `find_sites`.
        seed: of the Gaussian matrix.

    Raises:
        ValueError: an unknown method or an argument that it does not take; layers that the base does not have.
    """

    base: nn.Module | None = None
    method: str = "qpissa"
    rank: int = 16
    rounds: int = 5
    bits: str = "nf4"
    block: int = 64
    layers: Sequence[str] = ("q", "v", "up", "down")
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, tuple(METHODS))
        self.adapter()
        if self.base is not None:
            self.weights()

    def __call__(self) -> dict[str, float]:
        return {f"reduction/{name}": self.reduction(weights) for name, weights in self.weights().items()}

    def adapter(self) -> QPiSSA | LoftQ:
        """The adapter as its arguments say."""
        check_sizes(rank=self.rank, rounds=self.rounds)
        return METHODS[self.method](self.rank, rounds=self.rounds, bits=self.bits, block=self.block)

    def weights(self) -> dict[str, list[Tensor]]:
        """The matrices that each name stands for, float32."""
        if self.base is None:
            generator = torch.Generator().manual_seed(self.seed)
            return {GAUSSIAN: [torch.randn(SIZE, SIZE, generator=generator)]}
        return {
            name: [site.matrix() for site in find_sites(self.base, name).values()] for name in self.layers
        }

    def reduction(self, weights: Sequence[Tensor]) -> float:
        """Mean error reduction of matrices of one shape."""
        stack = torch.stack(list(weights))
        Q, B, A = self.adapter().split(stack)
        plain = dequantise(quantise(stack, self.bits, self.block, batch=1))
        return float(error_reduction(stack, Q + B @ A, plain).mean())
