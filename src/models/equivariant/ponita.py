"""PNITA and PONITA: convolution over positions, and over positions with orientations.

Bekkers, Vadgama, Hesselink, van der Linden and Romero, "Fast, Expressive SE(n) Equivariant Networks through
Weight-Sharing in Position-Orientation Space", ICLR 2024, arXiv 2310.02970.

Features f[i, o, c] live at points p_i and orientations o of a grid on the sphere. Kernels depend on what identifies a
pair of them up to rotation and translation: with rel = p_j - p_i, `a1 = rel.o`, `a2 = |rel - a1 o|` (signed in two
dimensions) and `a3 = o.o'`. One basis phi of each serves all layers, `phi = gelu(A gelu(B m(a)))` of the monomials m
to degree 3, times a window where there is a cut-off. A layer is a separable depthwise convolution in a ConvNeXt block,

    z[i, o, c]  = sum_j (K phi(a1, a2))[ij, o, c] f[j, o, c]            over the neighbours and i itself
    y[i, o', c] = 1/O sum_o (F phi'(a3))[o, o', c] z[i, o, c] + b_c
    f          <- f + gamma W_2 gelu(W_1 LayerNorm(y)).

K and F are rescaled once, on the first training batch, to keep the standard deviation of f. Vectors enter as v.o and
leave as the mean of r[o] o. The paper finds this as accurate as steerable message passing without Clebsch-Gordan
products, and better than PNITA, which has no orientations and whose kernels see the distance alone.

Exact as the grid turns with the points, and for the grid's own symmetries. For other rotations the error falls about
like O^-1.4; an untrained network of 16 orientations is off by a tenth. In three dimensions reflections are kept as
well, so that mirror images cannot be told apart.

What differs: the grid is a regular solid or a Fibonacci grid and is saved with the weights (the paper repels random
points, anew for every model); monomials are taken once (both orders of each product there: the same functions); the
batch that calibrates passes through calibrated layers already. Positions alone have scalars only; here PNITA takes
the lengths of vectors and reads vectors out as
`u_i = sum_k c_ik v_ik + mean_j (g_j . phi(r)) rel / (1 + r)^4`, r = |rel|, with c and g linear in the features, so
that it has a place beside models of motion; the denominator holds phi, which grows like r^3.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.orientations import window
from ...ops.precision import without_autocast
from ..arguments import check_sizes
from .graph import DenseGraph, Graph, check_finite
from .particles import ParticleModel
from .position_orientation import BondSpace, Frame, OrientationSpace, PositionSpace, Space
from .separable import DEGREE, Block, KernelBasis


def make_space(orientations: int, dimensions: int) -> Space:
    """Positions for 0 orientations, bonds for -1, a grid otherwise; ValueError below -1 or for dimensions not 2, 3."""
    if orientations < -1:
        raise ValueError(
            f"orientations={orientations}: -1 (bonds), 0 (positions alone) or the size of the grid"
        )
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions={dimensions}: must be 2 or 3")
    if orientations > 0:
        return OrientationSpace(orientations, dimensions)
    return BondSpace(dimensions) if orientations else PositionSpace(dimensions)


class Ponita(nn.Module):
    """Scalars and vectors at points to scalars and vectors at the same points.

    The buffer `grid` (orientations, d) is saved with the weights; f(R x; R grid) = R f(x; grid). Sums over the points
    of a system, for outputs of whole systems, are `graph.pool`.

    Args:
        fields_in: how many scalars and vectors come in.
        fields_out: how many go out.
        space: what to convolve over, see `make_space`.
        dim: channels C, the width of the hidden layer of phi too.
        basis_dim: length of phi.
        depth: layers.
        radius: of the window, which is 0 beyond it; None: no window. Edges of a list are not made from it.
        layer_scale: initial gamma; None: there is no gamma.

    Raises:
        ValueError: a size below 1, fields that are not two counts, radius <= 0.
    """

    def __init__(
        self,
        fields_in: Sequence[int],
        fields_out: Sequence[int],
        *,
        space: Space,
        dim: int = 128,
        basis_dim: int = 256,
        depth: int = 5,
        radius: float | None = None,
        layer_scale: float | None = None,
    ):
        super().__init__()
        self.grid: Tensor | None
        check_sizes(dim=dim, basis_dim=basis_dim, depth=depth)
        _check_fields(fields_in=fields_in, fields_out=fields_out)
        if radius is not None and not radius > 0:
            raise ValueError(f"radius={radius}: must be > 0, or None")
        self.fields_in, self.fields_out = tuple(fields_in), tuple(fields_out)
        self.space, self.radius = space, radius
        # in float64 until the module is cast: the grid's own symmetries then hold to machine precision
        self.register_buffer("grid", space.grid())
        self.basis = KernelBasis(space.invariants, dim, basis_dim)
        self.fibre_basis = KernelBasis(1, dim, basis_dim) if space.orientations > 0 else None
        self.embedding = nn.Linear(sum(fields_in), dim, bias=False)
        self.blocks = nn.ModuleList(
            Block(dim, basis_dim, fibre=space.orientations > 0, layer_scale=layer_scale) for _ in range(depth)
        )
        # Without orientations a vector is read out by coefficients of the incoming vectors and of phi.
        per_vector = 1 if space.orientations else fields_in[1] + basis_dim
        self.columns = [fields_out[0], fields_out[1] * per_vector]
        self.readouts = nn.ModuleList(nn.Linear(dim, sum(self.columns)) for _ in range(depth))

    def forward(
        self,
        scalars: Float[Tensor, "*nodes scalars"],
        vectors: Float[Tensor, "*nodes vectors d"],
        pos: Float[Tensor, "*nodes d"],
        graph: Graph | None = None,
    ) -> tuple[Float[Tensor, "*nodes scalars_out"], Float[Tensor, "*nodes vectors_out d"]]:
        """Of systems (batch, nodes) of which every pair interacts, or of (nodes,) with an `EdgeGraph`.

        Raises:
            ValueError: fields or dimensions other than those at construction, a graph of another size, NaN or infinity
                (see `check_finite`).
        """
        self._check(scalars, vectors, pos)
        grid = None if self.grid is None else self.grid.to(pos)
        with without_autocast(pos.device):  # geometry keeps its precision
            frame = self.space.frame(pos, DenseGraph() if graph is None else graph, grid)
        phi = self._windowed(self.basis(frame.invariants), frame)
        fibre = None
        if self.fibre_basis is not None and grid is not None:
            fibre = self.fibre_basis((grid @ grid.mT).unsqueeze(-1))  # of a3
        f, found = self.embedding(frame.lift(scalars, vectors)), []
        for block, readout in zip(self.blocks, self.readouts, strict=True):
            f = block(f, frame.pairs, phi, fibre)
            found.append(readout(f))
        of_scalars, of_vectors = torch.stack(found).mean(0).split(self.columns, dim=-1)
        if self.space.orientations:
            return frame.read(of_scalars, of_vectors)
        return of_scalars.squeeze(-2), self._combined(of_vectors.squeeze(-2), vectors, frame, phi)

    def _windowed(self, phi: Tensor, frame: Frame) -> Tensor:
        """phi times the window and the weights of the pairs."""
        weight = frame.pairs.weights(phi)
        if self.radius is not None:
            within = window(frame.distance, self.radius).unsqueeze(-1)
            weight = within if weight is None else within * weight
        return phi if weight is None else phi * weight

    def _combined(self, coefficients: Tensor, vectors: Tensor, frame: Frame, phi: Tensor) -> Tensor:
        """`sum_k c_k v_k + mean_j (g_j . phi) rel / (1 + r)^4`."""
        each = coefficients.unflatten(-1, (self.fields_out[1], -1))
        own, kernel = each.split([self.fields_in[1], phi.shape[-1]], dim=-1)
        along = (phi * frame.pairs.senders(kernel)).sum(-1, keepdim=True)
        bounded = frame.relative / (1 + frame.distance) ** (1 + DEGREE)
        total = frame.pairs.sum(along * bounded.unsqueeze(-2), vectors)
        return own @ vectors + total / frame.pairs.counts(total)

    def _check(self, scalars: Tensor, vectors: Tensor, pos: Tensor) -> None:
        fields, d = (scalars.shape[-1], vectors.shape[-2]), self.space.dimensions
        if fields != self.fields_in or pos.shape[-1] != d or vectors.shape[-1] != d:
            raise ValueError(
                f"wanted {self.fields_in[0]} scalars and {self.fields_in[1]} vectors in {d} dimensions, got scalars "
                f"{tuple(scalars.shape)}, vectors {tuple(vectors.shape)} and positions {tuple(pos.shape)}"
            )
        check_finite(scalars=scalars, vectors=vectors, pos=pos)


class PonitaParticles(ParticleModel):
    """PONITA that moves particles: charges as scalars, velocities as vectors, `pos + u` with the vector u read out.

    Args:
        dim, basis_dim, depth, radius, layer_scale: see `Ponita`.
        orientations: of the grid; 0: PNITA.
        dimensions: 2 or 3.

    Raises:
        ValueError: as `Ponita` and `make_space`.
    """

    def __init__(
        self,
        dim: int = 128,
        basis_dim: int = 256,
        *,
        depth: int = 5,
        orientations: int = 16,
        dimensions: int = 3,
        radius: float | None = None,
        layer_scale: float | None = 1e-6,
    ):
        super().__init__()
        self.net = Ponita(
            (1, 1),
            (0, 1),
            space=make_space(orientations, dimensions),
            dim=dim,
            basis_dim=basis_dim,
            depth=depth,
            radius=radius,
            layer_scale=layer_scale,
        )

    def predict(self, pos: Tensor, vel: Tensor, charge: Tensor, graph: Graph) -> Tensor:
        return pos + self.net(charge, vel.unsqueeze(-2), pos, graph)[1].squeeze(-2)


def _check_fields(**fields: Sequence[int]) -> None:
    for name, counts in fields.items():
        if len(counts) != 2 or min(counts) < 0 or sum(counts) < 1:
            raise ValueError(
                f"{name}={tuple(counts)}: wanted two counts, of scalars and of vectors, not both 0"
            )
