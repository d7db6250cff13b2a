"""The von Mises-Fisher head: a density on the sphere per class.

Each class has a mean direction mu_c and a concentration kappa_c, and the logit is the logarithm of its density at the
feature's direction, relative to the uniform one, with n the width, nu = n/2 - 1:

    logit_c = kappa_c mu_c . x / |x| + log C(kappa_c),
    log C(kappa) = nu log(kappa / 2) - log Gamma(nu + 1) - log I_nu(kappa),

so that exp(logit_c) is 1 on average over the sphere, and the softmax is Bayes' rule for classes that are equally
frequent. Hasnat, Bohne, Milgram, Gentric, Chen, "von Mises-Fisher Mixture Model-based Deep Learning: Application to
Face Verification", arXiv 1706.04264, which claims compact features with one concentration for all classes: then C drops
out, and the head is a cosine head of scale kappa. The logarithm of the Bessel function follows Plesner, Sorensen,
Hauberg, ICS 2024, arXiv 2409.08729, who fit such densities to features of up to 32768 dimensions.

What differs here: every class learns its own concentration, within 1e-3 to 1e6.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.bessel import log_iv
from .cosine import directions
from .head import unit
from .precise import PreciseHead

LEAST, LARGEST = 1e-3, 1e6


class VonMisesFisherHead(PreciseHead):
    """Logits are log densities over the sphere, relative to the uniform one; directions are normalised at use.

    `log_concentration` is also tagged `concentration`, for a rate of its own.

    Args:
        concentration: kappa at the start, of all classes; 25 then gives the posterior of a cosine head of scale 25.

    Raises:
        ValueError: a size out of range, width 1 (its sphere is two points), a concentration not in 1e-3 .. 1e6.
    """

    def __init__(self, dim: int, num_classes: int, *, concentration: float = 25.0):
        super().__init__(dim, num_classes)
        if dim < 2:
            raise ValueError(f"dim={dim}: a density on the sphere needs features of width 2 or more")
        if not LEAST <= concentration <= LARGEST:
            raise ValueError(f"concentration={concentration}: must be in {LEAST:g} .. {LARGEST:g}")
        self.weight = nn.Parameter(directions(num_classes, dim))
        self.log_concentration = nn.Parameter(torch.full((num_classes,), math.log(concentration)))

    @property
    def concentrations(self) -> Float[Tensor, " classes"]:
        """kappa of every class."""
        return self._log_kappa(self.log_concentration).exp()

    @property
    def mean_directions(self) -> Float[Tensor, "classes dim"]:
        """mu of every class, of length 1."""
        return unit(self.weight)

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """All are tagged `head`, the concentrations also `concentration`."""
        return {**super().parameter_tags(), "log_concentration": ("head", "concentration")}

    def _logits(self, features: Tensor) -> Tensor:
        dtype = features.dtype
        log_kappa = self._log_kappa(self.log_concentration.to(dtype))
        cosines = F.linear(unit(features), unit(self.weight.to(dtype)))
        return log_kappa.exp() * cosines + log_normaliser(log_kappa, self.dim).to(dtype)

    def _log_kappa(self, log_kappa: Tensor) -> Tensor:
        return log_kappa.clamp(math.log(LEAST), math.log(LARGEST))

    def extra_repr(self) -> str:
        return f"{self.dim} -> {self.num_classes}"


def log_normaliser(log_kappa: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "*shape"]:
    """`log C` of the module's equation, in float64: its terms are large, and their sum is not."""
    order, log_kappa = dim / 2 - 1, log_kappa.double()
    constant = math.lgamma(order + 1) + order * math.log(2)
    return order * log_kappa - constant - log_iv(order, log_kappa.exp())
