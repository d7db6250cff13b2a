"""Residual networks of four stages, with the changes of ResNet-D and ResNeXt.

- He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385: 18 and 34 layers of
  blocks with two 3 x 3 convolutions; 50, 101 and 152 of bottlenecks 1 x 1, 3 x 3, 1 x 1 that widen by 4.
- He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks", CVPR 2019, arXiv 1812.01187,
  ResNet-D: three 3 x 3 convolutions (32, 32, 64 channels) in place of the first 7 x 7, and a mean over 2 x 2 pixels
  before the shortcut's 1 x 1 convolution in place of its stride.
- Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017, arXiv 1611.05431: `groups`
  paths of `group_width` channels in the 3 x 3 convolution of a bottleneck; 32 of 4 is ResNeXt-50.

What differs here: the head is apart; the stride of a bottleneck lies in its 3 x 3 convolution in every variant, as in
all later implementations; for images of 32 x 32 there is a stem without stride and pooling.
"""

from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_choice, check_sizes
from .convolutional import ConvolutionalBackbone, convolution, initialise, stacked

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BOTTLENECK_FROM = 50
EXPANSION = 4
VARIANTS, STEMS = ("plain", "d"), ("imagenet", "cifar")


class ResNet(ConvolutionalBackbone):
    """Four stages with w, 2 w, 4 w and 8 w channels (bottlenecks: four times as many); see the module's head.

    Args:
        dim_in: channels of the images.
        depth: 18, 34, 50, 101 or 152, the layers with a linear head.
        variant: `plain`, or `d` for ResNet-D.
        stem: `imagenet` (stride 2, then max pooling) or `cifar` (one 3 x 3 convolution without stride, no pooling).
        groups, group_width: of the 3 x 3 convolution of a bottleneck, whose width is w / 64 * groups * group_width.
        width: w, channels of the first stage.
        zero_init: the gain of the last norm of every block begins at 0, so that the blocks begin as identities.

    Raises:
        ValueError: a size out of range, an unknown variant or stem, groups without bottlenecks.
    """

    def __init__(
        self,
        dim_in: int = 3,
        *,
        depth: int = 50,
        variant: str = "plain",
        stem: str = "imagenet",
        groups: int = 1,
        group_width: int = 64,
        width: int = 64,
        zero_init: bool = False,
    ):
        super().__init__()
        check_sizes(dim_in=dim_in, groups=groups, group_width=group_width, width=width)
        check_choice("variant", variant, VARIANTS)
        check_choice("stem", stem, STEMS)
        if depth not in BLOCKS:
            raise ValueError(f"depth={depth}: known are {', '.join(map(str, BLOCKS))}")
        bottleneck = depth >= BOTTLENECK_FROM
        if not bottleneck and (groups, group_width) != (1, 64):
            raise ValueError(f"groups={groups}, group_width={group_width}: depth {depth} has no bottlenecks")
        self.dim_in, self.example_side = dim_in, 64 if stem == "imagenet" else 16
        self.stem = _stem(dim_in, width, stem, variant)
        stages, wide = [], width
        for index, blocks in enumerate(BLOCKS[depth]):
            base, stage = width * 2**index, []
            inner = base * group_width // 64 * groups if bottleneck else base
            for number in range(blocks):
                stride = 2 if index and not number else 1
                out = base * (EXPANSION if bottleneck else 1)
                body = (
                    _bottleneck(wide, inner, out, stride, groups) if bottleneck else _basic(wide, out, stride)
                )
                stage.append(_Block(body, _shortcut(wide, out, stride, variant), zero_init))
                wide = out
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.dim = wide
        initialise(self)

    def feature_map(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim h w"]:
        """Of 224 x 224 pixels 7 x 7 are left; with the stem `cifar` of 32 x 32 4 x 4."""
        return self.stages(self.stem(x))


class _Block(nn.Module):
    """`relu(shortcut(x) + body(x))`; the body ends with a norm."""

    def __init__(self, body: nn.Sequential, shortcut: nn.Module | None, zero_init: bool):
        super().__init__()
        self.body, self.shortcut, self.activation = body, shortcut, nn.ReLU()
        if zero_init:
            nn.init.zeros_(body[-1][-1].weight)  # type: ignore[index, union-attr, arg-type]

    def forward(self, x: Float[Tensor, "batch before height width"]) -> Float[Tensor, "batch after h w"]:
        return self.activation(self.body(x) + (x if self.shortcut is None else self.shortcut(x)))


def _basic(dim_in: int, dim_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(dim_in, dim_out, stride=stride), nn.ReLU(), convolution(dim_out, dim_out)
    )


def _bottleneck(dim_in: int, inner: int, dim_out: int, stride: int, groups: int) -> nn.Sequential:
    if inner < 1 or inner % groups:
        raise ValueError(f"groups={groups}: does not divide the {inner} channels of a bottleneck")
    return nn.Sequential(
        convolution(dim_in, inner, 1),
        nn.ReLU(),
        convolution(inner, inner, stride=stride, groups=groups),
        nn.ReLU(),
        convolution(inner, dim_out, 1),
    )


def _shortcut(dim_in: int, dim_out: int, stride: int, variant: str) -> nn.Module | None:
    if stride == 1 and dim_in == dim_out:
        return None
    if stride == 1 or variant == "plain":
        return convolution(dim_in, dim_out, 1, stride=stride)
    # At an odd side the last window is cut, and its mean is over the pixels that there are.
    pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, convolution(dim_in, dim_out, 1))


def _stem(dim_in: int, width: int, stem: str, variant: str) -> nn.Sequential:
    if stem == "cifar":
        return stacked((dim_in, width))
    if variant == "d":
        half = max(1, width // 2)
        first = stacked((dim_in, half, half, width), stride=2)
    else:
        first = nn.Sequential(convolution(dim_in, width, 7, stride=2), nn.ReLU())
    return nn.Sequential(first, nn.MaxPool2d(3, stride=2, padding=1))
