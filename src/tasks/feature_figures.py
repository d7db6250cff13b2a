"""Pictures of the geometry of features: measures over the epochs, cosines and spectrum of the class means."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .drawing import COLOURS, FAINT, figure, log_ticks, plain

# One panel per unit: degrees, a share, and what falls to 0.
PANELS = (
    ("degrees", ("variability", "subspace_angle", "least_subspace_angle")),
    ("class separation R²", ("class_separation",)),
    ("neural collapse", ("nc1", "nc2", "nc3")),
)
MAX_NAMED = 20


def draw_features(
    means: Float[Tensor, "classes dim"],
    classes: Sequence[int],
    path: Path,
    history: Sequence[Mapping[str, float]] = (),
) -> None:
    """Cosines between the class means (less the mean of these) as a heat map and their singular values; above them
    the measures over the epochs where there are at least two.

    Args:
        classes: the labels of the rows.
        history: measures by name, and `epoch`.
    """
    curves = len(history) > 1
    with figure(10.0, 7.2 if curves else 4.2, path) as drawn:
        parts = drawn.subfigures(
            2 if curves else 1, 1, height_ratios=[3, 4] if curves else [1], squeeze=False
        )
        if curves:
            _draw_history(parts[0, 0].subplots(1, len(PANELS)), history)
        left, right = parts[-1, 0].subplots(1, 2, width_ratios=[1.15, 1.0])
        centred = means.double() - means.double().mean(0)
        _draw_cosines(drawn, left, centred, classes)
        _draw_spectrum(right, centred)


def _draw_history(panels: Any, history: Sequence[Mapping[str, float]]) -> None:
    for axes, (title, names) in zip(panels, PANELS, strict=True):
        plain(axes, xlabel="epoch", title=title)
        known = [name for name in names if any(name in row for row in history)]
        for name, colour in zip(known, COLOURS, strict=False):
            points = [(row["epoch"], row[name]) for row in history if name in row]
            label = name.replace("_", " ")
            axes.plot(*zip(*points, strict=True), ".-", color=colour, linewidth=1.2, label=label)
        _whole_ticks(axes)
        if known and len(names) > 1:
            axes.legend(fontsize=8, edgecolor="none", framealpha=0.85)  # which may lie on a curve
        finite = [row[name] for row in history for name in known if 0 < row.get(name, 0.0) < float("inf")]
        if names[0] == "nc1" and finite:
            axes.set_yscale("log")
            log_ticks(axes.yaxis)


def _draw_cosines(drawn: Any, axes: Any, centred: Tensor, classes: Sequence[int]) -> None:
    lengths = centred.norm(dim=1, keepdim=True)
    rows = torch.where(lengths > 0, centred / lengths, 0)
    image = axes.imshow((rows @ rows.T).cpu().numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    plain(axes, xlabel="class", ylabel="class", title="cosines between the centred class means")
    axes.grid(False)
    every = max(1, -(-len(classes) // MAX_NAMED))
    places = range(0, len(classes), every)
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(list(places), [str(classes[i]) for i in places])
    drawn.colorbar(image, ax=axes, shrink=0.85)


def _draw_spectrum(axes: Any, centred: Tensor) -> None:
    """Singular values over the largest; K - 1 equal ones are a simplex."""
    sizes = torch.linalg.svdvals(centred).cpu()[: len(centred) - 1]
    share = sizes / sizes[0] if sizes[0] > 0 else sizes
    plain(
        axes, xlabel="number", ylabel="over the largest", title="singular values of the centred class means"
    )
    axes.axhline(1.0, color=FAINT, linewidth=0.8, linestyle="--")
    axes.plot(range(1, len(share) + 1), share.numpy(), ".-", color=COLOURS[0], linewidth=1.2)
    axes.set_ylim(0, 1.05)
    _whole_ticks(axes)


def _whole_ticks(axes: Any) -> None:
    """Of epochs and of numbers there are no halves."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
