"""The network on pairs of nodes that EGNN and the plain graph network share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops.messages import pair_messages
from ...ops.precision import autocasts
from .graph import DenseGraph, Graph


class Messages(nn.Module):
    """m_ij = phi_e([h_i, h_j, e_ij]), two linear maps with SiLU; its sum over senders; a number per pair phi_x(m_ij).

    The first map is split over h_i, h_j and e_ij: a product for every node and a small one for every pair. On the CPU
    all pairs of small systems go through `ops.messages`; the weights are parameters of this module for that.

    Args:
        dim: features of nodes and messages.
        dim_pair: numbers e_ij per pair.
        attention: multiplies m_ij by sigmoid(w . m_ij + b).
        head: whether there is phi_x: linear, SiLU, linear to one number without a bias, which starts near 0.
    """

    def __init__(self, dim: int, dim_pair: int, *, attention: bool = False, head: bool = False):
        super().__init__()
        self.widths = [dim, dim, dim_pair]
        self.first, self.first_bias = _affine(sum(self.widths), dim)
        self.second, self.second_bias = _affine(dim, dim)
        self.attention = nn.Linear(dim, 1) if attention else None
        self.head, self.head_bias = _affine(dim, dim) if head else (None, None)
        self.last = nn.Parameter(_last(dim, False).weight.detach()[0]) if head else None

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """The biases are `no_decay`."""
        names = ("first_bias", "second_bias", "head_bias")
        return {name: ("no_decay",) for name in names if getattr(self, name) is not None}

    def forward(self, h: Tensor, e: Tensor, graph: Graph) -> tuple[Tensor, Tensor | None]:
        """Sums of messages (nodes, dim) and phi_x of every pair (pairs, 1), None without one."""
        of_receiver, of_sender, of_pair = self.first.split(self.widths, dim=1)
        received, sent = F.linear(h, of_receiver, self.first_bias), F.linear(h, of_sender)
        second = (self.second, self.second_bias)
        if self._fuses(h, e, graph):
            total, c = pair_messages(received, sent, e, of_pair, *second, self._head())
            return total, None if self.head is None else c.unsqueeze(-1)
        z = graph.receivers(received) + graph.senders(sent) + F.linear(e, of_pair)
        m = F.silu(F.linear(F.silu(z), *second))
        if self.attention is not None:
            m = m * self.attention(m).sigmoid()
        return graph.sum(m), self._numbers(m)

    def _fuses(self, h: Tensor, e: Tensor, graph: Graph) -> bool:
        plain = torch.compiler.is_compiling() or self.attention is not None or autocasts(h.device)
        dense = isinstance(graph, DenseGraph) and graph.present is None
        return dense and not plain and h.device.type == "cpu" and h.dtype == e.dtype == self.second.dtype

    def _head(self) -> tuple[Tensor, ...]:
        if self.head is None or self.head_bias is None or self.last is None:
            return ()
        return self.head, self.head_bias, self.last

    def _numbers(self, m: Tensor) -> Tensor | None:
        if not (head := self._head()):
            return None
        return F.linear(F.silu(F.linear(m, *head[:2])), head[2].unsqueeze(0))


def _affine(dim_in: int, dim_out: int) -> tuple[nn.Parameter, nn.Parameter]:
    """The weight and bias of a linear map at its usual start."""
    linear = nn.Linear(dim_in, dim_out)
    return nn.Parameter(linear.weight.detach()), nn.Parameter(linear.bias.detach())


def scalar_net(dim_in: int, dim: int, *, bias: bool = False) -> nn.Sequential:
    """Linear, SiLU, linear to one number; without a bias the last weight is Xavier-uniform of gain 0.001."""
    return nn.Sequential(nn.Linear(dim_in, dim), nn.SiLU(), _last(dim, bias))


def _last(dim: int, bias: bool) -> nn.Linear:
    last = nn.Linear(dim, 1, bias=bias)
    if not bias:
        nn.init.xavier_uniform_(last.weight, gain=0.001)
    return last


class FeatureUpdate(nn.Module):
    """h_i + phi_h([h_i, sum_j m_ij]), phi_h of two linear maps with SiLU between."""

    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 * dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, h: Tensor, total: Tensor) -> Tensor:
        """Features and sums of messages to features."""
        return h + self.net(torch.cat([h, total], -1))


def pair_distances(x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
    """x_i - x_j and |x_i - x_j|^2 (last axis 1) of every pair."""
    difference = graph.receivers(x) - graph.senders(x)
    return difference, difference.square().sum(-1, keepdim=True)


def pair_products(q: Tensor, graph: Graph) -> Tensor:
    """q_i q_j of every pair."""
    return graph.receivers(q) * graph.senders(q)
