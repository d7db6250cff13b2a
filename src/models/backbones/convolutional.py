"""What the convolutional backbones share: the map of the last stage, its mean over the pixels, He's initialisation."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ConvolutionalBackbone(nn.Module):
    """Features that are the mean over the pixels of a last map; a subclass says `feature_map`, `dim` and `dim_in`.

    Attributes:
        dim: width of the features.
        dim_in: channels of the images.
        example_side: side of the images of `example_inputs`.
    """

    dim: int
    dim_in: int
    example_side: int = 32

    def feature_map(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim h w"]:
        """The map of the last stage, before it is pooled."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        return self.feature_map(x).mean((-2, -1))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Noise of the size of images."""
        return (torch.randn(batch, self.dim_in, self.example_side, self.example_side),)


def convolution(
    dim_in: int, dim_out: int, kernel: int = 3, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias (the norm has one), padded to keep the side, and batch norm."""
    conv = nn.Conv2d(dim_in, dim_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(dim_out))


def stacked(widths: Sequence[int], *, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolutions from widths[0] to widths[-1], each with batch norm and ReLU; the first has the stride."""
    layers: list[nn.Module] = []
    for index, (dim_in, dim_out) in enumerate(pairwise(widths)):
        layers += [convolution(dim_in, dim_out, stride=stride if index == 0 else 1), nn.ReLU()]
    return nn.Sequential(*layers)


def initialise(module: nn.Module) -> None:
    """Weights of the convolutions from N(0, 2 / fan_out), He et al. 2015, arXiv 1502.01852; norms stay at 1 and 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
