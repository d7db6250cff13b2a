"""A block that is nothing but its layer: no norm, no residual, no nonlinearity, no channel mixing.

Gu, Johnson, Timalsina, Rudra, Ré, "How to Train Your HiPPO", ICLR 2023, arXiv 2206.12037, section 5: the
synthetic delay and reconstruction tasks ask what the basis of one linear state-space layer can express.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class LinearBlock(nn.Module):
    """`x -> layer(mask x)`: (batch, length, dim) in and out.

    Args:
        layer: the sequence layer, see the protocol in `block.py`.
        dim: number of channels.

    Raises:
        ValueError: dim < 1.
    """

    layer: Any  # layer protocol

    def __init__(self, layer: nn.Module, dim: int):
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim is {dim}, it must be at least 1")
        self.layer, self.dim = layer, dim

    def output_norm(self) -> None:
        """None: a stack of these blocks ends without a norm."""
        return None

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        mask: Float[Tensor, "batch length 1"] | None = None,
        *,
        rate: float = 1.0,
    ) -> Float[Tensor, "batch length dim"]:
        """`mask` is 1 at valid positions and 0 in the padding, which does not reach the layer."""
        return self.layer(x if mask is None else x * mask, rate=rate)

    def initial_state(self, batch: int) -> Any:
        """The layer's zero state."""
        return self.layer.initial_state(batch)

    def step(
        self, x_t: Float[Tensor, "batch dim"], state: Any, rate: float = 1.0
    ) -> tuple[Float[Tensor, "batch dim"], Any]:
        """One position of the recurrence, `(output, new state)`; equal to `forward`."""
        return self.layer.step(x_t, state, rate=rate)
