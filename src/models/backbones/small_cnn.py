"""A few convolutions with stride 2: the backbone of experiments that take seconds."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_sizes
from .convolutional import ConvolutionalBackbone, convolution, initialise


class SmallCNN(ConvolutionalBackbone):
    """Per width of `dims` a 3 x 3 convolution with stride 2, batch norm and ReLU; then the mean over the pixels.

    Args:
        dim_in: channels of the images.
        dims: widths of the layers; the last is that of the features.

    Raises:
        ValueError: a size below 1, no layers.
    """

    def __init__(self, dim_in: int = 3, *, dims: Sequence[int] = (16, 32, 64)):
        super().__init__()
        check_widths(dims)
        check_sizes(dim_in=dim_in)
        self.dim_in, self.dim = dim_in, dims[-1]
        widths = zip((dim_in, *dims[:-1]), dims, strict=True)
        self.layers = nn.Sequential(
            *(nn.Sequential(convolution(a, b, stride=2), nn.ReLU()) for a, b in widths)
        )
        initialise(self)

    def feature_map(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim h w"]:
        """Of 32 x 32 pixels 4 x 4 are left by three layers."""
        return self.layers(x)


def check_widths(dims: Sequence[int]) -> None:
    """Raises ValueError unless `dims` are widths of at least one layer."""
    if not dims or any(width < 1 for width in dims):
        raise ValueError(f"dims={list(dims)}: at least one width, each at least 1")
