"""A linear layer whose frozen weight is stored in four or eight bits, to put adapters on.

    y = x Q^T + b,        Q = dequantise(codes, scales)

`ops.quantisation` says what the codes are. Q is made dense for each product, in the dtype of x, and forgotten; for the
backward pass it is made again. Codes and scales are buffers: they have no gradient, and no optimiser sees them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.precision import autocasts
from ...ops.quantisation import BLOCK, Quantised, dequantise, quantise, quantised_product, scales_of
from ..arguments import check_sizes


class QuantisedLinear(nn.Module):
    """`y = x Q^T + b`: (..., dim_in) to (..., dim_out), in the dtype of x.

    New ones hold zeros; `hold` sets the weight. The scales stay float32 when the module is moved to another dtype:
    rounding them would change the weight.

    Args:
        kind: `nf4` or `int8`.
        block: number of weights that share a scale.
        bias: a frozen bias of zeros.

    Raises:
        ValueError: a dimension below 1; an unknown kind; a block that does not suit it.
    """

    codes: Tensor
    scales: Tensor

    def __init__(
        self, dim_in: int, dim_out: int, *, kind: str = "nf4", block: int = BLOCK, bias: bool = True
    ):
        super().__init__()
        check_sizes(dim_in=dim_in, dim_out=dim_out)
        self.in_features, self.out_features = dim_in, dim_out
        self.kind, self.block = kind, block
        empty = quantise(torch.zeros(dim_out, dim_in), kind, block)
        self.register_buffer("codes", empty.codes)
        self.register_buffer("scales", scales_of(empty))
        self.bias = nn.Parameter(torch.zeros(dim_out), requires_grad=False) if bias else None

    @property
    def quantised(self) -> Quantised:
        """Codes and scales as `ops.quantisation` takes them."""
        return Quantised(
            self.codes, self.scales, (self.out_features, self.in_features), self.kind, self.block
        )

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """Q, dense, in float32. What is written into it is lost: see `hold`."""
        return dequantise(self.quantised)

    @property
    def bytes(self) -> int:
        """Memory of weight and bias."""
        return self.quantised.bytes + (0 if self.bias is None else self.bias.nbytes)

    @torch.no_grad()
    def hold(self, matrix: Float[Tensor, "out in"]) -> None:
        """Quantises a matrix into the weight: exact where the matrix is quantised already.

        Raises:
            ValueError: entries that are not finite.
        """
        new = quantise(matrix, self.kind, self.block)
        self.codes.copy_(new.codes)
        self.scales.copy_(scales_of(new))

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """`x Q^T + b`."""
        if autocasts(x.device):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        y = quantised_product(x, self.quantised)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}, block={self.block}"

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        kept = self.scales
        super()._apply(fn, recurse)
        if self.scales.dtype != kept.dtype:
            self.scales = kept.to(self.scales.device)
        return self
