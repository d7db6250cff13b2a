"""Networks that end in a rotation, through any representation of it.

Zhou, Barnes, Lu, Yang, Li, "On the Continuity of Rotation Representations in Neural Networks", CVPR 2019, arXiv
1812.07035. A network gives D numbers and a fixed map f: R^D -> SO(3) makes the matrix, `R = f(W h + b)`.

The paper's claim: where f has no continuous right inverse (no representation of SO(3) with D <= 4 has one) the network
makes large errors near some rotations, however long it is trained; the 6-D and the 5-D representation have one, and
their largest errors are as small as those of any regression. Added here: the nearest rotation to a 3 x 3 matrix (9-D)
and the symmetric matrix of a quaternion form (10-D), which are continuous too. The maps are those of `ops.rotations`,
which give a rotation for degenerate numbers as well.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.precision import autocasts, without_autocast
from ...ops.rotations import OFFSETS, PARENTS, check_parents, forward_kinematics, get_representation
from ..arguments import check_sizes
from .graph import check_finite
from .perceptron import perceptron


class RotationHead(nn.Module):
    """`f(W h + b)`: features (..., dim) to rotation matrices (..., 3, 3).

    Args:
        dim: number of features.
        representation: a name of `ops.rotations.REPRESENTATIONS`.

    Raises:
        ValueError: an unknown representation, dim below 1.
    """

    def __init__(self, dim: int, representation: str = "6d"):
        super().__init__()
        check_sizes(dim=dim)
        self.representation = representation
        numbers, self.to_matrix, _ = get_representation(representation)
        self.linear = nn.Linear(dim, numbers)

    def forward(self, h: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch 3 3"]:
        return _rotation(self.to_matrix, self.linear(h))


class RotationAutoencoder(nn.Module):
    """The sanity test of the paper: a rotation matrix through an MLP back to a rotation, (batch, 3, 3) to the same.

    Args:
        representation: of the output, see `RotationHead`.
        dim: width of the hidden layers.
        depth: number of linear maps, at least 2, the head's included.

    Raises:
        ValueError: an unknown representation, a size out of range; in `forward`, an input that is NaN or infinite.
    """

    def __init__(self, representation: str = "6d", *, dim: int = 128, depth: int = 4):
        super().__init__()
        _check_mlp(dim, depth)
        self.layers = nn.Sequential(*perceptron([9] + [dim] * (depth - 1), nn.LeakyReLU), nn.LeakyReLU())
        self.head = RotationHead(dim, representation)

    def forward(self, x: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch 3 3"]:
        check_finite(x=x)
        return self.head(self.layers(x.flatten(1)))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random rotations."""
        return (get_representation("quaternion").to_matrix(torch.randn(batch, 4)),)


class PointCloudPose(nn.Module):
    """The rotation between two clouds of the same points: (batch, points, 3) twice to (batch, 3, 3).

    Both clouds pass the same network per point, 3 -> dim/16 -> dim/8 -> dim, and the maximum over the points (as in
    PointNet); the two feature vectors pass 2 dim -> dim/2 and the head. LeakyReLU between. The order of the points and
    their number are free.

    Args:
        representation: of the output, see `RotationHead`.
        dim: features of a cloud, a multiple of 16.

    Raises:
        ValueError: an unknown representation, another dim; in `forward`, clouds of unequal shapes, NaN or infinity.
    """

    def __init__(self, representation: str = "6d", *, dim: int = 1024):
        super().__init__()
        if dim < 16 or dim % 16:
            raise ValueError(f"dim={dim}: must be a multiple of 16, at least 16")
        self.points = perceptron([3, dim // 16, dim // 8, dim], nn.LeakyReLU)
        self.hidden = nn.Sequential(nn.Linear(2 * dim, dim // 2), nn.LeakyReLU())
        self.head = RotationHead(dim // 2, representation)

    def forward(
        self, reference: Float[Tensor, "batch points 3"], target: Float[Tensor, "batch points_target 3"]
    ) -> Float[Tensor, "batch 3 3"]:
        """R with `target = R reference`, as the network has it."""
        if not (reference.shape[1] and target.shape[1]):
            raise ValueError("a point cloud is empty: it has no points")
        check_finite(reference=reference, target=target)
        features = [self.points(cloud).amax(1) for cloud in (reference, target)]
        return self.head(self.hidden(torch.cat(features, -1)))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random clouds of eight points."""
        return torch.randn(batch, 8, 3), torch.randn(batch, 8, 3)


class InverseKinematics(nn.Module):
    """Joint positions to the rotations at the joints of a skeleton, and through them to joint positions again.

    An MLP gives D numbers per joint; `forward` is the forward kinematics of their rotations, (batch, joints, 3) to the
    same, in the unit of the offsets.

    Args:
        representation: of the rotations, see `RotationHead`.
        parents, offsets: of the skeleton, see `ops.rotations.forward_kinematics`; by default twenty joints, in metres.
        dim: width of the hidden layers.
        depth: number of linear maps, at least 2.

    Raises:
        ValueError: an unknown representation, a size below 1, a skeleton that is none; in `forward`, another number
            of joints, NaN or infinity.
    """

    offsets: Tensor

    def __init__(
        self,
        representation: str = "6d",
        *,
        parents: Sequence[int] = PARENTS,
        offsets: Sequence[Sequence[float]] = OFFSETS,
        dim: int = 1024,
        depth: int = 4,
    ):
        super().__init__()
        _check_mlp(dim, depth)
        check_parents(parents)
        if len(offsets) != len(parents) or any(len(offset) != 3 for offset in offsets):
            raise ValueError(
                f"offsets must be three numbers for each of the {len(parents)} joints of parents"
            )
        self.parents = tuple(parents)
        # In float64, so that a model that is converted to it is exact.
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.float64), persistent=False)
        numbers, self.to_matrix, _ = get_representation(representation)
        joints = len(parents)
        self.layers = perceptron([3 * joints, *[dim] * (depth - 1), numbers * joints], nn.LeakyReLU)

    def rotations(self, pos: Float[Tensor, "batch joints 3"]) -> Float[Tensor, "batch joints 3 3"]:
        """The rotation at every joint."""
        if pos.shape[1] != len(self.parents):
            raise ValueError(f"pos has {pos.shape[1]} joints, the skeleton has {len(self.parents)}")
        check_finite(pos=pos)
        numbers = self.layers(pos.flatten(1)).unflatten(1, (len(self.parents), -1))
        return _rotation(self.to_matrix, numbers)

    def forward(self, pos: Float[Tensor, "batch joints 3"]) -> Float[Tensor, "batch joints 3"]:
        rotations = self.rotations(pos)
        with without_autocast(rotations.device):
            return forward_kinematics(rotations, self.offsets, self.parents)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random positions."""
        return (torch.randn(batch, len(self.parents), 3),)


def _rotation(to_matrix: Callable[[Tensor], Tensor], numbers: Tensor) -> Tensor:
    # A matrix of bfloat16 products is off by half a degree: under autocast the map is computed in float32.
    autocast = autocasts(numbers.device)
    with without_autocast(numbers.device):
        return to_matrix(numbers.float() if autocast else numbers)


def _check_mlp(dim: int, depth: int) -> None:
    check_sizes(dim=dim)
    if depth < 2:
        raise ValueError(f"depth={depth}: must be at least 2")
