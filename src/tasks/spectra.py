"""Spectra of a network's weights, layer by layer: what `eigenzoo analyse` prints and draws.

Exponents as in `ops.tails`, of the full spectrum and of windows of one aspect ratio (FARMS; Hu et al., ICML 2025, arXiv
2506.06280). The exponent of a full spectrum grows with the matrix's aspect ratio, even where all entries are random;
layers of different shape can be compared by the windows' exponent alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.arguments import check_choice
from ..models.compression.matrices import LayerWeight, weight_layers
from ..ops.submatrices import Windows, squared_singular_values
from ..ops.tails import LEAST_POINTS, RULES, tail_exponent, weight_spectra

Cell = str | int | float | None


@dataclass(frozen=True, eq=False)
class LayerSpectrum:
    """One layer.

    Attributes:
        kind: linear, transposed, conv or embedding.
        shape: of the weight, (dim_out, dim_in, *kernel).
        alpha: exponent on the windows; a convolution's is the mean over its blocks. None where there is none: too few
            values for the rule, zeros, or all singular values equal.
        alpha_full: of the full spectrum, a convolution's over all kernel positions.
        spectral_norm, stable_rank: `s_1` and `sum s^2 / s_1^2` of the matrix (dim_out, dim_in * prod(kernel)); the
            stable rank of zeros is 0.
        windows: how many were pooled.
        values, pooled: squared singular values, ascending, of the full spectrum and of the windows.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    alpha: float | None
    alpha_full: float | None
    spectral_norm: float
    stable_rank: float
    windows: int
    values: Tensor
    pooled: Tensor

    def row(self) -> dict[str, Cell]:
        """The numbers of the layer under the heads of a table."""
        return {
            "layer": self.name,
            "kind": self.kind,
            "shape": " x ".join(map(str, self.shape)),
            "alpha (FARMS)": self.alpha,
            "alpha (full)": self.alpha_full,
            "spectral norm": self.spectral_norm,
            "stable rank": self.stable_rank,
            "windows": self.windows,
        }


def layer_spectra(
    model: nn.Module,
    *,
    windows: Windows | None = None,
    rule: str = "median",
    least: int = LEAST_POINTS,
    embeddings: bool = False,
) -> list[LayerSpectrum]:
    """The spectrum of every linear layer, convolution and transformers' `Conv1D`, in the order of the model.

    Args:
        windows: None takes `Windows()`: squares as large as fit, five positions per axis.
        rule, least: of the tail, see `ops.tails.tail_exponent`.
        embeddings: whether these are measured too.

    Raises:
        ValueError: an unknown rule; a weight that is not finite.
    """
    check_choice("rule", rule, RULES)
    layers = weight_layers(model, embeddings=embeddings)
    return [_measure(layer, windows or Windows(), rule, least) for layer in layers]


@torch.no_grad()
def _measure(layer: LayerWeight, windows: Windows, rule: str, least: int) -> LayerSpectrum:
    weight = layer.weight.float() if layer.weight.dtype != torch.float64 else layer.weight
    if not weight.isfinite().all():
        raise ValueError(f"the weight of layer '{layer.name}' has entries that are not finite")
    (full,), parts = weight_spectra(weight), weight_spectra(weight, windows)
    flat = full if weight.ndim == 2 else squared_singular_values(weight.flatten(1))
    largest = float(flat[-1])
    found = [_alpha(part, rule, least) for part in parts]
    known = [alpha for alpha in found if alpha is not None]
    return LayerSpectrum(
        layer.name,
        layer.kind,
        tuple(weight.shape),
        sum(known) / len(known) if found and len(known) == len(found) else None,
        _alpha(full, rule, least),
        largest**0.5,
        float(flat.sum()) / largest if largest > 0 else 0.0,
        len(windows.corners(*weight.shape)) if weight.ndim == 2 else len(parts) * weight[0, 0].numel(),
        full.cpu(),
        torch.cat(parts).sort().values.cpu(),
    )


def _alpha(values: Tensor, rule: str, least: int) -> float | None:
    try:
        return tail_exponent(values, rule, least=least).alpha
    except ValueError:
        return None


def spectra_table(found: list[LayerSpectrum]) -> str:
    """The rows as text in aligned columns, numbers with three digits after the point."""
    rows = [[_text(cell) for cell in spectrum.row().values()] for spectrum in found]
    lines = [list(found[0].row()), *rows] if found else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
