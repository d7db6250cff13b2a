"""Figures without a display: matplotlib's object API on the Agg canvas, one plain style, atomic files."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Distinguishable with colour blindness, and on white paper.
COLOURS = ("#1b6ca8", "#c8553d", "#3b8b5a", "#8a5a9e", "#b8860b", "#4f5d75")
INK, FAINT = "#2b2b2b", "#b9bec6"
DPI = 100


@contextmanager
def figure(width: float, height: float, path: Path) -> Iterator[Any]:
    """A figure of `width` x `height` inches (100 dots each) that is written to `path` as PNG at the end."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "axes.titlesize": 9.5, "text.color": INK}):
        drawn = Figure((width, height), dpi=DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(drawn)
        yield drawn
        content = io.BytesIO()
        drawn.savefig(content, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.getvalue())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(axes: Any, *, xlabel: str = "", ylabel: str = "", title: str = "") -> Any:
    """Take the box off the axes, add a light grid and the labels; returns the axes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=8)
    axes.grid(True, color="#e8eaee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if title:
        axes.set_title(title, loc="left", color=INK)
    return axes


def log_ticks(axis: Any) -> None:
    """Plain numbers at 1, 2 and 5 of each decade, so that a range below a decade has ticks too; beyond three
    decades, where these would overlap, powers of ten. To be called after plotting.
    """
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1e3 * low else (1.0,), numticks=8))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_locator(NullLocator())
