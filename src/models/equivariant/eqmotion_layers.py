"""The layers of EqMotion; see `eqmotion` for the equations.

All tensors lead with an axis of heads, which has length 1 where one thing is shared by all of them:

    h   (heads, batch, agents, F)           invariant features
    G   (heads, batch, agents, d, C)        C vectors of every agent
    e   (heads, batch, agents, others, P)   pairs: `other` k of agent i is agent i + 1 + k modulo N

An agent is no pair with itself: one agent alone has no pairs, and all below holds for it with empty tensors.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from .graph import trailing


class Agents:
    """Which agents of every system there are.

    Args:
        present: (batch, agents); None: all of them.

    Raises:
        ValueError: a system without agents (where it can be asked without waiting for the device).
    """

    def __init__(self, present: Bool[Tensor, "batch agents"] | None = None):
        self.present = present
        if present is None:
            return
        if not torch.compiler.is_compiling() and present.device.type == "cpu":
            empty = (~present.any(1)).nonzero().flatten().tolist()
            if empty:
                raise ValueError(f"present marks no agent of system {empty[0]}: there is nobody to predict")
        self.count = present.sum(1).clamp(min=1)

    def fill(self, x: Float[Tensor, "batch agents *rest"]) -> Float[Tensor, "batch agents *rest"]:
        """Zeros in the place of what absent agents hold, whatever that is."""
        return x if self.present is None else torch.where(trailing(self.present, x), x, 0)

    def mean(self, x: Float[Tensor, "*heads batch agents d c"]) -> Float[Tensor, "*heads batch 1 d 1"]:
        """The mean over the agents and the last axis."""
        if self.present is None:
            return x.mean((-3, -1), keepdim=True)
        weights = self.present.to(x.dtype) / (self.count[:, None] * x.shape[-1]).to(x.dtype)
        return (x * weights[..., None, None]).sum((-3, -1), keepdim=True)

    def others(self, x: Shaped[Tensor, "heads batch agents *rest"]) -> Tensor:
        """The tensors of the others of every agent, (heads, batch, agents, others, *rest)."""
        n = x.shape[2]
        step = torch.arange(n, device=x.device)
        numbers = (step[:, None] + step[1:]) % n
        return x.index_select(2, numbers.flatten()).unflatten(2, (n, n - 1))

    def sum(self, e: Float[Tensor, "heads batch agents others *rest"]) -> Tensor:
        """The sum over the others that are present, (heads, batch, agents, *rest)."""
        if self.present is not None:
            e = e * trailing(self.others(self.present[None]).to(e.dtype), e)
        return e.sum(3)


class HeadLinear(nn.Module):
    """One linear map per head, each initialised as `nn.Linear`: y^h = W^h x^h + b^h.

    Args:
        heads: how many maps.
        dim_in, dim_out: widths.
        bias: whether there is b.
    """

    def __init__(self, heads: int, dim_in: int, dim_out: int, bias: bool = True):
        super().__init__()
        bound = 1 / math.sqrt(dim_in)
        self.weight = nn.Parameter(torch.empty(heads, dim_out, dim_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(heads, dim_out).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Float[Tensor, "heads_in *rows dim_in"]) -> Float[Tensor, "heads *rows dim_out"]:
        """`x` of all heads, or of one, which all share."""
        return head_linear(x, self.weight, self.bias)


def head_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`W^h x^h + b^h` for x (heads or 1, *rows, dim_in) and W (heads, dim_out, dim_in)."""
    if len(weight) == 1:
        return F.linear(x, weight[0], None if bias is None else bias[0])
    rows = x.shape[1:-1]
    flat = x.flatten(1, -2).expand(len(weight), -1, -1)
    y = flat @ weight.mT if bias is None else torch.baddbmm(bias[:, None], flat, weight.mT)
    return y.unflatten(1, rows)


class PairHeadLinear(nn.Module):
    """One linear map of [h_i, h_j, e_ij] per head: a product per agent for h_i and h_j in place of one per pair.

    Args:
        heads: how many maps; h and e have one head, which they share.
        dim, dim_pair: widths of h and e.
        dim_out: width of the output.
    """

    def __init__(self, heads: int, dim: int, dim_pair: int, dim_out: int):
        super().__init__()
        whole = HeadLinear(heads, 2 * dim + dim_pair, dim_out)
        self.parts = dim, dim, dim_pair
        self.weight, self.bias = whole.weight, whole.bias

    def forward(self, h: Tensor, e: Tensor, agents: Agents) -> Float[Tensor, "heads batch agents others out"]:
        receiver, sender, pair = self.weight.split(self.parts, dim=2)
        own = head_linear(h, receiver, self.bias)
        others = agents.others(head_linear(h, sender, None))
        return own[:, :, :, None] + others + head_linear(e, pair, None)


class PairMLP(nn.Module):
    """`W_2 silu(W_1 [h_i, h_j, e_ij] + b_1) + b_2` of every pair, silu after the last one too where it is wanted.

    Args:
        heads: how many such networks; h and e have one head, which they share.
        dim: width of h, and of the hidden layer.
        dim_pair, dim_out: widths of e and of the output.
        activation: the last silu.
    """

    def __init__(self, heads: int, dim: int, dim_pair: int, dim_out: int, activation: bool = True):
        super().__init__()
        self.first = PairHeadLinear(heads, dim, dim_pair, dim)
        self.second = HeadLinear(heads, dim, dim_out)
        self.activation = activation

    def forward(self, h: Tensor, e: Tensor, agents: Agents) -> Float[Tensor, "heads batch agents others out"]:
        out = self.second(F.silu(self.first(h, e, agents)))
        return F.silu(out) if self.activation else out


def mlp(heads: int, dim_in: int, dim: int, dim_out: int, activation: bool = True) -> nn.Sequential:
    """`W_2 silu(W_1 x + b_1) + b_2` per head, silu after the last one too where it is wanted."""
    last = [nn.SiLU()] if activation else []
    return nn.Sequential(HeadLinear(heads, dim_in, dim), nn.SiLU(), HeadLinear(heads, dim, dim_out), *last)


def differences(g: Float[Tensor, "heads batch agents d c"], agents: Agents) -> Tensor:
    """G_i - G_j of every pair, (heads, batch, agents, others, d, c)."""
    return g[:, :, :, None] - agents.others(g)


def lengths(d: Float[Tensor, "*rows d c"]) -> Float[Tensor, "*rows c"]:
    """Norms over the second last axis, at least 1e-19 in float32; the gradient of a zero vector is 0."""
    return d.square().sum(-2).clamp_min(torch.finfo(d.dtype).tiny).sqrt()


def vector_relu(q: Float[Tensor, "*rows d c"], k: Float[Tensor, "*rows d c"]) -> Float[Tensor, "*rows d c"]:
    """q where q.k >= 0, else `q - (q.k) / (|k|^2 + 1e-4) k`, for each of the c vectors (Deng et al. 2021)."""
    against = F.relu(-(q * k).sum(-2, keepdim=True))
    return q + against / (k.square().sum(-2, keepdim=True) + 1e-4) * k


class Reasoning(nn.Module):
    """The probabilities of the K categories of every pair: step 4 of `eqmotion`.

    Args:
        dim, channels: F and C.
        categories: K.
        activation: silu of the logits.
    """

    def __init__(self, dim: int, channels: int, categories: int, activation: bool):
        super().__init__()
        self.distances = mlp(1, 2 * channels, dim, 2 * channels)
        self.edges = PairMLP(1, dim, 2 * channels, dim)
        self.nodes = mlp(1, 2 * dim, dim, dim)
        self.logits = PairMLP(1, dim, 2 * channels, categories, activation)

    def forward(self, h: Tensor, g: Tensor, v: Tensor, agents: Agents) -> Tensor:
        """(1, batch, agents, others, K)."""
        delta = self.distances(lengths(differences(torch.cat([g, v], dim=-1), agents)))
        received = agents.sum(self.edges(h, delta, agents))
        nodes = self.nodes(torch.cat([h, received], dim=-1))
        return self.logits(nodes, delta, agents).softmax(-1)


class Exchange(nn.Module):
    """The weights `w_ij = MLP(sum_k c_ijk MLP_k([h_i, h_j, |D_ij|]))` of the exchange: step 5c of `eqmotion`.

    Args:
        heads: how many such networks.
        dim, channels: F and C.
        categories: K.
    """

    def __init__(self, heads: int, dim: int, channels: int, categories: int):
        super().__init__()
        self.shape = heads, categories
        self.of_category = PairMLP(heads * categories, dim, channels, channels)
        self.mix = mlp(heads, channels, channels, channels)

    def forward(self, h: Tensor, distances: Tensor, c: Tensor, agents: Agents) -> Tensor:
        """(heads, batch, agents, others, C)."""
        messages = self.of_category(h, distances, agents).unflatten(0, self.shape)
        return self.mix((messages * c.movedim(-1, 1).unsqueeze(-1)).sum(1))


class FeatureLayer(nn.Module):
    """Step 5 of `eqmotion`: features (h, G) to (h, G), of one head or, from shared features, of several.

    Args:
        dim, channels: F and C.
        categories: K.
        heads: how many layers with weights of their own.
        last: no later layer reads h: neither its update nor what only that needs is built.
    """

    def __init__(self, dim: int, channels: int, categories: int, *, heads: int = 1, last: bool = False):
        super().__init__()
        self.gate = mlp(heads, dim, dim, channels, activation=False)
        self.exchange = Exchange(heads, dim, channels, categories)
        self.velocity = HeadLinear(heads, channels, channels, bias=False)
        self.directions = HeadLinear(heads, channels, 2 * channels, bias=False)
        self.edges = None if last else PairMLP(heads, dim, channels, dim)
        self.update = None if last else mlp(heads, 2 * dim, dim, dim, activation=False)

    def forward(self, h: Tensor, g: Tensor, v: Tensor, c: Tensor, agents: Agents) -> tuple[Tensor, Tensor]:
        """h (1, batch, agents, F), G and V (1, batch, agents, d, C), categories c (1, batch, agents, others, K)."""
        apart = differences(g, agents)
        distances = lengths(apart)
        exchanged = agents.sum(self.exchange(h, distances, c, agents).unsqueeze(-2) * apart)
        gated = g + self.gate(h).unsqueeze(-2) * (g - agents.mean(g))
        moved = self._bend(gated + exchanged + self.velocity(v), agents)
        if self.edges is None or self.update is None:
            return h, moved
        received = agents.sum(self.edges(h, distances, agents))
        return h + self.update(torch.cat([h, received], dim=-1)), moved

    def _bend(self, g: Tensor, agents: Agents) -> Tensor:
        """The nonlinearity of vectors, about their mean."""
        mean = agents.mean(g)
        return vector_relu(*self.directions(g - mean).chunk(2, dim=-1)) + mean
