"""A steerable network that tells small point clouds apart, mirror images included.

The network of the Tetris test of Xie et al., "The Price of Freedom", ICML 2025, arXiv 2506.13523 (after e3nn's): with
h_i of C channels of every irrep that the product reaches up to degree L, over the pairs closer than a radius,

    m_i = mean_j  R(|r_ij|) * (h_j x Y(r_ij / |r_ij|)),        h_i <- Linear([h_i, gate(Linear(m_i))]),

and at the end, summed over the nodes, one pseudoscalar o and scalars e_1 .. e_{K-1}: the logits are
(o e_1, -o e_1, e_2, .., e_{K-1}). Classes 0 and 1 are mirror images. A product without the paths of odd l1 + l2 + l3
never makes a pseudoscalar out of scalars and harmonics, so that o = 0: with K classes of equal size the accuracy is
then at most (K - 1) / K and the cross-entropy at least (2 / K) ln 2.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.orientations import safe_norm
from ...ops.sphere import spherical_harmonics
from ..arguments import check_sizes
from .graph import DenseGraph, check_finite
from .irreps_layers import Gate, IrrepsLinear, join_degrees, natural_irreps, split_degrees
from .tensor_product import Kind, TensorProduct, name_of

RADIAL = 32  # hidden units of the network of the distance


class ShapeClassifier(nn.Module):
    """Point clouds (batch, nodes, 3) to logits (batch, classes), invariant under SE(3) and permutations.

    A reflection exchanges the first two logits.

    Args:
        product: makes the tensor product of (irreps_in1, irreps_in2, irreps_out); the second input has one channel.
        dim_out: classes K, the first two of which are mirror images.
        dim: channels C of every irrep.
        degree: L.
        depth: layers; mirror images need three: a pseudovector of two harmonics, and a third to meet it.
        radius: pairs at least this far apart do not see each other.

    Raises:
        ValueError: sizes below 1, fewer than three classes, a radius that is not positive.
    """

    def __init__(
        self,
        product: Callable[..., TensorProduct],
        dim_out: int = 8,
        *,
        dim: int = 8,
        degree: int = 2,
        depth: int = 3,
        radius: float = 1.1,
    ):
        super().__init__()
        check_sizes(dim=dim, degree=degree, depth=depth)
        if dim_out < 3:
            raise ValueError(f"dim_out={dim_out}: two mirror images and another class are at least 3")
        if not radius > 0:
            raise ValueError(f"radius={radius}: must be positive")
        self.degree, self.radius = degree, radius
        self.embedding = nn.Parameter(torch.randn(dim))
        self.layers = nn.ModuleList()
        kinds: list[Kind] = [(0, 1)]
        for index in range(depth):
            highest = 0 if index == depth - 1 else degree
            self.layers.append(ShapeLayer(product, kinds, dim, degree, degree_out=highest))
            kinds = self.layers[-1].kinds_out  # pyright: ignore[reportAssignmentType]
        self.scalars = nn.Linear(dim, dim_out - 1)
        self.pseudoscalar = nn.Linear(dim, 1, bias=False) if (0, -1) in kinds else None

    def forward(self, x: Float[Tensor, "batch nodes 3"]) -> Float[Tensor, "batch classes"]:
        """The logits.

        Raises:
            ValueError: NaN or infinity in a coordinate.
        """
        check_finite(x=x)
        difference = x[:, None] - x[:, :, None]
        squares = difference.square().sum(-1, keepdim=True)
        distance = safe_norm(difference).unsqueeze(-1)
        near = (squares < self.radius**2).to(x.dtype)
        harmonics = spherical_harmonics(self.degree, difference, normalisation="norm", normalise=True)
        h = self.embedding.expand(*x.shape[:-1], len(self.embedding))
        for layer in self.layers:
            h = layer(h, harmonics, distance, near)
        even, odd = h[..., : len(self.embedding)], h[..., len(self.embedding) :]
        pooled = self.scalars(even).sum(1)
        pseudoscalar = 0.0 if self.pseudoscalar is None else self.pseudoscalar(odd).sum(1)
        signed = pooled[:, :1] * pseudoscalar
        return torch.cat([signed, -signed, pooled[:, 1:]], -1)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor]:
        """Random clouds of four points within reach of each other."""
        return (torch.rand(batch, 4, 3) * 0.6 * self.radius,)


class ShapeLayer(nn.Module):
    """One round of messages and the update, see the module.

    Args:
        product: see `ShapeClassifier`.
        kinds: (degree, parity) of the features that come in, scalars first.
        dim: channels of each.
        degree: of the harmonics.
        degree_out: of the features that go out; they are those that the product reaches.
    """

    def __init__(
        self,
        product: Callable[..., TensorProduct],
        kinds: list[Kind],
        dim: int,
        degree: int,
        *,
        degree_out: int,
    ):
        super().__init__()
        features, harmonics = _irreps(dim, kinds), natural_irreps(1, degree)
        everything = product(features, harmonics).irreps_out
        reached = _ordered({(part.ir.l, part.ir.p) for part in everything if part.ir.l <= degree_out})
        self.product = product(features, harmonics, _irreps(dim, reached))
        self.kinds, self.reached, self.dim = kinds, reached, dim
        self.kinds_out = [kind for kind in _ordered({*kinds, *reached}) if kind[0] <= degree_out]
        degrees = [kind[0] for kind in reached]
        self.radial = nn.Sequential(nn.Linear(1, RADIAL), nn.SiLU(), nn.Linear(RADIAL, dim * len(reached)))
        self.gate = Gate(dim, degrees)
        self.mix = IrrepsLinear([dim] * len(reached), self.gate.dims_in, degrees=degrees)
        sources = [dim * ((kind in kinds) + (kind in reached)) for kind in self.kinds_out]
        self.update = IrrepsLinear(
            sources, [dim] * len(sources), degrees=[kind[0] for kind in self.kinds_out]
        )

    def forward(self, h: Tensor, harmonics: Tensor, distance: Tensor, near: Tensor) -> Tensor:
        """Features (batch, nodes, ...), and (batch, nodes, nodes, ...) of the pairs (receiver, sender)."""
        graph = DenseGraph()
        sent = graph.senders(h).expand(*harmonics.shape[:-1], h.shape[-1])
        messages = self._split(self.product(sent, harmonics), self.reached)
        factors = self.radial(distance).split(self.dim, -1)
        scaled = [
            part * (near * factor).unsqueeze(-1) for part, factor in zip(messages, factors, strict=True)
        ]
        mean = graph.sum(join_degrees(scaled)) / graph.sum(near).clamp(min=1)
        change = dict(zip(self.reached, self._split(self.gate(self.mix(mean)), self.reached), strict=True))
        own = dict(zip(self.kinds, self._split(h, self.kinds), strict=True))
        both = [
            torch.cat([parts[kind] for parts in (own, change) if kind in parts], -2)
            for kind in self.kinds_out
        ]
        return self.update(join_degrees(both))

    def _split(self, h: Tensor, kinds: list[Kind]) -> list[Tensor]:
        return split_degrees(h, [self.dim] * len(kinds), [kind[0] for kind in kinds])


def _ordered(kinds: set[Kind]) -> list[Kind]:
    """By degree, even ones first."""
    return sorted(kinds, key=lambda kind: (kind[0], -kind[1]))


def _irreps(dim: int, kinds: list[Kind]) -> str:
    return "+".join(f"{dim}x{name_of(kind)}" for kind in _ordered(set(kinds)))
