"""Places where an adapter may sit: the weight of a layer as a matrix, and the layer's own way of applying one.

| kind | modules | matrix of the weight |
|---|---|---|
| `linear` | `nn.Linear` and `QuantisedLinear` | (out, in) |
| `transposed` | `Conv1D` of transformers, weight (in, out) | its transpose (out, in) |
| `conv` | `nn.Conv1d`, `Conv2d`, `Conv3d`, weight (out, in / groups, *kernel) | (out, in / groups * prod(kernel)) |
| `embedding` | `nn.Embedding`, weight (num, dim) | its transpose (dim, num) |

A product `B A` of matrices `A` (r, columns) and `B` (out, r) is applied by `down` and `up`, which never form it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...ops.precision import autocasts
from .quantised import QuantisedLinear

KINDS = ("linear", "transposed", "conv", "embedding")
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True, eq=False)
class Site:
    """A layer that an adapter may change.

    Attributes:
        name: path of the module in its model.
        module: the layer itself.
        kind: one of `KINDS`.
        dim_out, dim_in: of the layer: features, channels; of an embedding its width and number of tokens.
        kernel: of a convolution.
    """

    name: str
    module: nn.Module
    kind: str
    dim_out: int
    dim_in: int
    kernel: tuple[int, ...] = ()

    @property
    def weight(self) -> Tensor:
        """The layer's own weight."""
        return self.module.weight  # type: ignore[return-value]

    @property
    def groups(self) -> int:
        """Of a convolution; 1 for all else."""
        return int(getattr(self.module, "groups", 1))

    @property
    def columns(self) -> int:
        """Of the weight's matrix."""
        return self.dim_in // self.groups * math.prod(self.kernel)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight's matrix."""
        return self.dim_out, self.columns

    @property
    def text(self) -> str:
        """The layer in an error's words."""
        return f"'{self.name}' ({type(self.module).__name__}, {self.dim_out} x {self.columns})"

    def matrix(self) -> Float[Tensor, "out columns"]:
        """The weight as a matrix, float32 (float64 where the weight is)."""
        return self.as_matrix(self.weight.detach())

    def as_matrix(self, weight: Tensor) -> Float[Tensor, "out columns"]:
        """A tensor in the layer's layout as a matrix, float32 or float64."""
        flat = weight.mT if self.kind in ("transposed", "embedding") else weight.reshape(self.shape)
        return flat if flat.dtype == torch.float64 else flat.float()

    def as_weight(self, matrix: Float[Tensor, "out columns"]) -> Tensor:
        """A matrix in the layer's layout; its dtype stays."""
        if self.kind in ("transposed", "embedding"):
            return matrix.mT
        return matrix.reshape(self.dim_out, -1, *self.kernel)

    @property
    def is_quantised(self) -> bool:
        """Whether the weight is stored as codes, so that writing into it rounds to few levels."""
        return isinstance(self.module, QuantisedLinear)

    @torch.no_grad()
    def hold(self, matrix: Float[Tensor, "out columns"]) -> None:
        """Writes the matrix into the weight, rounded to its dtype, or quantised as it is."""
        if isinstance(self.module, QuantisedLinear):
            self.module.hold(matrix)
        else:
            self.weight.copy_(self.as_weight(matrix))

    def down(self, x: Tensor, A: Float[Tensor, "rank columns"]) -> Tensor:
        """`A` applied to the layer's input, in A's dtype: a thin layer with the base's stride, padding and dilation."""
        if self.kind == "embedding":
            return F.embedding(x, A.mT)
        if self.kind != "conv":
            return _linear(x, A)
        x = x if autocasts(x.device) else x.to(A.dtype)
        return self.convolve(x, A.reshape(A.shape[0], -1, *self.kernel))

    def up(self, hidden: Tensor, B: Float[Tensor, "out rank"]) -> Tensor:
        """`B` applied to what `down` made: a linear map of the channels."""
        if self.kind != "conv":
            return F.linear(hidden, B)
        return _CONVOLUTIONS[len(self.kernel)](hidden, B.reshape(*B.shape, *(1 for _ in self.kernel)))

    def add_up(self, y: Tensor, hidden: Tensor, B: Float[Tensor, "out rank"], scale: float) -> Tensor:
        """`y + scale * up(hidden, B)`; in one product where the dtypes are one, else in the wider of the two."""
        if self.kind == "conv" or hidden.dtype != y.dtype or y.ndim < 2:
            return y + self.up(hidden if scale == 1 else scale * hidden, B)
        return torch.addmm(y.flatten(0, -2), hidden.flatten(0, -2), B.mT, alpha=scale).view(y.shape)

    def convolve(self, x: Tensor, weight: Tensor, *, groups: int = 1) -> Tensor:
        """A convolution without bias that walks over x as the base does."""
        base: Any = self.module
        padding = base.padding
        if base.padding_mode != "zeros":
            x = F.pad(x, base._reversed_padding_repeated_twice, mode=base.padding_mode)
            padding = 0
        convolution = _CONVOLUTIONS[len(self.kernel)]
        return convolution(x, weight, None, base.stride, padding, base.dilation, groups)


def site_of(name: str, module: nn.Module) -> Site | None:
    """The site that a module is; None where no adapter knows its kind."""
    if isinstance(module, nn.Embedding):
        return Site(name, module, "embedding", module.embedding_dim, module.num_embeddings)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        kernel = tuple(module.kernel_size)
        return Site(name, module, "conv", module.out_channels, module.in_channels, kernel)
    if isinstance(module, (nn.Linear, QuantisedLinear)):
        return Site(name, module, "linear", module.out_features, module.in_features)
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.ndim == 2:
        return Site(name, module, "transposed", weight.shape[1], weight.shape[0])
    return None


def refuse_tied(model: nn.Module, sites: Iterable[Site], consequence: str) -> None:
    """ValueError, with all names and the consequence, for a site's weight that another module shares."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for site in sites:
        if len(names := owners.get(id(site.weight), [])) > 1:
            raise ValueError(f"the weight of {site.text} is shared ({', '.join(names)}): {consequence}")


def _linear(x: Tensor, A: Float[Tensor, "rank columns"]) -> Tensor:
    """`x A^T` in A's dtype; under autocast in that one's."""
    if x.dtype == A.dtype or autocasts(x.device):
        return F.linear(x, A)
    if torch.compiler.is_compiling():  # the compiler recomputes casts by itself
        return F.linear(x.to(A.dtype), A)
    return _CastLinear.apply(x, A)  # type: ignore[return-value]


class _CastLinear(torch.autograd.Function):
    """`x A^T` in A's dtype that keeps x as it came: layers that read one input share it, and no cast copy is kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, A: Tensor) -> Tensor:
        return F.linear(x.to(A.dtype), A)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, A = ctx.saved_tensors
        for_x = (grad @ A).to(x.dtype) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return for_x, None
        rows = x.reshape(-1, x.shape[-1]).to(A.dtype)
        return for_x, grad.reshape(-1, grad.shape[-1]).mT @ rows
