"""Multi-grid domain decomposition: an operator that works on patches with coarser views of their surroundings.

Kossaifi, Kovachki, Azizzadenesheli, Anandkumar, TMLR 2024, arXiv 2310.00120. The domain is cut in `n = 2^levels`
patches per axis; every patch is seen with a margin and, as further channels, at 1/2, 1/4, .. of the resolution in
2, 4, .. times the extent (`ops.patches` has the geometry). With E that extraction, G any operator and P crop and
stitch,

    PatchedOperator(x) = P(G(E(x))).

The paper's claims: a lower error at a smaller domain per device (the memory of a patch falls with their number). What
differs here: one to three axes, reflection and zeros beside periodic domains, any padding on any axis, and patches
that run one after another on one device (`sequential`), where the saving shows without several devices.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...ops.patches import PAD_MODES, Padding, extract_patches, padding_widths, stitch, window_grid
from ..arguments import check_choice
from .operator import Operator


class PatchedOperator(Operator):
    """An operator on patches: (batch, dim_in, *grid) to (batch, dim_out, *grid), any grid that divides.

    Args:
        dim_in, dim_out: channels of input and output.
        operator: a factory `(dim_in, dim_out) -> module`, such as a partial of `TFNO`: called with
            `dim_in (levels + 1)` channels. Coordinate channels that it adds are those of a window, the same for all.
        levels: `2^levels` patches per axis, and as many coarser views.
        padding: margin of a patch on each side, a fraction of every axis or points per axis.
        pad_mode: outside the domain: `circular`, `reflect` or `zeros`.
        coarse_views: False shows each patch its margin alone.
        sequential: one patch after another. In training their activations are recomputed in the backward pass, so
            that those of one patch are held at a time (not in compiled models, which keep them).
        normalise: see `Operator`; the inner operator must not normalise, it never sees whole fields.

    Raises:
        ValueError: arguments out of range; in `forward`, a grid that is not a multiple of `2^(levels + 1)`.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        operator: Callable[..., nn.Module],
        levels: int = 1,
        padding: Padding = 0.125,
        pad_mode: str = "circular",
        coarse_views: bool = True,
        sequential: bool = False,
        normalise: Sequence[str] = ("none", "none"),
    ):
        super().__init__(dim_in, dim_out, normalise=normalise)
        check_choice("pad_mode", pad_mode, PAD_MODES)
        padding_widths((), levels, () if isinstance(padding, Sequence) else padding)
        if isinstance(padding, Sequence) and min(padding, default=0) < 0:
            raise ValueError(f"padding={list(padding)}: must be numbers of points, at least 0")
        self.levels, self.padding, self.pad_mode = levels, padding, pad_mode
        self.coarse_views, self.sequential = coarse_views, sequential
        self.operator = operator(dim_in=dim_in * (levels + 1 if coarse_views else 1), dim_out=dim_out)
        if getattr(self.operator, "input_normaliser", None) or getattr(
            self.operator, "output_normaliser", None
        ):
            raise ValueError(
                "operator normalises: give `normalise` to PatchedOperator, which sees whole fields"
            )

    def operate(self, x: Float[Tensor, "batch dim_in *grid"]) -> Float[Tensor, "batch dim_out *grid"]:
        """The map between normalised fields."""
        cutting = {"levels": self.levels, "padding": self.padding}
        patches = extract_patches(x, **cutting, pad_mode=self.pad_mode, coarse_views=self.coarse_views)
        results = self._one_by_one(patches, len(x)) if self.sequential else self.operator(patches)
        return stitch(results, x.shape[2:], **cutting)

    def _one_by_one(self, patches: Tensor, batch: int) -> Tensor:
        each = patches.unflatten(0, (batch, -1)).unbind(1)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            results = [checkpoint(self.operator, patch, use_reentrant=False) for patch in each]
        else:
            results = [self.operator(patch) for patch in each]
        return torch.stack(results, dim=1).flatten(0, 1)

    def check_grid(self, grid: Sequence[int]) -> None:
        """ValueError unless the grid divides and the inner operator works on the windows."""
        window = window_grid(grid, self.levels, self.padding)
        inner = getattr(self.operator, "check_grid", None)
        if inner is not None:
            inner(window)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random fields on the smallest grid whose windows hold those that the inner operator takes."""
        needed = self.operator.example_inputs(batch)[0].shape[2:]  # type: ignore[operator]
        multiple = 2 ** (self.levels + 1)
        margin = max(self.padding, default=0) if isinstance(self.padding, Sequence) else 0
        size = multiple * (2 * margin // multiple + 1)  # the first that is more than both margins
        while any(w < n for w, n in zip(self._windows(size, len(needed)), needed, strict=True)):
            size += multiple
        return (torch.randn(batch, self.dim_in, *[size] * len(needed)),)

    def _windows(self, size: int, axes: int) -> tuple[int, ...]:
        return window_grid([size] * axes, self.levels, self.padding)
