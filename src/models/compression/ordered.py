"""Layers `second first` whose columns are ordered: any prefix of them is a layer too (see `maestro.py`)."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_sizes
from .low_rank import LowRankConv, LowRankLinear


class OrderedLayer(nn.Module):
    """Factors `first` (width, columns) and `second` (out, width) of a weight, width = min(out, columns).

    The first `rank` columns (rows of `first`) are in use; `rank` only falls, and is kept with the weights. Where
    `active` is a number, only so many of them are used.

    Args:
        dim_out: rows of the weight's matrix.
        columns: of the weight's matrix.
        bias: of shape (dim_out,), or none.
    """

    kept: Tensor

    def __init__(self, dim_out: int, columns: int, bias: bool):
        super().__init__()
        check_sizes(dim_out=dim_out, columns=columns)
        width = min(dim_out, columns)
        self.first = nn.Parameter(torch.empty(width, columns))
        self.second = nn.Parameter(torch.empty(dim_out, width))
        self.bias = nn.Parameter(torch.empty(dim_out)) if bias else None
        self.register_buffer("kept", torch.tensor(width))
        self.rank = width
        self.active: int | None = None
        bound = 1 / math.sqrt(columns)  # torch's own, of the dense layer
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        self.start(torch.empty(dim_out, columns).uniform_(-bound, bound))

    @classmethod
    def of(cls, module: Any) -> "OrderedLayer":
        """The factors of a layer's weight, with its bias, dtype, device and mode."""
        with torch.device("meta"):  # the weight that it would start with is not wanted
            layer = cls._like(module).to(module.weight.dtype)
        layer.to_empty(device=module.weight.device)
        layer.start(module.weight.detach())
        layer.bias = module.bias
        for factor in (layer.first, layer.second):
            factor.requires_grad_(module.weight.requires_grad)
        return layer.train(module.training)

    @classmethod
    def _like(cls, module: Any) -> "OrderedLayer":
        """A layer of the module's sizes."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Columns that the factors hold, the cut ones included."""
        return self.first.shape[0]

    @property
    def used(self) -> int:
        """Columns of the present forward pass."""
        return self.rank if self.active is None else min(self.active, self.rank)

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Sets both factors from a weight: `U sqrt(S)` and `sqrt(S) V^T`, all columns in use.

        Raises:
            ValueError: a weight of another size, or with NaN or infinity.
        """
        shape = (self.second.shape[0], self.first.shape[1])
        if weight.numel() != math.prod(shape) or len(weight) != shape[0]:
            raise ValueError(f"the weight has shape {tuple(weight.shape)}, as a matrix it must be {shape}")
        if not weight.is_meta and not weight.isfinite().all():
            raise ValueError("the weight holds NaN or infinity")
        left, values, right = torch.linalg.svd(weight.reshape(shape).double(), full_matrices=False)
        self.second.copy_(left * values.sqrt())
        self.first.copy_(values.sqrt().unsqueeze(-1) * right)
        self._set_rank(self.width)

    @torch.no_grad()
    def keep(self, rank: int) -> None:
        """Cuts the layer to its first `rank` columns, for good; the others become 0."""
        if not 0 <= rank <= self.rank:
            raise ValueError(f"rank={rank}: must lie in 0 .. {self.rank}, a cut is final")
        self.first[rank:] = 0
        self.second[:, rank:] = 0
        self._set_rank(rank)

    def cut_parts(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Views of what belongs to cut columns in tensors of the factors' shapes (an optimiser's state)."""
        return first[self.rank :], second[:, self.rank :]

    def matrix(self, rank: int) -> Float[Tensor, "out columns"]:
        """The product of the first `rank` columns."""
        return self.second[:, :rank] @ self.first[:rank]

    def tails(self) -> tuple[Float[Tensor, " rank"], Float[Tensor, " rank"]]:
        """`||second[:, j:]||_F` and `||first[j:]||_F` over the columns in use; gradient 0 where a tail is 0."""
        second, first = self._squares()
        return _root(_tail_sums(second)), _root(_tail_sums(first))

    def penalty(self, hierarchical: bool = True) -> Float[Tensor, ""]:
        """The sum of both tails over j; plain: of the norms of the columns."""
        second, first = self.tails() if hierarchical else map(_root, self._squares())
        return second.sum() + first.sum()

    @torch.no_grad()
    def importance(self, hierarchical: bool = True) -> Float[Tensor, " rank"]:
        """The product of both tails, which never increases with j; plain: of the norms of the column."""
        second, first = self.tails() if hierarchical else map(_root, self._squares())
        return second * first

    def _squares(self) -> tuple[Tensor, Tensor]:
        """Squared norms of the columns of both factors, in float32 at least."""
        second, first = self.second[:, : self.rank], self.first[: self.rank]
        dtype = torch.promote_types(self.first.dtype, torch.float32)
        return second.to(dtype).square().sum(0), first.to(dtype).square().sum(1)

    def cost(self, rank: int) -> int:
        """Parameters of the plain layer of that rank, without the bias."""
        out, columns = self.second.shape[0], self.first.shape[1]
        return min(rank * (out + columns), out * columns)

    @torch.no_grad()
    def plain(self, rank: int) -> nn.Module:
        """The layer at that rank without anything to order, see `Maestro.deploy`."""
        if rank == 0:
            return self._empty()
        if rank * (self.second.shape[0] + self.first.shape[1]) >= self.second.shape[0] * self.first.shape[1]:
            return self._filled(self._dense(), self.matrix(rank), self.bias)
        thin = self._thin(rank)
        self._filled(thin.first, self.first[:rank], None)
        self._filled(thin.second, self.second[:, :rank], self.bias)
        return thin.train(self.training)

    def _empty(self) -> "OrderedLayer":
        empty = copy.deepcopy(self)
        empty.first, empty.second = nn.Parameter(self.first[:0]), nn.Parameter(self.second[:, :0])
        empty.active = None
        empty._set_rank(0)
        return empty

    def _filled(self, module: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
        module = module.to(weight.device, weight.dtype).train(self.training)
        module.weight.copy_(weight.reshape(module.weight.shape))
        if bias is not None:
            module.bias.copy_(bias)
        return module

    def _dense(self) -> nn.Module:
        """A plain layer of the same sizes."""
        raise NotImplementedError

    def _thin(self, rank: int) -> LowRankLinear | LowRankConv:
        """Two plain layers of that rank."""
        raise NotImplementedError

    def _set_rank(self, rank: int) -> None:
        self.rank = rank
        self.kept.fill_(rank)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **options)
        if not self.kept.is_meta:
            # Slices want a number: reading it from the device at every step would wait for it.
            self.rank = int(self.kept)

    def extra_repr(self) -> str:
        out, columns = self.second.shape[0], self.first.shape[1]
        return f"{columns} -> {out}, rank={self.rank} of {self.width}, bias={self.bias is not None}"


class MaestroLinear(OrderedLayer):
    """`y = second[:, :b] first[:b] x + bias` with ordered columns, b the rank or a prefix of it.

    Starts as torch's linear layer does, by the singular values of that weight.
    """

    def __init__(self, dim_in: int, dim_out: int, *, bias: bool = True):
        super().__init__(dim_out, dim_in, bias)
        self.dim_in, self.dim_out = dim_in, dim_out

    @classmethod
    def _like(cls, module: Any) -> "MaestroLinear":
        return cls(module.in_features, module.out_features, bias=module.bias is not None)

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        b = self.used
        return F.linear(F.linear(x, self.first[:b]), self.second[:, :b], self.bias)

    def _dense(self) -> nn.Module:
        return nn.Linear(self.dim_in, self.dim_out, bias=self.bias is not None)

    def _thin(self, rank: int) -> LowRankLinear:
        return LowRankLinear(self.dim_in, self.dim_out, rank, self.bias is not None)


class MaestroConv2d(OrderedLayer):
    """A convolution to b channels with the layer's kernel and stride, and one of size 1 to `dim_out`, with the bias.

    Args:
        kernel, stride, dilation: (height, width).
        padding: (height, width) with zeros, or `same` or `valid`.

    Raises:
        ValueError: a size below 1; in `of`, groups or another kind of padding.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        kernel: Sequence[int],
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] | str = (0, 0),
        dilation: Sequence[int] = (1, 1),
        bias: bool = True,
    ):
        check_sizes(dim_in=dim_in, kernel=min(kernel), stride=min(stride), dilation=min(dilation))
        super().__init__(dim_out, dim_in * math.prod(kernel), bias)
        self.dim_in, self.dim_out = dim_in, dim_out
        self.kernel, self.stride, self.dilation = tuple(kernel), tuple(stride), tuple(dilation)
        self.padding = padding if isinstance(padding, str) else tuple(padding)

    @classmethod
    def _like(cls, module: Any) -> "MaestroConv2d":
        if module.groups != 1:
            raise ValueError(f"groups={module.groups}: a grouped convolution cannot be decomposed")
        if module.padding_mode != "zeros":
            raise ValueError(f"padding_mode={module.padding_mode!r}: only 'zeros' can be decomposed")
        return cls(
            module.in_channels,
            module.out_channels,
            kernel=module.kernel_size,
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            bias=module.bias is not None,
        )

    def forward(
        self, x: Float[Tensor, "batch dim_in height width"]
    ) -> Float[Tensor, "batch dim_out rows columns"]:
        b = self.used
        if not b:
            # A convolution without channels is refused by torch.
            y = x.new_zeros(len(x), self.dim_out, *self._grid(x))
            return y if self.bias is None else y + self.bias[:, None, None]
        kernels = self.first[:b].view(b, self.dim_in, *self.kernel)
        hidden = F.conv2d(x, kernels, None, self.stride, self.padding, self.dilation)
        return F.conv2d(hidden, self.second[:, :b, None, None], self.bias)

    def _grid(self, x: Tensor) -> list[int]:
        """Rows and columns of the output."""
        if self.padding == "same":
            return list(x.shape[2:])
        padding = (0, 0) if isinstance(self.padding, str) else self.padding
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        sizes = zip(x.shape[2:], padding, spans, self.stride, strict=True)
        return [(n + 2 * p - span) // s + 1 for n, p, span, s in sizes]

    def _dense(self) -> nn.Conv2d:
        options: Any = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        bias = self.bias is not None
        return nn.Conv2d(self.dim_in, self.dim_out, self.kernel, bias=bias, **options)  # type: ignore[arg-type]

    def _thin(self, rank: int) -> LowRankConv:
        return LowRankConv(self._dense(), rank, bias=self.bias is not None)


def _tail_sums(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """`sum_{i >= j} v_i`, from the small end, so that it never increases with j."""
    return values.flip(0).cumsum(0).flip(0)


def _root(squares: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0: a tail that is gone stays so."""
    gone = squares == 0
    return torch.where(gone, 0.0, torch.where(gone, 1.0, squares).sqrt())
