"""Messages between every pair of the nodes of small systems, without the tensors of all pairs that autograd keeps.

With z_ij = received_i + sent_j + P e_ij (the first linear map of a network on [h_i, h_j, e_ij], split):

    m_ij = silu(W silu(z_ij) + b)              messages, summed over the senders j != i
    c_ij = u . silu(V m_ij + a)                a number per pair, where there is a head (V, a, u)
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ROWS = 1024  # pairs at a time: their hidden features stay in a core's cache
silu, silu_backward = torch.ops.aten.silu, torch.ops.aten.silu_backward


def pair_messages(
    received: Float[Tensor, "systems nodes dim"],
    sent: Float[Tensor, "systems nodes dim"],
    e: Float[Tensor, "systems nodes nodes dim_pair"],
    of_pair: Float[Tensor, "dim dim_pair"],
    second: Float[Tensor, "dim dim"],
    second_bias: Float[Tensor, " dim"],
    head: Sequence[Tensor] = (),
) -> tuple[Float[Tensor, "systems nodes dim"], Float[Tensor, "systems nodes nodes"]]:
    """The sum of the messages to every node, and c (zeros without a head); c_ii = 0.

    For the CPU: systems are taken in blocks whose hidden features stay in the cache, a node's pair with itself is
    never computed, and of every pair only W silu(z) + b and V m + a are kept for the derivative. It is
    differentiable any number of times; from the second on by plain operations.

    Args:
        received: axis 1 of pairs is the receiver i.
        sent: axis 2 of pairs is the sender j.
        e: numbers of every pair, few.
        of_pair: P.
        second: W.
        second_bias: b.
        head: (V, a, u) of shapes (dim, dim), (dim,), (dim,), or nothing.
    """
    arguments = (received, sent, e, of_pair, second, second_bias, *head)
    if received.shape[1] == 1 or not len(received):
        return plain_pair_messages(*arguments)
    kept = torch.is_grad_enabled() and any(t.requires_grad for t in arguments)
    return _PairMessages.apply(kept, *arguments)  # type: ignore[return-value]


def plain_pair_messages(
    received: Tensor,
    sent: Tensor,
    e: Tensor,
    of_pair: Tensor,
    second: Tensor,
    second_bias: Tensor,
    *head: Tensor,
) -> tuple[Tensor, Tensor]:
    """What `pair_messages` gives, by operations on the tensors of all pairs."""
    nodes = received.shape[1]
    others = 1 - torch.eye(nodes, dtype=received.dtype, device=received.device)
    z = received[:, :, None] + sent[:, None] + F.linear(e, of_pair)
    m = F.silu(F.linear(F.silu(z), second, second_bias))
    total = (m * others[:, :, None]).sum(2)
    if not head:
        return total, e.new_zeros(len(e), nodes, nodes)
    return total, F.silu(F.linear(m, *head[:2])) @ head[2] * others


class _PairMessages(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kept: bool, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        received, *_, second, second_bias = arguments[:6]
        head = arguments[6:]
        systems, nodes, dim = received.shape
        blocks = _Blocks(*arguments[:4])
        rows = systems * blocks.pairs
        z, s = received.new_empty(2, blocks.rows, dim).unbind()
        hidden = [received.new_empty(rows, dim) if kept else z for _ in range(1 + bool(head))]
        total, c = received.new_empty(systems, nodes, dim), received.new_zeros(rows)
        for of_system, of_row in blocks:
            z_, s_ = (t[: of_row.stop - of_row.start] for t in (z, s))
            z2, *z3 = (t[of_row] if kept else t[: len(z_)] for t in hidden)
            silu.out(blocks.first(of_system, of_row, z_), out=s_)
            silu.out(torch.addmm(second_bias, s_, second.mT, out=z2), out=s_)
            torch.sum(s_.view(-1, nodes, nodes - 1, dim), 2, out=total[of_system])
            if head:
                silu.out(torch.addmm(head[1], s_, head[0].mT, out=z3[0]), out=s_)
                torch.mv(s_, head[2], out=c[of_row])
        if kept:
            ctx.save_for_backward(*arguments, *hidden)
            ctx.count = len(arguments)
            ctx.set_materialize_grads(False)
        return total, blocks.dense(c.unsqueeze(0)).squeeze(-1)

    @staticmethod
    def backward(ctx, grad_total: Tensor | None, grad_c: Tensor | None) -> tuple[Tensor | None, ...]:
        arguments, hidden = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        if torch.is_grad_enabled():
            return None, *_differentiable(arguments, grad_total, grad_c)
        gradients = _Gradients(arguments, hidden, grad_total, grad_c)
        for of_system, of_row in gradients.blocks:
            gradients.add(of_system, of_row)
        return None, *gradients.result()


class _Blocks:
    """Blocks of systems, and the first hidden features of their pairs.

    The pairs of a node i are in the order of the senders i + 1, i + 2, .. (around), so that `sent`, written twice in
    a row, holds them as a view.
    """

    def __init__(self, received: Tensor, sent: Tensor, e: Tensor, of_pair: Tensor):
        self.systems, self.nodes, self.dim = received.shape
        self.pairs = self.nodes * (self.nodes - 1)
        self.step = min(self.systems, max(1, ROWS // self.pairs))
        self.rows = self.step * self.pairs
        node = torch.arange(self.nodes, device=received.device).unsqueeze(1)
        self.index = (node * self.nodes + (node + 1 + node[:-1].mT) % self.nodes).flatten()
        self.received, self.twice = received, torch.cat([sent, sent[:, :-1]], 1)
        self.e, self.of_pair = self.listed(e), of_pair

    def __iter__(self):
        """Slices of the systems and of the rows of their pairs."""
        for start in range(0, self.systems, self.step):
            stop = min(start + self.step, self.systems)
            yield slice(start, stop), slice(start * self.pairs, stop * self.pairs)

    def first(self, of_system: slice, of_row: slice, out: Tensor) -> Tensor:
        """The features z of a block, into `out`."""
        twice = self.twice[of_system, 1:]
        system, node, channel = twice.stride()
        shape = (len(twice), self.nodes, self.nodes - 1, self.dim)
        sent = twice.as_strided(shape, (system, node, node, channel))
        torch.add(self.received[of_system].unsqueeze(2), sent, out=out.view(shape))
        return out.addmm_(self.e[:, of_row].mT, self.of_pair.mT)

    def listed(self, pairs: Tensor) -> Tensor:
        """(systems, nodes, nodes, k) to (k, rows)."""
        return pairs.flatten(1, 2).index_select(1, self.index).flatten(0, 1).mT.contiguous()

    def dense(self, listed: Tensor) -> Tensor:
        """(k, rows) to (systems, nodes, nodes, k), with zeros for a node's pair with itself."""
        k = len(listed)
        pairs = listed.new_zeros(self.systems, self.nodes**2, k)
        pairs.index_copy_(1, self.index, listed.mT.reshape(self.systems, self.pairs, k))
        return pairs.unflatten(1, (self.nodes, self.nodes))


class _Gradients:
    """The gradients of all arguments, which `add` completes block by block."""

    def __init__(
        self,
        arguments: Sequence[Tensor],
        hidden: Sequence[Tensor],
        grad_total: Tensor | None,
        grad_c: Tensor | None,
    ):
        received, sent, e, self.of_pair, self.second, _, *self.head = arguments
        self.blocks, self.hidden = _Blocks(received, sent, e, self.of_pair), hidden
        self.total = grad_total
        self.c = None if grad_c is None or not self.head else self.blocks.listed(grad_c.unsqueeze(-1))[0]
        systems, nodes, dim = received.shape
        self.received = received.new_empty(received.shape)
        self.twice = received.new_zeros(systems, 2 * nodes - 1, dim)
        self.e = torch.empty_like(self.blocks.e)
        self.weights = [torch.zeros_like(t) for t in arguments[3:]]
        self.buffers = received.new_empty(4, self.blocks.rows, dim).unbind()

    def add(self, of_system: slice, of_row: slice) -> None:
        z, s, g, g2 = (t[: of_row.stop - of_row.start] for t in self.buffers)
        z2 = self.hidden[0][of_row]
        self._of_messages(of_system, of_row, s, g, g2)
        silu_backward(g2, z2, grad_input=g2)
        silu.out(self.blocks.first(of_system, of_row, z), out=s)
        self.weights[1].addmm_(g2.mT, s)
        self.weights[2].add_(g2.sum(0))
        silu_backward(torch.mm(g2, self.second, out=g), z, grad_input=g)
        for k, (e, column) in enumerate(zip(self.blocks.e[:, of_row], self.of_pair.mT, strict=True)):
            self.weights[0][:, k] += torch.mv(g.mT, e)  # products with so few columns are slow as one
            torch.mv(g, column.contiguous(), out=self.e[k, of_row])
        self._of_nodes(of_system, g)

    def _of_messages(self, of_system: slice, of_row: slice, s: Tensor, g: Tensor, g2: Tensor) -> None:
        """The gradient by the messages into `g2`, with those of the head's weights; `s` is overwritten with m."""
        wide = g2.view(-1, self.blocks.nodes, self.blocks.nodes - 1, self.blocks.dim)
        if self.total is None:
            wide.zero_()
        else:
            wide.copy_(self.total[of_system].unsqueeze(2))
        if self.c is None:
            return
        z3, c = self.hidden[1][of_row], self.c[of_row]
        self.weights[5].addmv_(silu.out(z3, out=s).mT, c)
        silu_backward(torch.mul(c.unsqueeze(1), self.head[2], out=g), z3, grad_input=g)
        self.weights[3].addmm_(g.mT, silu.out(self.hidden[0][of_row], out=s))
        self.weights[4].add_(g.sum(0))
        g2.addmm_(g, self.head[0])

    def _of_nodes(self, of_system: slice, g: Tensor) -> None:
        """Sums the gradient of z over the senders, and over the receivers."""
        nodes = self.blocks.nodes
        wide = g.view(-1, nodes, nodes - 1, self.blocks.dim)
        torch.sum(wide, 2, out=self.received[of_system])
        for k in range(nodes - 1):
            self.twice[of_system, k + 1 : k + 1 + nodes] += wide[:, :, k]

    def result(self) -> tuple[Tensor, ...]:
        nodes = self.blocks.nodes
        sent = self.twice[:, :nodes]
        sent[:, :-1] += self.twice[:, nodes:]
        return self.received, sent, self.blocks.dense(self.e), *self.weights


def _differentiable(
    arguments: Sequence[Tensor], grad_total: Tensor | None, grad_c: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients as functions of the arguments, which may depend on one another: so by aliases."""
    aliases = [t.view_as(t) for t in arguments]
    outputs = plain_pair_messages(*aliases)
    given = [
        (y, g)
        for y, g in zip(outputs, (grad_total, grad_c), strict=True)
        if g is not None and y.requires_grad
    ]
    wanted = [t for t in aliases if t.requires_grad]
    values, grads = [y for y, _ in given], [g for _, g in given]
    found = iter(torch.autograd.grad(values, wanted, grads, create_graph=True, allow_unused=True))
    return tuple(next(found) if t.requires_grad else None for t in aliases)
