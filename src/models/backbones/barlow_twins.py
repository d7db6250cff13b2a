"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction (Zbontar, Jing, Misra, LeCun and Deny 2021).

arXiv 2103.03230. Two augmented views of an image go through one network, a backbone f and a projector g,

    z = g(f(x)),     g = Linear - BN - ReLU - ... - Linear, without biases, as wide as the embedding z throughout,

and the cross-correlation of the two batches of embeddings is driven to the identity (`ops.correlation`,
`tasks.BarlowTwinsTask`): views agree in every coordinate, and coordinates say different things. No negatives, no second
network and no stopped gradient are needed. What is used afterwards are the features f(x): the projector discards what
differs between views, the backbone keeps it.

Claims: 73.2 % top-1 on ImageNet by a linear layer on frozen features of a ResNet-50; wider embeddings are better, up to
16384; batches of 256 do nearly as well as 2048. Here any backbone of this package with an attribute `dim` will do.
"""

import itertools
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ..arguments import check_sizes


class BarlowTwins(nn.Module):
    """A backbone with a projector: images to embeddings, (batch, ...) to (batch, dims[-1]).

    Args:
        backbone: a module with an attribute `dim`, the width of the features (batch, dim) that it returns.
        dims: widths of the projector's layers, the last one that of the embedding.
        norm: batch norms between the projector's layers (without: the paper's ablation "no BN in MLP").

    Raises:
        ValueError: no layers, or a width below 1.
    """

    def __init__(self, backbone: nn.Module, *, dims: Sequence[int] = (8192, 8192, 8192), norm: bool = True):
        super().__init__()
        if not dims:
            raise ValueError("dims=[]: the projector needs a layer at least")
        check_sizes(**{f"dims[{i}]": dim for i, dim in enumerate(dims)})
        self.backbone = backbone
        layers: list[nn.Module] = []
        widths = [int(backbone.dim), *dims]  # type: ignore[arg-type]
        for dim_in, dim_out in itertools.pairwise(widths[:-1]):
            layers += [nn.Linear(dim_in, dim_out, bias=False)]
            layers += [nn.BatchNorm1d(dim_out)] if norm else []
            layers += [nn.ReLU()]
        self.projector = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1], bias=False))

    @property
    def dim(self) -> int:
        """Width of the features."""
        return int(self.backbone.dim)  # type: ignore[arg-type]

    def features(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        """The backbone's output, for everything that comes after the training."""
        return self.backbone(x)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch embedding"]:
        return self.projector(self.backbone(x))

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Those of the backbone."""
        return self.backbone.example_inputs(batch)  # type: ignore[operator, no-any-return]
