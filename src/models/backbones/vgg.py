"""Plain convolutions and two wide linear layers, with batch norm.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, arXiv 1409.1556:
stages of 3 x 3 convolutions, each ended by a max pooling, then linear layers. What differs here: batch norm after each
convolution, which therefore has no bias (the usual count of VGG-13 with norm and a linear head to 1000 classes,
133053736, includes 2944 such biases, which do nothing); the head is apart, and there is no dropout before it, so that
what it sees is the whole feature, as heads on normalised features need it.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_sizes
from .convolutional import ConvolutionalBackbone, initialise, stacked

LAYERS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(ConvolutionalBackbone):
    """Five stages of 64, 128, 256, 512 and 512 channels, then two linear layers with ReLU; see the module's head.

    Args:
        dim_in: channels of the images.
        depth: 11, 13, 16 or 19, the layers with a linear head.
        width: channels of the first stage.
        hidden: width of the linear layers, and so of the features.
        pool: side that the last map is averaged to; 7 is what images of 224 x 224 have, 1 suits 32 x 32.
        dropout: after the first linear layer.

    Raises:
        ValueError: a size out of range.
    """

    def __init__(
        self,
        dim_in: int = 3,
        *,
        depth: int = 13,
        width: int = 64,
        hidden: int = 4096,
        pool: int = 7,
        dropout: float = 0.5,
    ):
        super().__init__()
        check_sizes(dim_in=dim_in, width=width, hidden=hidden, pool=pool)
        if depth not in LAYERS:
            raise ValueError(f"depth={depth}: known are {', '.join(map(str, LAYERS))}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout={dropout}: must lie in [0, 1)")
        self.dim_in, self.dim, self.pool, self.example_side = dim_in, hidden, pool, 64
        stages, wide = [], dim_in
        for index, layers in enumerate(LAYERS[depth]):
            base = width * min(2**index, 8)
            stages.append(nn.Sequential(stacked((wide, *[base] * layers)), nn.MaxPool2d(2)))
            wide = base
        self.stages = nn.Sequential(*stages)
        self.first, self.second = nn.Linear(wide * pool**2, hidden), nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        initialise(self)

    def feature_map(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch maps h w"]:
        """The map of the last convolution, pooled: of 224 x 224 pixels 7 x 7 are left. It has 8 `width` channels."""
        return self.stages(x)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        pooled = F.adaptive_avg_pool2d(self.feature_map(x), self.pool)
        return F.relu(self.second(self.dropout(F.relu(self.first(pooled.flatten(1))))))
