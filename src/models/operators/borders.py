"""Convolutions at the border of a grid: what they see beyond it, and the layout in which they run fastest."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_choice

PADDINGS = ("zeros", "circular", "reflect")
BORDERS = (*PADDINGS, "none")


def fast_layout(x: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch channels *grid"]:
    """The same numbers; 2-D fields on the CPU with the channels last in memory, where convolutions run faster."""
    if x.ndim == 4 and x.device.type == "cpu":
        return x.contiguous(memory_format=torch.channels_last)
    return x


def surround(
    x: Float[Tensor, "batch channels *grid"], width: int, mode: str
) -> Float[Tensor, "batch channels *more"]:
    """`x` with `width` more points on each side of every axis, from its `circular` or `reflect` continuation.

    Raises:
        ValueError: an axis has fewer points than that takes: `width`, reflected `width + 1`.
    """
    least = width + (mode == "reflect")
    if min(x.shape[2:]) < least:
        raise ValueError(
            f"the grid {tuple(x.shape[2:])} is too small: {mode} padding by {width} needs {least} points per axis"
        )
    if mode == "reflect":
        return F.pad(x, (width, width) * (x.ndim - 2), mode="reflect")
    for axis in range(2, x.ndim):
        x = _circular(x, width, axis)
    return x


def _circular(x: Tensor, width: int, axis: int) -> Tensor:
    """Faster than the library's: one concatenation of parts forward, one backward, and it keeps the layout."""
    size = x.shape[axis]
    if size < 2 * width:
        return torch.cat((x.narrow(axis, size - width, width), x, x.narrow(axis, 0, width)), axis)
    first, middle, last = x.split((width, size - 2 * width, width), axis)
    return torch.cat((last, first, middle, last, first), axis)


class Convolution(nn.Module):
    """Convolution of odd kernel: (batch, dim_in, *grid) to (batch, dim_out, *grid).

    With stride 2, n points become (n + 1) // 2.

    Args:
        kernel: points of the stencil per axis, odd.
        axes: d, 1 or 2 axes of the grid.
        padding_mode: `zeros`, `circular` or `reflect`; with `none` the convolution looks at nothing beyond the
            grid, and n points become n - kernel + 1, with stride 2 and kernel 3 (n - 1) // 2.

    Raises:
        ValueError: an unknown choice; in `forward`, a grid too small for its continuation.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        kernel: int = 3,
        axes: int = 2,
        padding_mode: str = "zeros",
        stride: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        check_choice("padding_mode", padding_mode, BORDERS)
        if axes not in (1, 2):
            raise ValueError(f"axes={axes}: must be 1 or 2")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: must be odd and at least 1")
        self.mode = padding_mode if kernel > 1 and padding_mode in ("circular", "reflect") else None
        self.width = kernel // 2
        padding = self.width if padding_mode == "zeros" else 0
        kind = nn.Conv1d if axes == 1 else nn.Conv2d
        self.convolution = kind(dim_in, dim_out, kernel, stride=stride, padding=padding, bias=bias)

    def forward(self, x: Float[Tensor, "batch dim_in *grid"]) -> Float[Tensor, "batch dim_out *coarse"]:
        """The convolution of the continued field."""
        x = fast_layout(x)
        if self.mode is not None:
            x = surround(x, self.width, self.mode)
        return fast_layout(self.convolution(x))
