"""Spectral weights in low-rank tensor formats.

Kossaifi, Kovachki, Azizzadenesheli, Anandkumar, "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution
PDEs", TMLR 2024, arXiv 2310.00120. The weight of a spectral convolution,

    Y[b, o, k] = sum_i X[b, i, k] W[i, o, k],    k = (k_1, .., k_d) over the kept modes,

is never trained entry by entry: what is trained are the complex factors of

| class | W[i, o, k] | ranks |
|---|---|---|
| `TuckerWeight` | `sum G[r_1 .. r_n] U_1[i, r_1] U_2[o, r_2] U_3[k_1, r_3] ..` | one per axis |
| `CPWeight` | `sum_r lambda_r u_1[i, r] u_2[o, r] u_3[k_1, r] ..` | one |
| `TTWeight` | `sum A_1[i, r_1] A_2[r_1, o, r_2] A_3[r_2, k_1, r_3] ..` | one per inner bond |

The paper's claims: fewer parameters and, with little data, a lower error. A factorised weight saves parameters, not
time. What differs here: ranks from a fraction are found with the caps of a full tensor (`ops.tensor_formats`), the
order of the contraction is searched, and one tensor for all layers (`Joint`) is the same code with one axis more.
"""

import functools
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex
from torch import Tensor, nn

from ...ops.tensor_formats import (
    as_complex,
    capped,
    cheapest_contraction,
    contract,
    cp_rank,
    train_caps,
    train_ranks,
    tucker_ranks,
)
from ..arguments import check_choice

IMPLEMENTATIONS = ("auto", "reconstructed", "factorised")
NOMINAL_BATCH = 8  # for which `auto` and the order of contraction are chosen
TOLERANCE = 0.05  # of the achieved compression, relative to the request
Rank = float | int | Sequence[int]

log = logging.getLogger("eigenzoo.models")


class FactorisedWeight(nn.Module):
    """A complex tensor (dim_in, dim_out, *kept) kept as factors, and its product with spectra.

    Factors are complex, stored as real tensors with a trailing axis of 2, and drawn such that the entries of W have
    the deviation `sigma = sqrt(2 / (dim_in + dim_out))`: with m random factors of independent normal entries and R
    terms in the sum, those have the deviation `(sigma / sqrt(R))^(1/m)`.

    Args:
        shape: (dim_in, dim_out, *kept), one to three kept axes.
        rank: a fraction in (0, 1], a float, of the numbers of a dense weight; or explicit ranks (see the class).
            Where rounding makes the achieved compression miss a fraction by more than 5 %, a warning is logged,
            once for all weights of the same class, shape and fraction.
        implementation: `reconstructed` builds W and multiplies; `factorised` contracts the spectrum with the factors
            in the cheapest order and never holds W; `auto` is the one with fewer multiplications at a batch of 8.
        layers: None, or the length of a leading axis of the tensor: one weight per layer of a model.

    Raises:
        ValueError: a shape, rank or implementation out of range; in `forward`, a spectrum of another shape.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        rank: Rank,
        implementation: str = "auto",
        layers: int | None = None,
    ):
        super().__init__()
        if not 3 <= len(shape) <= 5 or min(shape) < 1:
            raise ValueError(
                f"shape={tuple(shape)}: must be (dim_in, dim_out, *kept), one to three kept axes"
            )
        if layers is not None and layers < 1:
            raise ValueError(f"layers={layers}: must be at least 1, or None for the weight of one layer")
        check_choice("implementation", implementation, IMPLEMENTATIONS)
        if isinstance(rank, float) and not 0 < rank <= 1:
            raise ValueError(f"rank={rank}: a fraction of the dense weight must lie in (0, 1]")
        self.shape, self.layers = tuple(shape), layers
        self.full_shape = self.shape if layers is None else (layers, *self.shape)
        self.ranks = self._find_ranks(rank)
        self._make_factors()
        self._choose(implementation)
        self._report(rank)

    @abstractmethod
    def _find_ranks(self, rank: Rank) -> tuple[int, ...]:
        """The ranks of a fraction, or the explicit ones after a check."""

    @abstractmethod
    def _terms(self, axes: str, ranks: str) -> tuple[str, ...]:
        """The letters of every factor."""

    def _make_factors(self) -> None:
        axes = "lioxyz" if self.layers is not None else "ioxyz"
        axes, ranks = axes[: len(self.full_shape)], "abcdef"[: len(self.ranks)]
        self._sizes = dict(zip(axes + ranks, self.full_shape + self.ranks, strict=True))
        terms = self._terms(axes, ranks)
        sigma = math.sqrt(2 / (self.shape[0] + self.shape[1]))
        random = sum(len(term) > 1 for term in terms)  # the weights of CP, one axis, start from 1
        std = (sigma / math.sqrt(math.prod(self.ranks))) ** (1 / random)
        self.factors = nn.ParameterList(self._draw(term, std) for term in terms)
        self._layer_axes = tuple(term.find("l") for term in terms)
        self._layer_terms = tuple(term.replace("l", "") for term in terms)

    def _draw(self, term: str, std: float) -> Tensor:
        size = [self._sizes[letter] for letter in term]
        if len(term) == 1:
            return torch.stack([torch.ones(size), torch.zeros(size)], dim=-1)
        return torch.randn(*size, 2) * (std / math.sqrt(2))

    def _choose(self, implementation: str) -> None:
        kept = "xyz"[: len(self.shape) - 2]  # the modes lead: all products are batched over some of them
        sizes = self._sizes | {"n": NOMINAL_BATCH}
        self._whole = cheapest_contraction(self._layer_terms, kept + "io", sizes, kept)
        self._product = f"{kept}ni,{kept}io->{kept}no"
        self._direct = cheapest_contraction((*self._layer_terms, kept + "ni"), kept + "no", sizes, kept)
        reconstructed = self._whole.flops + NOMINAL_BATCH * math.prod(self.shape)
        best = "factorised" if self._direct.flops < reconstructed else "reconstructed"
        self.implementation = best if implementation == "auto" else implementation

    def _report(self, rank: Rank) -> None:
        if isinstance(rank, float) and abs(self.compression / rank - 1) > TOLERANCE:
            warn_of_compression(type(self).__name__, self.full_shape, rank, self.ranks, self.compression)

    @property
    def compression(self) -> float:
        """Parameters over those of the dense weight."""
        return sum(f.numel() for f in self.factors) / (2 * math.prod(self.full_shape))

    def dense(self, layer: int | None = None) -> Complex[Tensor, "dim_in dim_out *kept"]:
        """W; of a tensor for several layers that of one."""
        dtype = torch.promote_types(self.factors[0].dtype, torch.float32)
        return _modes_last(contract(self._whole.tree, self._of_layer(layer, dtype)))

    def forward(
        self, spectrum: Complex[Tensor, "batch dim_in *kept"], layer: int | None = None
    ) -> Complex[Tensor, "batch dim_out *kept"]:
        """`sum_i X[b, i, k] W[i, o, k]`."""
        if spectrum.shape[1:] != (self.shape[0], *self.shape[2:]):
            raise ValueError(
                f"{type(self).__name__} of shape {self.shape} cannot multiply a spectrum of shape "
                f"{tuple(spectrum.shape)}"
            )
        double = spectrum.dtype == torch.complex128
        factors = self._of_layer(layer, torch.float64 if double else torch.float32)
        spectrum = spectrum.movedim((0, 1), (-2, -1)).contiguous()
        if self.implementation == "factorised":
            return _modes_last(contract(self._direct.tree, [*factors, spectrum]))
        return _modes_last(torch.einsum(self._product, spectrum, contract(self._whole.tree, factors)))

    def _of_layer(self, layer: int | None, dtype: torch.dtype) -> list[Tensor]:
        """Complex factors of one layer, their parts in `dtype`."""
        if (layer is None) != (self.layers is None) or not 0 <= (layer or 0) < (self.layers or 1):
            raise ValueError(f"layer={layer}: this weight was built with layers={self.layers}")
        chosen = (
            f if axis < 0 else f.select(axis, layer or 0)
            for f, axis in zip(self.factors, self._layer_axes, strict=True)
        )
        return [as_complex(f, dtype) for f in chosen]

    def view(self, layer: int) -> "LayerWeight":
        """The weight of one layer as a module without parameters of its own."""
        return LayerWeight(self, layer)

    def extra_repr(self) -> str:
        return (
            f"{self.full_shape}, ranks={self.ranks}, implementation={self.implementation!r}, "
            f"compression={self.compression:.3g}"
        )


class TuckerWeight(FactorisedWeight):
    """Tucker format: a core and a factor per axis. Explicit ranks: one per axis, at most the axis.

    A fraction scales all axes by one factor, such that core and factors together meet it, and rounds.
    """

    def _find_ranks(self, rank: Rank) -> tuple[int, ...]:
        if isinstance(rank, float):
            return tucker_ranks(self.full_shape, rank)
        return _explicit(rank, self.full_shape, "one rank per axis")

    def _terms(self, axes: str, ranks: str) -> tuple[str, ...]:
        return (ranks, *(a + r for a, r in zip(axes, ranks, strict=True)))


class CPWeight(FactorisedWeight):
    """Canonical polyadic format: R weights, at first 1, and R columns per axis. Explicit rank: R, an int."""

    def _find_ranks(self, rank: Rank) -> tuple[int, ...]:
        if isinstance(rank, float):
            return (cp_rank(self.full_shape, rank),)
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(
                f"rank={rank!r}: CP wants a fraction (a float) or one rank, an int of at least 1"
            )
        return (rank,)

    def _terms(self, axes: str, ranks: str) -> tuple[str, ...]:
        return (ranks, *(a + ranks for a in axes))


class TTWeight(FactorisedWeight):
    """Tensor train: one core per axis. Explicit ranks: one for all bonds, cut at their caps, or one per bond.

    The cap of a bond is the rank of a full tensor's unfolding there. A fraction gives all bonds below their caps
    the same rank, such that the size comes nearest to it.
    """

    def _find_ranks(self, rank: Rank) -> tuple[int, ...]:
        caps = train_caps(self.full_shape)
        if isinstance(rank, float):
            return train_ranks(self.full_shape, rank)
        if isinstance(rank, int) and rank >= 1:
            return capped(rank, caps)
        return _explicit(rank, caps, "one rank per bond")

    def _terms(self, axes: str, ranks: str) -> tuple[str, ...]:
        bonds = zip(("", *ranks), axes, (*ranks, ""), strict=True)
        return tuple(before + axis + after for before, axis, after in bonds)


class LayerWeight(nn.Module):
    """One layer's weight of a joint tensor, which the model itself registers once."""

    def __init__(self, joint: FactorisedWeight, layer: int):
        super().__init__()
        self._joint, self.layer = (joint,), layer  # in a tuple: not a submodule, not in the state dict
        self.shape = joint.shape

    def dense(self) -> Complex[Tensor, "dim_in dim_out *kept"]:
        """W of this layer."""
        return self._joint[0].dense(self.layer)

    def forward(
        self, spectrum: Complex[Tensor, "batch dim_in *kept"]
    ) -> Complex[Tensor, "batch dim_out *kept"]:
        """`sum_i X[b, i, k] W[i, o, k]`."""
        return self._joint[0](spectrum, self.layer)

    def extra_repr(self) -> str:
        return f"layer={self.layer}"


@dataclass(frozen=True)
class Joint:
    """Marks a factory of weights: one tensor with a leading axis for all layers of a model, not one per layer.

    Args:
        weight: a factory of `FactorisedWeight`, such as `partial(TuckerWeight, rank=0.1)`.
    """

    weight: Callable[..., FactorisedWeight]


# Cached, so that the equal layers of a model, and of all models of a process, say it once.
@functools.cache
def warn_of_compression(
    name: str, shape: tuple[int, ...], rank: float, ranks: tuple[int, ...], achieved: float
) -> None:
    """Logs by how much rounding misses a fraction; the second time for the same arguments nothing."""
    log.warning(
        "%s%s: rank %g was asked for, the nearest by rounding is %s with %.3g of the dense parameters",
        name, shape, rank, ranks, achieved,
    )  # fmt: skip


def _modes_last(x: Tensor) -> Tensor:
    """(*kept, a, b) as (a, b, *kept)."""
    return x.movedim((-2, -1), (0, 1))


def _explicit(rank: object, caps: Sequence[int], what: str) -> tuple[int, ...]:
    given = tuple(rank) if isinstance(rank, Sequence) and not isinstance(rank, str) else ()
    fits = len(given) == len(caps) and all(
        isinstance(r, int) and 1 <= r <= cap for r, cap in zip(given, caps, strict=False)
    )
    if not fits:
        raise ValueError(
            f"rank={rank!r}: must be a fraction (a float) or {what}, at least 1 and at most {tuple(caps)}"
        )
    return given
