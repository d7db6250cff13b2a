"""Residual networks for images of 32 x 32.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385, section 4.2: a 3 x 3
convolution of 16 channels; three stages of n blocks with 16, 32 and 64 channels on 32, 16 and 8 pixels a side; the mean
over the pixels. A block is `relu(x + f(x))` with two 3 x 3 convolutions in `f`, and there are 6 n + 2 layers with the
linear head. The paper's table 6 has 0.27 million parameters for 20 layers.

What differs here: the head is apart, and where the channels double, the shortcut is the paper's (option A: every second
pixel, the new channels zero, no parameters) or a 1 x 1 convolution with batch norm (option B).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_choice, check_sizes
from .convolutional import ConvolutionalBackbone, convolution, initialise, stacked

SHORTCUTS = ("pad", "convolution")


class CIFARResNet(ConvolutionalBackbone):
    """Three stages of residual blocks with `width`, 2 `width` and 4 `width` channels; see the module's head.

    Args:
        dim_in: channels of the images.
        depth: 6 n + 2 layers: 8, 14, 20, 32, 44, 56, 110.
        width: channels of the first stage.
        shortcut: where the channels double: `pad` (option A) or `convolution` (option B).

    Raises:
        ValueError: a size out of range, an unknown shortcut.
    """

    def __init__(self, dim_in: int = 3, *, depth: int = 20, width: int = 16, shortcut: str = "pad"):
        super().__init__()
        check_sizes(dim_in=dim_in, width=width)
        check_choice("shortcut", shortcut, SHORTCUTS)
        if depth < 8 or depth % 6 != 2:
            raise ValueError(
                f"depth={depth}: must be 6 n + 2 with n at least 1, as 8, 14, 20, 32, 44, 56, 110"
            )
        self.dim_in, self.dim = dim_in, 4 * width
        blocks = (depth - 2) // 6
        self.stem = stacked((dim_in, width))
        stages = []
        for index in range(3):
            wide = width * 2**index
            first = _Block(wide if index == 0 else wide // 2, wide, shortcut)
            stages.append(nn.Sequential(first, *(_Block(wide, wide, shortcut) for _ in range(blocks - 1))))
        self.stages = nn.Sequential(*stages)
        initialise(self)

    def feature_map(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim h w"]:
        """Of 32 x 32 pixels 8 x 8 are left."""
        return self.stages(self.stem(x))


class _Block(nn.Module):
    """`relu(shortcut(x) + f(x))`; halves the side where the channels change."""

    def __init__(self, dim_in: int, dim_out: int, shortcut: str):
        super().__init__()
        stride = 1 if dim_in == dim_out else 2
        self.first = convolution(dim_in, dim_out, stride=stride)
        self.second = convolution(dim_out, dim_out)
        self.added = dim_out - dim_in
        self.shortcut = (
            convolution(dim_in, dim_out, 1, stride=2) if stride == 2 and shortcut != "pad" else None
        )

    def forward(self, x: Float[Tensor, "batch before height width"]) -> Float[Tensor, "batch after h w"]:
        return F.relu(self.second(F.relu(self.first(x))) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.shortcut is not None:
            return self.shortcut(x)
        if not self.added:
            return x
        before = self.added // 2
        return F.pad(x[..., ::2, ::2], (0, 0, 0, 0, before, self.added - before))
