"""A stack of sequence layers between an encoder and a linear decoder.

    x -> encoder -> `depth` blocks -> norm (pre-norm) -> pooling over length -> linear -> dim_out

The encoder is linear for channels (`SequenceModel`) and an embedding for tokens (`TokenModel`). The layer and
the block are arguments: any callable `layer(dim, init=...) -> module` that follows the layer protocol of
`block.py`, and any callable `block(layer_module, dim) -> module` that follows its block protocol.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from ..arguments import check_choice
from .block import Block
from .s4d import S4D


class StepState(NamedTuple):
    """What `SequenceModel.step` carries: the layers' states, and the sum and number of outputs so far."""

    layers: list[Any]
    total: Float[Tensor, "batch dim"]
    count: int


class SequenceModel(nn.Module):
    """Deep sequence model: (batch, length, dim_in) to (batch, dim_out), or per position with `pool="none"`.

    Args:
        dim_in: channels of the input.
        dim_out: outputs: classes or regression targets.
        dim: H, width of the blocks.
        depth: number of blocks.
        layer: makes one sequence layer from `dim`.
        block: makes one block from a layer and `dim`.
        init: handed to every layer as `init` unless None: a name, or an object that the layer knows.
        pool: `mean` or `last` over the valid positions, or `none` for one output per position.
    """

    blocks: Sequence[Any]  # block protocol

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        dim: int = 128,
        depth: int = 4,
        layer: Callable[..., nn.Module] = S4D,
        block: Callable[..., nn.Module] = Block,
        init: Any = None,
        pool: str = "mean",
    ):
        super().__init__()
        for name, size in (("dim_in", dim_in), ("dim_out", dim_out), ("dim", dim), ("depth", depth)):
            if size < 1:
                raise ValueError(f"{name} is {size}, it must be at least 1")
        check_choice("pool", pool, ("mean", "last", "none"))
        self.dim_in, self.dim_out, self.dim, self.pool = dim_in, dim_out, dim, pool
        options = {} if init is None else {"init": init}
        self.encoder = nn.Linear(dim_in, dim)
        self.blocks = nn.ModuleList(block(layer(dim, **options), dim) for _ in range(depth))  # type: ignore
        self.norm = self.blocks[-1].output_norm()
        self.decoder = nn.Linear(dim, dim_out)

    def forward(
        self,
        x: Float[Tensor, "batch length dim_in"] | Integer[Tensor, "batch length"],
        lengths: Int[Tensor, " samples"] | None = None,
        *,
        rate: float = 1.0,
    ) -> Float[Tensor, "batch dim_out"] | Float[Tensor, "batch length dim_out"]:
        """Outputs of sequences padded at the end; what the padding holds does not matter.

        Args:
            lengths: number of valid positions of each sequence, 1..length; None means all.
            rate: factor on every layer's step: 2 where the input holds every second sample.

        Raises:
            ValueError: wrong number of axes or channels, length 0, `lengths` of another shape or, if they lie
                on the CPU, out of range (elsewhere looking at them would stall the device).
        """
        self._check_input(x)
        self._check_lengths(x, lengths)
        mask = None
        if lengths is not None:
            lengths = lengths.to(x.device)
            valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            # not a product, which would let NaN through
            x = torch.where(valid if x.ndim == 2 else valid.unsqueeze(-1), x, 0)
            mask = valid.unsqueeze(-1).to(self.encoder.weight.dtype)
        h = self._encode(x)
        for block in self.blocks:
            h = block(h, mask, rate=rate)
        if self.norm is not None:
            h = self.norm(h, mask)
        return self.decoder(self._pool(h, mask, lengths))

    def _encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def _pool(self, h: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        if self.pool == "none":
            return h
        if mask is None or lengths is None:
            return h.mean(1) if self.pool == "mean" else h[:, -1]
        if self.pool == "mean":
            return (h * mask).sum(1) / lengths[:, None].to(h.dtype)
        return h.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, h.shape[2])).squeeze(1)

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[-1] != self.dim_in:
            raise ValueError(f"the input has shape {tuple(x.shape)}, wanted (batch, length, {self.dim_in})")

    def _check_lengths(self, x: Tensor, lengths: Tensor | None) -> None:
        if x.shape[1] < 1:
            raise ValueError(f"the input has length 0 (shape {tuple(x.shape)}), wanted at least one position")
        if lengths is None:
            return
        if lengths.shape != x.shape[:1]:
            raise ValueError(f"lengths has shape {tuple(lengths.shape)}, wanted ({x.shape[0]},) as the batch")
        readable = lengths.device.type == "cpu" and not torch.compiler.is_compiling()
        if readable and not ((lengths >= 1) & (lengths <= x.shape[1])).all():
            raise ValueError(f"lengths is {lengths.tolist()}, every one must lie in 1..{x.shape[1]}")

    def initial_state(self, batch: int) -> StepState:
        """The state before the first position, for `step`."""
        layers = [block.initial_state(batch) for block in self.blocks]
        return StepState(layers, self.encoder.weight.new_zeros(batch, self.dim), 0)

    def step(
        self,
        x_t: Float[Tensor, "batch dim_in"] | Integer[Tensor, " batch"],
        state: StepState,
        rate: float = 1.0,
    ) -> tuple[Float[Tensor, "batch dim_out"], StepState]:
        """The output after one more position, and the new state.

        Equal to `forward` on the sequence so far in eval mode: with `mean` the mean is a running one.
        """
        h, layers = self._encode(x_t), []
        for block, layer_state in zip(self.blocks, state.layers, strict=True):
            h, layer_state = block.step(h, layer_state, rate=rate)
            layers.append(layer_state)
        if self.norm is not None:
            h = self.norm(h.unsqueeze(1)).squeeze(1)
        state = StepState(layers, state.total + h, state.count + 1)
        return self.decoder(state.total / state.count if self.pool == "mean" else h), state

    def example_inputs(self, batch: int) -> tuple[Tensor]:
        """Random input of length 16, for checks of the module."""
        return (torch.randn(batch, 16, self.dim_in),)


class TokenModel(SequenceModel):
    """`SequenceModel` over tokens: (batch, length) of whole numbers 0..vocabulary-1, of any integer type.

    The encoder is an embedding table, (vocabulary, dim), drawn from N(0, 1).

    Args:
        vocabulary: number of tokens.
        dim_out, dim, depth, layer, block, init, pool: as of `SequenceModel`.

    Raises:
        ValueError: from `forward` and `step`, where the input lies on the CPU: a token outside the vocabulary
            (elsewhere looking at it would stall the device).
    """

    def __init__(
        self,
        vocabulary: int,
        dim_out: int,
        *,
        dim: int = 128,
        depth: int = 4,
        layer: Callable[..., nn.Module] = S4D,
        block: Callable[..., nn.Module] = Block,
        init: Any = None,
        pool: str = "mean",
    ):
        if vocabulary < 1:
            raise ValueError(f"vocabulary is {vocabulary}, it must be at least 1")
        super().__init__(1, dim_out, dim=dim, depth=depth, layer=layer, block=block, init=init, pool=pool)
        self.vocabulary, self.dim_in = vocabulary, 0
        self.encoder = nn.Embedding(vocabulary, dim)

    def _encode(self, x: Tensor) -> Tensor:
        x = x.long()
        readable = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if readable and not ((x >= 0) & (x < self.vocabulary)).all():
            at = ((x < 0) | (x >= self.vocabulary)).nonzero()[0].tolist()
            raise ValueError(
                f"token {int(x[tuple(at)])} at index {at} is not in the vocabulary 0..{self.vocabulary - 1}"
            )
        return self.encoder(x)

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 2 or x.is_floating_point():
            raise ValueError(
                f"the input has shape {tuple(x.shape)} and type {x.dtype}, wanted whole numbers (batch, length)"
            )

    def example_inputs(self, batch: int) -> tuple[Tensor]:
        """Random tokens of length 16, for checks of the module."""
        return (torch.randint(self.vocabulary, (batch, 16)),)
