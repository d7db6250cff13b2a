"""LeNet-5 in the form that compression papers use: max pooling, ReLU, no padding."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_sizes


class LeNet5(nn.Module):
    """Two convolutions of 5 x 5 (6 and 16 channels), each with ReLU and max pooling by 2; then 120, 84, `dim_out`.

    Args:
        dim_in: channels of the images.
        dim_out: classes.
        side: of the images, at least 16; 28 gives the 44426 parameters of MNIST's.

    Raises:
        ValueError: a size below 1, a side that leaves nothing of the image.
    """

    def __init__(self, dim_in: int = 1, dim_out: int = 10, *, side: int = 28):
        super().__init__()
        check_sizes(dim_in=dim_in, dim_out=dim_out)
        left = ((side - 4) // 2 - 4) // 2
        if left < 1:
            raise ValueError(f"side={side}: must be at least 16")
        self.dim_in, self.side = dim_in, side
        self.conv1 = nn.Conv2d(dim_in, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * left * left, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, dim_out)

    def forward(self, x: Float[Tensor, "batch channels side side"]) -> Float[Tensor, "batch classes"]:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Noise of the images' size."""
        return (torch.randn(batch, self.dim_in, self.side, self.side),)
