"""Networks that are used with frame averaging: of point clouds, of interacting particles.

Puny et al., "Frame Averaging for Invariant and Equivariant Network Design", ICLR 2022, arXiv 2110.03336: PointNet and
DGCNN for normals (the paper: vertex-wise directions up to sign), FA-GNN for particles.

FA-GNN sees every system from the 8 elements of its frame,

    h_i = Linear([(x_i - t) R, v_i R]),    m_ij = phi_e([h_i, h_j, q_i q_j, |x_i - x_j|^2]),
    h_i <- h_i + phi_h([h_i, sum_{j != i} m_ij])

and between layers takes h as H/3 vectors per node, rotates them back, averages over the frame, and sees what comes
out (less its centre) from the frame of these n H/3 points. The published test MSE on charged particles is not
repeated in the released text. All 8 copies are one axis of the tensors here; what belongs to a pair of particles is
computed once for all of them.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ...ops.frames import Frames, covariance_frames
from ...ops.precision import without_autocast
from ..arguments import check_choice, check_sizes
from .frame_averaging import FrameAveraged
from .graph import Graph, PairLinear, check_finite
from .particles import ParticleModel
from .perceptron import perceptron

SPACE = 3  # dimensions of FA-GNN's particles


class CloudMLP(nn.Module):
    """An MLP on all coordinates of a cloud of a fixed number of points: (B, n, d) to (B, dim_out).

    Args:
        points: n.
        dim_out: outputs.
        dim: width.
        depth: hidden layers.
        dim_in: d.
    """

    def __init__(self, points: int, dim_out: int, *, dim: int = 64, depth: int = 2, dim_in: int = 3):
        super().__init__()
        check_sizes(points=points, dim_out=dim_out, dim=dim, depth=depth, dim_in=dim_in)
        self.shape = (points, dim_in)
        self.net = perceptron([points * dim_in, *[dim] * depth, dim_out])

    def forward(self, x: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch dim_out"]:
        """Of the flattened coordinates."""
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"clouds must be (batch, {self.shape[0]}, {self.shape[1]}), got {tuple(x.shape)}"
            )
        check_finite(x=x)
        return self.net(x.flatten(1))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random clouds."""
        return (torch.randn(batch, *self.shape),)


class FAMLP(FrameAveraged):
    """`CloudMLP` averaged over frames: an invariant of a cloud of a fixed number of points, in their order.

    Args:
        points: n.
        dim_out: outputs.
        dim, depth, dim_in: see `CloudMLP`.
        group: see `FrameAveraged`.
    """

    def __init__(
        self,
        points: int,
        dim_out: int,
        *,
        dim: int = 64,
        depth: int = 2,
        dim_in: int = 3,
        group: str = "E(d)",
    ):
        super().__init__(CloudMLP(points, dim_out, dim=dim, depth=depth, dim_in=dim_in), group)


class PointNet(nn.Module):
    """Shared MLPs of single points and their maximum over the cloud (Qi et al., CVPR 2017), without batch norm.

    a = MLP(x) and g = max over points of MLP(a); per point MLP([a, g]), per cloud MLP(g).

    Args:
        dim_in: coordinates of a point.
        dim_out: outputs.
        dim: width; of g twice as much.
        per_point: outputs per point (B, n, dim_out), or one (B, dim_out).
    """

    def __init__(self, dim_in: int, dim_out: int, *, dim: int = 64, per_point: bool = True):
        super().__init__()
        check_sizes(dim_in=dim_in, dim_out=dim_out, dim=dim)
        self.dim_in, self.per_point = dim_in, per_point
        self.local = nn.Sequential(perceptron([dim_in, dim, dim]), nn.ReLU())
        self.whole = perceptron([dim, dim, 2 * dim])
        self.head = perceptron([(3 if per_point else 2) * dim, dim, dim, dim_out])

    def forward(
        self, x: Float[Tensor, "batch n dim_in"], present: Bool[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch *rest"]:
        """Per point or per cloud; points that are not `present` do not enter the maximum."""
        _check_cloud(x, self.dim_in)
        local = self.local(x)
        parts = self.whole(local)
        whole = _highest(parts, 1, None if present is None else present[..., None])
        if not self.per_point:
            return self.head(whole)
        return self.head(torch.cat([local, whole[:, None].expand(-1, x.shape[1], -1)], -1))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random clouds of 16 points."""
        return (torch.randn(batch, 16, self.dim_in),)


class FAPointNet(FrameAveraged):
    """`PointNet` averaged over frames; per point a vector that turns with the cloud, or an invariant per cloud.

    Args:
        dim_in: dimensions of space.
        dim_out: outputs; per point `dim_in`.
        dim, per_point: see `PointNet`.
        group, samples, on_degenerate: see `FrameAveraged`.

    Raises:
        ValueError: per point, another `dim_out` than `dim_in`.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        dim: int = 64,
        per_point: bool = True,
        group: str = "E(d)",
        samples: int | None = None,
        on_degenerate: str = "flag",
    ):
        if per_point and dim_out != dim_in:
            raise ValueError(f"dim_out={dim_out}: a vector per point has the {dim_in} components of dim_in")
        net = PointNet(dim_in, dim_out, dim=dim, per_point=per_point)
        if per_point:
            _without_bias(net.head[-1])
        super().__init__(
            net,
            group,
            output="vector" if per_point else "invariant",
            samples=samples,
            on_degenerate=on_degenerate,
        )


class DGCNN(nn.Module):
    """Edge convolutions over nearest neighbours in the cloud (Wang et al., 2019), without batch norm.

    h_i <- max over the neighbours j of ReLU(W [h_i, h_j - h_i] + b); the neighbours are those of the points, in all
    layers (the published network looks for them anew among the features). Per point, from all layers' features.

    Args:
        dim_in: coordinates of a point.
        dim_out: outputs per point.
        dim: width.
        depth: edge convolutions.
        neighbours: of a point, itself left out; a smaller cloud has all of them.
    """

    def __init__(self, dim_in: int, dim_out: int, *, dim: int = 64, depth: int = 3, neighbours: int = 16):
        super().__init__()
        check_sizes(dim_in=dim_in, dim_out=dim_out, dim=dim, depth=depth, neighbours=neighbours)
        self.dim_in, self.neighbours = dim_in, neighbours
        self.layers = nn.ModuleList(EdgeConvolution(dim if i else dim_in, dim) for i in range(depth))
        self.head = perceptron([depth * dim, dim, dim_out])

    def forward(
        self, x: Float[Tensor, "batch n dim_in"], present: Bool[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch n dim_out"]:
        """Per point; points that are not `present` are no neighbours."""
        _check_cloud(x, self.dim_in)
        near = self._nearest(x, present)
        known = None if present is None else _rows(present, near)[..., None]
        h, features = x, []
        for layer in self.layers:
            h = layer(h, near, known)
            features.append(h)
        return self.head(torch.cat(features, -1))

    def _nearest(self, x: Tensor, present: Tensor | None) -> Tensor:
        """(batch, n, neighbours)."""
        points = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        distances = (points[:, :, None] - points[:, None]).square().sum(-1)
        own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        out = own if present is None else own | ~present[:, None]
        count = max(1, min(self.neighbours, x.shape[1] - 1))
        return distances.masked_fill(out, torch.inf).topk(count, largest=False).indices

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random clouds of 16 points."""
        return (torch.randn(batch, 16, self.dim_in),)


class EdgeConvolution(nn.Module):
    """max over j of ReLU(W [h_i, h_j - h_i] + b), without the concatenation: (W_1 - W_2) h_i + W_2 h_j + b."""

    def __init__(self, dim_in: int, dim: int):
        super().__init__()
        whole = nn.Linear(2 * dim_in, dim)
        self.weight, self.bias = whole.weight, whole.bias

    def forward(
        self, h: Tensor, near: Int64[Tensor, "batch n neighbours"], known: Tensor | None
    ) -> Float[Tensor, "batch n dim"]:
        """Of features (batch, n, dim_in), over the neighbours that are known."""
        own, other = self.weight.chunk(2, 1)
        sent, kept = nn.functional.linear(h, other), nn.functional.linear(h, own - other, self.bias)
        return _highest((kept[:, :, None] + _rows(sent, near)).relu(), 2, known)


class FAGNN(ParticleModel):
    """Message passing over the frames of a system and of its latent vectors; equivariant under `group` in 3-D.

    The biases of the layers whose outputs are seen as vectors are not trained (they keep their initial values and
    count among the parameters): over the signs of a frame they cancel.

    Args:
        dim: H, a multiple of 3.
        depth: layers; `depth - 1` re-framings.
        group: `E(d)` (8 elements) or `SE(d)` (4).
        distances: give the messages the squared distance of the input positions beside q_i q_j.

    Raises:
        ValueError: a size below 1, `dim` not divisible by 3, another group; in `forward`, positions that are not
            three-dimensional.
    """

    def __init__(self, dim: int = 60, depth: int = 4, *, group: str = "E(d)", distances: bool = True):
        super().__init__()
        check_sizes(dim=dim, depth=depth)
        check_choice("group", group, ("E(d)", "SE(d)"))
        if dim % SPACE:
            raise ValueError(f"dim={dim}: must be a multiple of 3, it is seen as vectors")
        self.group, self.distances = group, distances
        self.encoder = nn.Linear(2 * SPACE, dim)
        self.layers = nn.ModuleList(MessageLayer(dim, 1 + distances) for _ in range(depth))
        self.decoder = perceptron([dim, dim, SPACE], nn.SiLU)
        for net in (*(layer.update for layer in self.layers[:-1]), self.decoder):  # what is seen as vectors
            _without_bias(net[-1])  # type: ignore[index,operator]

    def predict(self, pos: Tensor, vel: Tensor, charge: Tensor, graph: Graph) -> Tensor:
        """Later positions, in the shape of `pos`."""
        if pos.shape[-1] != SPACE:
            raise ValueError(f"positions must have 3 coordinates, got {pos.shape[-1]}")
        attributes = self._attributes(pos, charge, graph).unsqueeze(-2)
        centre = graph.centre(pos)
        points, velocities = (pos - centre).unsqueeze(-2), vel.unsqueeze(-2)
        frames = self._frames(points, graph)
        h = self.encoder(torch.cat([_seen(points, frames), _seen(velocities, frames)], -1).flatten(-2))
        for number, layer in enumerate(self.layers):
            if number:
                latent = _unseen(h.unflatten(-1, (-1, SPACE)), frames)
                latent = latent - graph.centre(latent.mean(-2, keepdim=True))
                frames = self._frames(latent, graph)
                h = _seen(latent, frames).flatten(-2)
            h = layer(h, attributes, graph)
        return _unseen(self.decoder(h).unsqueeze(-2), frames).squeeze(-2) + centre

    def _attributes(self, pos: Tensor, charge: Tensor, graph: Graph) -> Tensor:
        """q_i q_j and the squared distance, (pairs, 1 or 2)."""
        found = graph.receivers(charge) * graph.senders(charge)
        if not self.distances:
            return found
        apart = graph.receivers(pos) - graph.senders(pos)
        return torch.cat([found, apart.square().sum(-1, keepdim=True)], -1)

    def _frames(self, points: Tensor, graph: Graph) -> Frames:
        """Of the centred points (nodes, points of a node, 3) of each system; constants in the backward pass."""
        x = points.detach().to(torch.promote_types(points.dtype, torch.float32))
        with without_autocast(x.device):
            found = covariance_frames(graph.centre(x.mT @ x) / x.shape[-2], self.group)
        return found._replace(axes=found.axes.to(points))


class MessageLayer(nn.Module):
    """h_i + phi_h([h_i, sum_{j != i} phi_e([h_i, h_j, e_ij])]), SiLU, as in the GNN of the EGNN paper.

    Tensors may have further axes between those of nodes or pairs and the last one.
    """

    def __init__(self, dim: int, dim_pair: int):
        super().__init__()
        self.pairs = PairLinear(dim, dim_pair, dim)
        self.messages = nn.Linear(dim, dim)
        self.update = perceptron([2 * dim, dim, dim], nn.SiLU)

    def forward(self, h: Tensor, e: Tensor, graph: Graph) -> Tensor:
        """Node tensors (..., dim) to node tensors (..., dim)."""
        silu = nn.functional.silu
        m = silu(self.messages(silu(self.pairs(h, e, graph))))
        return h + self.update(torch.cat([h, graph.sum(m)], -1))


def _seen(vectors: Tensor, frames: Frames) -> Tensor:
    """Vectors (.., C, 3) from every element of the frame: (.., elements, C, 3)."""
    with without_autocast(vectors.device):
        return vectors.unsqueeze(-3) @ frames.axes


def _unseen(vectors: Tensor, frames: Frames) -> Tensor:
    """The mean over the elements of what (.., elements, C, 3) are in space: (.., C, 3)."""
    with without_autocast(vectors.device):
        return (vectors.to(frames.axes) @ frames.axes.mT).mean(-3)


def _rows(x: Tensor, near: Tensor) -> Tensor:
    """The rows (batch, n, neighbours, ...) of x (batch, n, ...)."""
    return x[torch.arange(len(x), device=x.device)[:, None, None], near]


def _without_bias(linear: nn.Module) -> None:
    """Takes the bias of a layer out of the training: the mean over the signs of a frame cancels it."""
    linear.bias.requires_grad_(False)  # type: ignore[union-attr,operator]


def _highest(x: Tensor, axis: int, known: Tensor | None) -> Tensor:
    """The maximum along an axis over what is known; 0 where nothing is."""
    if known is None:
        return x.amax(axis)
    found = x.masked_fill(~known, torch.finfo(x.dtype).min).amax(axis)
    return torch.where(known.any(axis), found, 0)


def _check_cloud(x: Tensor, dim_in: int) -> None:
    if x.shape[-1] != dim_in or not x.shape[1]:
        raise ValueError(f"clouds must be (batch, n >= 1, {dim_in}), got {tuple(x.shape)}")
    check_finite(x=x)
