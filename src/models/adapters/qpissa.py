"""QPiSSA: the principal part of a weight is trained, and only the rest is quantised.

Meng, Wang, Zhang, "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models", 2024,
arXiv 2404.02948. With B A the r largest singular triplets of a matrix, shared evenly between B and A,

    E_0 = W;    for t = 1 .. T:  B A = principal part of E_{t-1},   Q_t = Quant(W - B A),   E_t = W - Q_t

and W ~ Q_T + B A with the pair of the last round: it is not fitted again after Q_T. T = 1 is the plain form.

The paper's claim: what is left after the principal part has smaller entries that are closer to normal, so that
quantising it loses less than quantising W (QLoRA), and less than fitting a pair to the error afterwards (LoftQ). The
measure is `ops.quantisation.error_reduction`. Different here: the layer is quantised once; the released code quantises
the residual a second time on loading, with other settings.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from .quantised_start import QuantisedStart, Split


@dataclass(frozen=True)
class QPiSSA(QuantisedStart):
    """The principal part in a trained pair, the rest quantised, in T rounds.

    Arguments and errors: those of `QuantisedStart` (rank, alpha, rslora, bits, rounds, block, iterations). For linear
    layers; `merge` then wants `requantise=True`.
    """

    def split(self, weights: Float[Tensor, "*layers out columns"]) -> Split:
        B, A = self.fitted(weights)
        Q = self.quantised(weights - B @ A)
        for _ in range(self.rounds - 1):
            B, A = self.fitted(weights - Q)
            Q = self.quantised(weights - B @ A)
        return Q, B, A
