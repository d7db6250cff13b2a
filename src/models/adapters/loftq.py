"""LoftQ: the weight is quantised, and a pair fitted to what that lost.

Li, Yu, Liang, He, Karampatziakis, Chen, Zhao, "LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models",
ICLR 2024, arXiv 2310.08659. Starting from B A = 0,

    for t = 1 .. T:  Q_t = Quant(W - B A),   B A = principal part of W - Q_t

and W ~ Q_T + B A: it ends with a fit, where QPiSSA begins with one. The paper's claim: a start closer to the weight
than QLoRA's, which is Q_1 alone.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from .quantised_start import QuantisedStart, Split


@dataclass(frozen=True)
class LoftQ(QuantisedStart):
    """A quantised base and a pair fitted to its error, in T rounds.

    Arguments and errors: those of `QuantisedStart` (rank, alpha, rslora, bits, rounds, block, iterations).
    """

    def split(self, weights: Float[Tensor, "*layers out columns"]) -> Split:
        Q = self.quantised(weights)
        B, A = self.fitted(weights - Q)
        for _ in range(self.rounds - 1):
            Q = self.quantised(weights - B @ A)
            B, A = self.fitted(weights - Q)
        return Q, B, A
