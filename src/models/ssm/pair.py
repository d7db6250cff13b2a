"""Two sequences through one network: the retrieval head of the Long Range Arena.

Tay et al., "Long Range Arena", ICLR 2021, arXiv 2011.04006, task "Retrieval": both documents go through the
same encoder, `h1` and `h2` are its pooled features, and

    logits = W2 gelu(W1 [h1, h2, h1 - h2, h1 * h2] + b1) + b2
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from .block import Block
from .s4d import S4D
from .sequence import TokenModel


class PairModel(nn.Module):
    """Classifies pairs of token sequences, (batch, 2, length) to (batch, dim_out), with one common tower.

    Args:
        vocabulary: number of tokens.
        dim_out: number of classes.
        dim, depth, layer, block, init, pool: of the tower, as of `SequenceModel`; `pool` is `mean` or `last`.

    Raises:
        ValueError: `pool="none"`, or an input of another shape.
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
        super().__init__()
        if pool == "none":
            raise ValueError("pool is 'none', a pair is compared by pooled features: mean or last")
        self.tower = TokenModel(
            vocabulary, dim, dim=dim, depth=depth, layer=layer, block=block, init=init, pool=pool
        )
        # the features themselves are compared
        self.tower.decoder = nn.Identity()  # type: ignore[assignment]
        self.hidden = nn.Linear(4 * dim, dim)
        self.decoder = nn.Linear(dim, dim_out)

    def forward(
        self,
        x: Integer[Tensor, "batch 2 length"],
        lengths: Int[Tensor, "batch 2"] | None = None,
        *,
        rate: float = 1.0,
    ) -> Float[Tensor, "batch dim_out"]:
        """`lengths`: the valid positions of each sequence, padded at the end; None means all."""
        if x.ndim != 3 or x.shape[1] != 2:
            raise ValueError(f"the input has shape {tuple(x.shape)}, wanted (batch, 2, length)")
        both = None if lengths is None else lengths.flatten()
        first, second = self.tower(x.flatten(0, 1), both, rate=rate).unflatten(0, (-1, 2)).unbind(1)
        features = torch.cat([first, second, first - second, first * second], dim=-1)
        return self.decoder(F.gelu(self.hidden(features)))

    def example_inputs(self, batch: int) -> tuple[Tensor]:
        """Random pairs of length 16, for checks of the module."""
        return (torch.randint(self.tower.vocabulary, (batch, 2, 16)),)
