"""Truncated singular value decomposition of the weights: the baseline of all compression by low rank.

    W = U S V^T,   first = S_r V_r^T (r, in),   second = U_r (out, r):   minimises |W - L|_F over rank r

Eckart and Young, "The approximation of one matrix by another of lower rank", Psychometrika 1, 1936. No data are
looked at; what is discarded counts the same whether the network uses it or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ...ops.factorisation import Decomposition, plain_svd
from .method import Batch, Call, Loss, Method, Sites, bias_of


@dataclass(frozen=True)
class SVD(Method):
    """Singular triplets of each weight's matrix; the bias stays."""

    def decompose(
        self, model: nn.Module, sites: Sites, batches: Sequence[Batch], *, loss: Loss | None, call: Call
    ) -> dict[str, Decomposition]:
        """The terms of every layer."""
        return {name: plain_svd(site.matrix())._replace(offset=bias_of(site)) for name, site in sites.items()}
