"""The Transformer encoder: the baseline of the state-space papers.

Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, "Attention Is All You Need", NeurIPS
2017, arXiv 1706.03762. Per head of width d, with queries, keys and values linear in the input,

    y = W concat_h( softmax(q_h k_h^T / sqrt(d)) v_h )                                         (equations 1, 2)
    block:  x = x + dropout(attention(norm x)),   x = x + dropout(W2 dropout(gelu(W1 norm x)))

What differs here: positions enter by rotating queries and keys (Su et al. 2021, arXiv 2104.09864) instead of
adding a code to the input. Position p turns the pair (2i, 2i+1) by `p rate 10000^(-2i/d)`: a product of a
query and a key depends on the distance only, no length is the longest, and `rate` has the meaning that it has
for a state-space layer. The block is pre-norm with GELU, the form that trains without long warm-up.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .block import norm_maker


class AttentionState(NamedTuple):
    """Keys (rotated) and values of the positions so far; it grows with every step, unlike an SSM's state."""

    keys: Float[Tensor, "batch heads length width"]
    values: Float[Tensor, "batch heads length width"]
    position: float


class SelfAttention(nn.Module):
    """Multi-head self-attention with rotary positions: (batch, length, dim) in and out.

    Args:
        dim: number of channels.
        heads: must divide `dim` into an even width.
        causal: a position sees itself and what came before; only then there are states and steps.
    """

    def __init__(self, dim: int, *, heads: int = 4, causal: bool = False):
        super().__init__()
        if dim < 1 or heads < 1 or dim % heads or dim // heads % 2:
            raise ValueError(f"heads is {heads}, it must divide dim = {dim} into an even number of channels")
        self.dim, self.heads, self.causal = dim, heads, causal
        self.project = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(
        self,
        u: Float[Tensor, "batch length dim"],
        *,
        mask: Float[Tensor, "batch length 1"] | None = None,
        state: AttentionState | None = None,
        rate: float = 1.0,
        return_state: bool = False,
    ) -> Float[Tensor, "batch length dim"] | tuple[Tensor, AttentionState]:
        """Attention over the whole sequence.

        Args:
            mask: 1 at valid positions, 0 in the padding, which no valid position attends to.
            state: keys and values of what came before (causal only).
            rate: distance of neighbouring positions.
            return_state: return `(y, state)` to go on with.
        """
        if state is not None or return_state:
            self._check_causal()
        y, state = self._attend(u, mask, self.initial_state(len(u)) if state is None else state, rate)
        return (y, state) if return_state else y

    def _attend(
        self, u: Tensor, mask: Tensor | None, past: AttentionState, rate: float
    ) -> tuple[Tensor, AttentionState]:
        positions = past.position + rate * torch.arange(u.shape[1], device=u.device, dtype=torch.float64)
        query, key, value = self.project(u).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = rotate(query, positions), rotate(key, positions)
        key, value = torch.cat([past.keys, key], 2), torch.cat([past.values, value], 2)
        y = F.scaled_dot_product_attention(query, key, value, self._allowed(query, key, mask))
        state = AttentionState(key, value, past.position + rate * u.shape[1])
        return self.output(y.transpose(1, 2).flatten(2)), state

    def _allowed(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor | None:
        """Which key a query may see, (batch or 1, 1, queries, keys)."""
        seen, total = query.shape[2], key.shape[2]
        allowed = None
        if self.causal:
            allowed = torch.ones(seen, total, dtype=torch.bool, device=query.device).tril(total - seen)[
                None, None
            ]
        if mask is not None:
            valid = F.pad(mask[..., 0] > 0, (total - seen, 0), value=True)[:, None, None]
            allowed = valid if allowed is None else allowed & valid
        return allowed

    def initial_state(self, batch: int) -> AttentionState:
        """Nothing seen yet."""
        empty = self.project.weight.new_zeros(batch, self.heads, 0, self.dim // self.heads)
        return AttentionState(empty, empty, 0.0)

    def step(
        self, u_t: Float[Tensor, "batch dim"], state: AttentionState, rate: float = 1.0
    ) -> tuple[Float[Tensor, "batch dim"], AttentionState]:
        """One position; equal to `forward` for causal attention. Cost and state grow with the position."""
        self._check_causal()
        y, state = self._attend(u_t.unsqueeze(1), None, state, rate)
        return y.squeeze(1), state

    def _check_causal(self) -> None:
        if not self.causal:
            raise ValueError("causal is False: states and steps need causal attention")

    def extra_repr(self) -> str:
        return f"{self.dim}, heads={self.heads}, causal={self.causal}"


def rotate(
    x: Float[Tensor, "batch heads length width"], positions: Float[Tensor, " length"]
) -> Float[Tensor, "batch heads length width"]:
    """Turns the pair (2i, 2i+1) at position p by the angle `p 10000^(-2i/width)`; angles are in float64."""
    width = x.shape[-1]
    index = torch.arange(0, width, 2, device=x.device, dtype=torch.float64)
    angle = positions[:, None] * 10000.0 ** (-index / width)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward network, each with a residual: (batch, length, dim) in and out.

    Args:
        layer: a `SelfAttention`.
        dim: number of channels.
        norm: `layer`, `batch`, or what makes a norm from `dim`.
        expansion: hidden width of the feed-forward network over `dim`.
        dropout: rate after attention, after GELU and after the feed-forward network.
    """

    def __init__(
        self,
        layer: nn.Module,
        dim: int,
        *,
        norm: str = "layer",
        expansion: float = 4.0,
        dropout: float = 0.0,
    ):
        super().__init__()
        if not expansion > 0:
            raise ValueError(f"expansion is {expansion}, it must be > 0")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, it must lie in [0, 1)")
        self.dim, self._make_norm, hidden = dim, norm_maker(norm), max(1, round(expansion * dim))
        self.layer = layer
        self.norm, self.norm_ff = self._make_norm(dim), self._make_norm(dim)
        self.widen, self.narrow = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def output_norm(self) -> nn.Module:
        """The norm after the last block of a stack."""
        return self._make_norm(self.dim)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        mask: Float[Tensor, "batch length 1"] | None = None,
        *,
        rate: float = 1.0,
    ) -> Float[Tensor, "batch length dim"]:
        """`mask` is 1 at valid positions and 0 in the padding."""
        x = x + self.dropout(self.layer(self.norm(x, mask), mask=mask, rate=rate))
        return x + self._feed_forward(self.norm_ff(x, mask))

    def _feed_forward(self, z: Tensor) -> Tensor:
        return self.dropout(self.narrow(self.dropout(F.gelu(self.widen(z)))))

    def initial_state(self, batch: int) -> AttentionState:
        """The layer's empty state."""
        return self.layer.initial_state(batch)  # type: ignore[operator]

    def step(
        self, x_t: Float[Tensor, "batch dim"], state: AttentionState, rate: float = 1.0
    ) -> tuple[Float[Tensor, "batch dim"], AttentionState]:
        """One position of a causal block, `(output, new state)`; equal to `forward` in eval mode."""
        if self.training:
            raise RuntimeError("TransformerBlock.step is for inference: call eval() on the model first")
        x = x_t.unsqueeze(1)
        y, state = self.layer.step(self.norm(x).squeeze(1), state, rate)  # type: ignore[operator]
        x = x + y.unsqueeze(1)
        return (x + self._feed_forward(self.norm_ff(x))).squeeze(1), state
