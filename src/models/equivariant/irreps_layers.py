"""Layers on irreps features: linear maps per degree, gates. Flat in e3nn's order, (..., multiplicity x (2l + 1)).

The first irrep is always 0e, scalars.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .graph import Graph


def natural_irreps(channels: int, degree: int) -> str:
    """`channels` of every degree 0..degree with the parity (-1)^l, as e3nn writes them: `8x0e+8x1o+8x2e`."""
    return "+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(degree + 1))


def split_degrees(x: Tensor, channels: Sequence[int], degrees: Sequence[int] | None = None) -> list[Tensor]:
    """Flat features (..., sum_k C_k (2 l_k + 1)) as (..., C_k, 2 l_k + 1); l_k = k unless `degrees` says otherwise."""
    widths = [2 * l + 1 for l in (range(len(channels)) if degrees is None else degrees)]
    parts = x.split([c * width for c, width in zip(channels, widths, strict=True)], -1)
    return [part.unflatten(-1, (c, width)) for part, c, width in zip(parts, channels, widths, strict=True)]


def join_degrees(parts: Sequence[Tensor]) -> Tensor:
    """The inverse of `split_degrees`."""
    return torch.cat([part.flatten(-2) for part in parts], -1)


class IrrepsLinear(nn.Module):
    """y_k = W_k x_k for every irrep k, with a bias on the first, scalars: the most general equivariant linear map.

    Weights begin normal with variance 1 / C_in, biases at zero.

    Args:
        dims_in: channels of the irreps that come in.
        dims_out: and that go out; 0 for one that does not.
        degrees: of the irreps; None: 0, 1, 2, ...
    """

    def __init__(
        self, dims_in: Sequence[int], dims_out: Sequence[int], *, degrees: Sequence[int] | None = None
    ):
        super().__init__()
        self.dims_in, self.dims_out, self.degrees = tuple(dims_in), tuple(dims_out), degrees
        pairs = list(zip(dims_in, dims_out, strict=True))
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.randn(o, i) / i**0.5) for i, o in pairs if i and o]
        )
        self.bias = nn.Parameter(torch.zeros(dims_out[0])) if dims_in[0] and dims_out[0] else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., sum_k C_in (2 l_k + 1)) to (..., sum_k C_out (2 l_k + 1)); what does not come in is zero."""
        weights = iter(self.weights)
        parts = []
        for index, part in enumerate(split_degrees(x, self.dims_in, self.degrees)):
            dim_in, dim_out = self.dims_in[index], self.dims_out[index]
            if not dim_in or not dim_out:
                parts.append(part.new_zeros(*part.shape[:-2], dim_out, part.shape[-1]))
            elif index == 0:
                parts.append(F.linear(part.squeeze(-1), next(weights), self.bias).unsqueeze(-1))
            else:
                parts.append(next(weights) @ part)
        return join_degrees(parts)


class PairIrrepsLinear(IrrepsLinear):
    """The linear map per degree of [h_i, h_j, s_ij] without the concatenation; s_ij are scalars.

    Weights and their initialisation are those of the unsplit `IrrepsLinear`.

    Args:
        dims: channels of the degrees 0, 1, .. of h; 0 for one that h has not.
        scalars: how many s_ij there are.
        dim: channels of every degree that goes out.
    """

    def __init__(self, dims: Sequence[int], scalars: int, dim: int):
        first, *others = (2 * channels for channels in dims)
        super().__init__((first + scalars, *others), [dim if channels else 0 for channels in dims])
        self.dims = tuple(dims)
        self.missing = sum(dim * (2 * l + 1) for l, channels in enumerate(dims) if not channels)

    def forward(self, h: Tensor, s: Tensor, graph: Graph) -> Tensor:  # type: ignore[override]
        """Node features and scalars of pairs (..., scalars) to features of pairs; degrees that h has not are zero."""
        received, sent = [], []
        parts = [
            part for part, channels in zip(split_degrees(h, self.dims), self.dims, strict=True) if channels
        ]
        for weight, part in zip(self.weights, parts, strict=True):
            of_receiver, of_sender = weight.split(part.shape[-2], 1)[:2]
            received.append(of_receiver @ part)
            sent.append(of_sender @ part)
        pairs = graph.receivers(join_degrees(received)) + graph.senders(join_degrees(sent))
        of_scalars = F.linear(s, self.weights[0][:, 2 * self.dims[0] :], self.bias)
        return F.pad(
            pairs + F.pad(of_scalars, (0, pairs.shape[-1] - of_scalars.shape[-1])), (0, self.missing)
        )


class Gate(nn.Module):
    """silu(s) for the first irrep, scalars; sigmoid(g) x for every channel of the others, g being further scalars.

    Takes K C scalars and C channels of the K - 1 other irreps, and gives C channels of each.

    Args:
        channels: C.
        degrees: of the K irreps, the first of which is 0.
    """

    def __init__(self, channels: int, degrees: Sequence[int]):
        super().__init__()
        self.channels, self.degrees = channels, tuple(degrees)

    @property
    def dims_in(self) -> tuple[int, ...]:
        """Channels that come in, per irrep."""
        kinds = len(self.degrees)
        return (kinds * self.channels, *(self.channels,) * (kinds - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Flat features of `dims_in` to flat features of C channels per irrep."""
        scalars, *others = split_degrees(x, self.dims_in, self.degrees)
        parts = scalars.split(self.channels, -2)
        gated = [torch.sigmoid(g) * part for g, part in zip(parts[1:], others, strict=True)]
        return join_degrees([F.silu(parts[0]), *gated])
