"""Memory of multi-grid patches against the whole domain, without training.

Kossaifi, Kovachki, Azizzadenesheli, Anandkumar, TMLR 2024, arXiv 2310.00120: the memory that a model needs falls with
the size of its patches. What is compared here are the bytes that the backward pass keeps of the forward pass,
parameters apart, for one backbone on the whole grid and on the windows of patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..models.operators.patched import PatchedOperator
from ..models.operators.tfno import TFNO, TFNOBlock
from ..ops.patches import domain_compression, window_grid

MEGABYTE = 2**20


@dataclass(frozen=True)
class PatchMemory:
    """Bytes saved for backward by TFNO on a square grid and by the same TFNO on patches of it, one sample.

    The backbone has dense weights, instance norm, 4 layers, one channel in and out and no coordinates. Deterministic.
    Calling it returns

    | name | meaning |
    |---|---|
    | `memory/full_mb` | on the whole grid, MiB |
    | `memory/patch_mb` | of one patch, its views included |
    | `memory/ratio` | the second over the first: patches one after another, or on a device each |
    | `memory/all_patches_ratio` | all patches at once over the whole grid |
    | `domain_compression` | points of the grid over those of a window |

    Args:
        size: points per axis.
        levels, padding: see `PatchedOperator`.
        dim, modes: see `TFNO`.

    Raises:
        ValueError: a size that does not divide; a grid or a window of a patch that does not hold the modes.
    """

    size: int = 64
    levels: int = 1
    padding: float = 0.125
    dim: int = 16
    modes: Sequence[int] = (8, 9)

    def __post_init__(self) -> None:
        self._patched().check_grid(self._grid)
        self._backbone(1, 1).check_grid(self._grid)

    @property
    def _grid(self) -> tuple[int, ...]:
        return (self.size,) * len(self.modes)

    @property
    def _backbone(self) -> Callable[..., TFNO]:
        block = partial(TFNOBlock, norm="instance")
        return partial(TFNO, modes=self.modes, dim=self.dim, positions="none", block=block)

    def _patched(self) -> PatchedOperator:
        return PatchedOperator(1, 1, operator=self._backbone, levels=self.levels, padding=self.padding)

    def __call__(self) -> dict[str, float]:
        patched = self._patched()
        full = saved_bytes(self._backbone(1, 1), torch.randn(1, 1, *self._grid)) / MEGABYTE
        together = saved_bytes(patched, torch.randn(1, 1, *self._grid)) / MEGABYTE
        window = torch.randn(1, self.levels + 1, *window_grid(self._grid, self.levels, self.padding))
        one = saved_bytes(patched.operator, window) / MEGABYTE
        return {
            "memory/full_mb": full,
            "memory/patch_mb": one,
            "memory/ratio": one / full,
            "memory/all_patches_ratio": together / full,
            "domain_compression": domain_compression(self._grid, self.levels, self.padding),
        }


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that `model(x)` saves for its backward pass: every storage once, those of parameters not at all."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # held: an address that is freed might be given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    del output
    return sum(storage.nbytes() for at, storage in storages.items() if at not in own)
