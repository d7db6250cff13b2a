"""The residual block around a sequence layer, and the small modules that it is made of.

    z = x (post-norm) | norm(x) (pre-norm)
    y = layer(mask z), then the channel mixing of the table
    x = x + dropout(y), then norm(x) in the post-norm case

| activation | channel mixing; g = GELU, s = sigmoid, W dense with bias, dropout after every GELU |
|---|---|
| glu | (W1 z) s(W2 z), z = g(y): S4's gated linear unit, S5's "full GLU" |
| id | W z, z = g(y) |
| half_glu1 | z s(W z), z = g(y) |
| half_glu2 | y s(W g(y)) |
| gelu | g(y) |

The first two are the S4 papers', the others those of S5 (Smith, Warrington, Linderman 2023, appendix G).

Layer protocol (what `layer` has to offer): `forward(u, *, rate=1.0)` on (batch, length, dim), and for
recurrent use `initial_state(batch)` and `step(u_t, state, rate=1.0) -> (y_t, state)` on (batch, dim). A layer
may define `parameter_tags()`. A layer adds its own skip term D u; the block does not.

Block protocol (what `SequenceModel` asks of a block): `forward(x, mask=None, *, rate=1.0)`,
`output_norm()`, `initial_state(batch)` and `step(x_t, state, rate=1.0) -> (y_t, state)`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...ops import sum_over_processes, world_size
from ..arguments import check_choice

_ACTIVATIONS = ("glu", "id", "half_glu1", "half_glu2", "gelu")


class Block(nn.Module):
    """Norm, sequence layer, GELU, channel mixing and residual: (batch, length, dim) in and out.

    Args:
        layer: the sequence layer, see the protocol above.
        dim: number of channels.
        norm: `layer` over the channels, `batch` over (batch, length) without the padding, or what makes a
            norm from `dim` (such as a `MaskedBatchNorm` with another momentum).
        prenorm: normalise the layer's input (True) or the block's output (False).
        activation: of the channel mixing: `glu`, `id`, `half_glu1`, `half_glu2` or `gelu` (table above).
        dropout: rate after GELU and on the residual branch.
        tie_dropout: one dropout mask per sample and channel, the same at all positions.
        dropout_conv: rate of an elementwise dropout on the layer's output, before GELU.
    """

    layer: Any  # layer protocol

    def __init__(
        self,
        layer: nn.Module,
        dim: int,
        *,
        norm: str | Callable[[int], nn.Module] = "layer",
        prenorm: bool = True,
        activation: str = "glu",
        dropout: float = 0.0,
        tie_dropout: bool = True,
        dropout_conv: float = 0.0,
    ):
        super().__init__()
        check_choice("activation", activation, _ACTIVATIONS)
        for name, rate in (("dropout", dropout), ("dropout_conv", dropout_conv)):
            if not 0 <= rate < 1:
                raise ValueError(f"{name} is {rate}, it must lie in [0, 1)")
        self.dim, self.prenorm, self.activation = dim, prenorm, activation
        self._make_norm = norm_maker(norm)
        self.layer = layer
        self.norm = self._make_norm(dim)
        self.mix = None if activation == "gelu" else nn.Linear(dim, 2 * dim if activation == "glu" else dim)
        self.dropout = TiedDropout(dropout) if tie_dropout else nn.Dropout(dropout)
        self.dropout_conv = nn.Dropout(dropout_conv)

    def output_norm(self) -> nn.Module | None:
        """The norm that a stack of these blocks needs after the last one: one if pre-norm, else None."""
        return self._make_norm(self.dim) if self.prenorm else None

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        mask: Float[Tensor, "batch length 1"] | None = None,
        *,
        rate: float = 1.0,
    ) -> Float[Tensor, "batch length dim"]:
        """`mask` is 1 at valid positions and 0 in the padding, which reaches neither layer nor statistics."""
        z = self.norm(x, mask) if self.prenorm else x
        if mask is not None:
            z = z * mask
        x = x + self._mix(self.layer(z, rate=rate))
        return x if self.prenorm else self.norm(x, mask)

    def _mix(self, y: Tensor) -> Tensor:
        y = self.dropout_conv(y)
        z = self.dropout(F.gelu(y))
        if self.mix is None:
            return z
        mixed = self.mix(z)
        if self.activation == "glu":
            mixed = F.glu(mixed, dim=-1)
        elif self.activation != "id":
            mixed = (z if self.activation == "half_glu1" else y) * torch.sigmoid(mixed)
        return self.dropout(mixed)

    def initial_state(self, batch: int) -> Any:
        """The layer's zero state."""
        return self.layer.initial_state(batch)

    def step(
        self, x_t: Float[Tensor, "batch dim"], state: Any, rate: float = 1.0
    ) -> tuple[Float[Tensor, "batch dim"], Any]:
        """One position of the recurrence, `(output, new state)`; equal to `forward` in eval mode.

        Raises:
            RuntimeError: in training mode, where batch statistics and dropout masks span whole sequences.
        """
        if self.training:
            raise RuntimeError("Block.step is for inference: call eval() on the model first")
        x = x_t.unsqueeze(1)
        z = self.norm(x) if self.prenorm else x
        y, state = self.layer.step(z.squeeze(1), state, rate=rate)
        x = x + self._mix(y.unsqueeze(1))
        return (x if self.prenorm else self.norm(x)).squeeze(1), state


class TiedDropout(nn.Module):
    """Dropout whose mask is the same at all positions of a sequence: one draw per sample and channel."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        if not self.training or self.rate == 0:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class MaskedLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels; positions do not mix, so it takes the mask and has no use for it."""

    def forward(
        self, x: Float[Tensor, "batch length dim"], mask: Tensor | None = None
    ) -> Float[Tensor, "batch length dim"]:
        return super().forward(x)

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """Scale and shift form the group `norm`."""
        return dict.fromkeys(dict(self.named_parameters()), ("norm",))


class MaskedBatchNorm(nn.Module):
    """BatchNorm over (batch, length) whose statistics leave the padding out.

    In training `y = (x - mean) / sqrt(var + eps) * weight + bias` with mean and variance over the valid
    positions of the batch; the running values (unbiased variance, momentum 0.1) serve in eval mode. In a
    distributed run the statistics are those of the global batch, over all processes.

    `momentum` is the weight of the new batch in the running values; where a paper gives the weight of the old
    ones (0.95 in Flax), it is the rest (0.05).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """Scale and shift form the group `norm`."""
        return {"weight": ("norm",), "bias": ("norm",)}

    def forward(
        self, x: Float[Tensor, "batch length dim"], mask: Float[Tensor, "batch length 1"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        if not self.training or (mask is None and world_size() == 1):
            flat = x.flatten(0, 1)
            state = (self.running_mean, self.running_var, self.weight, self.bias)
            return F.batch_norm(flat, *state, self.training, self.momentum, self.eps).view_as(x)
        mask = x.new_ones(*x.shape[:2], 1) if mask is None else mask
        count = sum_over_processes(mask.sum())
        mean = sum_over_processes((x * mask).sum((0, 1))) / count
        centred = x - mean
        var = sum_over_processes((centred.square() * mask).sum((0, 1))) / count
        with torch.no_grad():
            unbiased = var * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return centred * torch.rsqrt(var + self.eps) * self.weight + self.bias


_NORMS: dict[str, Callable[[int], nn.Module]] = {"layer": MaskedLayerNorm, "batch": MaskedBatchNorm}


def norm_maker(norm: str | Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    """What makes a norm from the number of channels, by its name or as it is; ValueError for other names."""
    if isinstance(norm, str):
        check_choice("norm", norm, tuple(_NORMS))
        return _NORMS[norm]
    return norm
