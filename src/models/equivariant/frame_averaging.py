"""Any network made invariant or equivariant by averaging it over a frame of its input.

Puny, Atzmon, Smith, Misra, Grover, Ben-Hamu, Lipman, "Frame Averaging for Invariant and Equivariant Network Design",
ICLR 2022, arXiv 2110.03336. With a frame F(X), a finite set of group elements with F(gX) = g F(X),

    phi(X) = 1/|F| sum_{g in F(X)} f(g^-1 X)    (invariant),    Phi(X) = 1/|F| sum_{g in F(X)} g f(g^-1 X)

are exactly invariant and equivariant for every f, and what f can approximate, they can. The frames are those of
`ops/frames.py` (principal axes, 2^d or 2^(d-1) elements) and `ops/graph_frames.py` (S_n). All copies g^-1 X are
stacked along the batch, so that f runs once.

What differs: the axes are constants in the backward pass as in the paper, but can be given their gradient; for S_n
the frames are listed whole where they are small (the paper draws 10 permutations), since a mean over a drawn part is
invariant in the mean only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from ...ops.frames import GROUPS, ON_DEGENERATE, Frames, from_frames, into_frames, pca_frames, sample_frames
from ...ops.graph_frames import graph_frame
from ..arguments import check_choice
from .graph import check_finite

POINT_INPUTS = ("point", "vector", "invariant")
POINT_OUTPUTS = ("invariant", "point", "vector", "direction")
GRAPH_INPUTS = ("matrix", "node", "invariant")
GRAPH_OUTPUTS = ("invariant", "node")


class FrameAveraged(nn.Module):
    """A module averaged over the frames of its input.

    For the groups O(d), SO(d), E(d), SE(d) the first `point` input gives the frame; any d. For S_n the first
    `matrix` input, the adjacency matrices of undirected graphs, does.

    | group | input | shape | what the module sees |
    |---|---|---|---|
    | of points | `point` | (B, n, d) | (X - t) R; O(d) and SO(d) have t = 0 |
    | | `vector` | (B, n, d) | V R |
    | S_n | `matrix` | (B, n, n) | rows and columns permuted |
    | | `node` | (B, n, ...) | rows permuted |
    | all | `invariant` | (B, ...) | the same |

    | output | shape of the module's | what comes back |
    |---|---|---|
    | `invariant` | (B, ...) | the mean |
    | `point`, `vector` | (B, .., d) | the mean of Z R^T, plus t for `point` |
    | `direction` | (B, .., d) | as `vector`, divided by its length (0 stays 0) |
    | `node` (S_n) | (B, n, ...) | the mean of the rows, put back into the graph's order |

    Args:
        module: called with the transformed inputs, in their order, and with `present=` where that is given. The
            batch that it sees is larger; it must treat samples independently.
        group: `O(d)`, `SO(d)`, `E(d)`, `SE(d)` or `S_n`.
        inputs: the kind of every input.
        output: the kind of the output.
        samples: average over so many elements only, drawn anew in every call by torch's generator; None takes the
            whole frame. For groups of points drawn in training only, for S_n always (see `graph_frame`).
        on_degenerate: `flag`, `average` or `error`, see `pca_frames`; not for S_n.
        differentiate_frame: let gradients through the axes; not for S_n.

    Raises:
        ValueError: unknown words, no input that gives the frame; in `forward`, inputs of other shapes, NaN or
            infinity, an output without the axis that its kind needs, and what `pca_frames` and `graph_frame` raise.
    """

    def __init__(
        self,
        module: nn.Module,
        group: str = "E(d)",
        *,
        inputs: Sequence[str] = ("point",),
        output: str = "invariant",
        samples: int | None = None,
        on_degenerate: str = "flag",
        differentiate_frame: bool = False,
    ):
        super().__init__()
        check_choice("group", group, (*GROUPS, "S_n"))
        check_choice("on_degenerate", on_degenerate, ON_DEGENERATE)
        graphs = group == "S_n"
        for kind in inputs:
            check_choice("inputs", kind, GRAPH_INPUTS if graphs else POINT_INPUTS)
        check_choice("output", output, GRAPH_OUTPUTS if graphs else POINT_OUTPUTS)
        source = "matrix" if graphs else "point"
        if source not in inputs:
            raise ValueError(
                f"inputs={list(inputs)}: one must be a {source!r}, which gives the frame of {group}"
            )
        if samples is not None and samples < 1:
            raise ValueError(f"samples={samples}: must be at least 1, or None for the whole frame")
        if graphs and (on_degenerate != "flag" or differentiate_frame):
            raise ValueError("on_degenerate and differentiate_frame belong to groups of points, not to S_n")
        self.module, self.group, self.inputs, self.output = module, group, tuple(inputs), output
        self.samples, self.on_degenerate = samples, on_degenerate
        self.differentiate_frame, self.source = differentiate_frame, self.inputs.index(source)

    def frames(self, *inputs: Tensor, present: Bool[Tensor, "batch n"] | None = None) -> Frames:
        """The frames of points of these inputs, whole; `.degenerate` says which are none, see `pca_frames`."""
        return pca_frames(
            inputs[self.source],
            self.group,
            present=present,
            on_degenerate=self.on_degenerate,
            differentiable=self.differentiate_frame,
        )

    def forward(self, *inputs: Tensor, present: Bool[Tensor, "batch n"] | None = None) -> Tensor:
        """The average, for inputs of the kinds `inputs`; `present` marks the points or nodes that count."""
        self._check(inputs)
        if self.group == "S_n":
            return self._over_graphs(inputs, present)
        frames = self.frames(*inputs, present=present)
        if self.samples is not None and self.training and self.samples < frames.axes.shape[-3]:
            frames = sample_frames(frames, self.samples)
        return self._over_points(inputs, frames, present)

    def _over_points(self, inputs: tuple[Tensor, ...], frames: Frames, present: Tensor | None) -> Tensor:
        elements = frames.axes.shape[-3]
        moved = "E" in self.group
        seen = [
            into_frames(x, frames, translate=moved and kind == "point").flatten(0, 1)
            if kind != "invariant"
            else x.repeat_interleave(elements, 0)
            for x, kind in zip(inputs, self.inputs, strict=True)
        ]
        words = {} if present is None else {"present": present.repeat_interleave(elements, 0)}
        found = self.module(*seen, **words).unflatten(0, (-1, elements))
        if self.output == "invariant":
            return found.mean(1)
        return self._back(found, frames, translate=moved and self.output == "point")

    def _back(self, found: Tensor, frames: Frames, translate: bool) -> Tensor:
        d = frames.axes.shape[-1]
        if found.ndim < 3 or found.shape[-1] != d:
            raise ValueError(
                f"output={self.output!r} wants a module that gives (batch, .., {d}), it gives "
                f"{(len(found), *found.shape[2:])}"
            )
        mean = from_frames(found.reshape(*found.shape[:2], -1, d), frames, translate=translate)
        mean = mean.reshape(len(found), *found.shape[2:])
        return nn.functional.normalize(mean, dim=-1) if self.output == "direction" else mean

    def _over_graphs(self, inputs: tuple[Tensor, ...], present: Tensor | None) -> Tensor:
        stack = stacked_frames(inputs[self.source], self.samples, present)
        seen = [stack.into(x, kind) for x, kind in zip(inputs, self.inputs, strict=True)]
        words = {} if present is None else {"present": stack.into(present, "node")}
        found = self.module(*seen, **words)
        return stack.mean(stack.back(found) if self.output == "node" else found)

    def _check(self, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs) != len(self.inputs):
            raise ValueError(f"{len(self.inputs)} inputs are wanted ({list(self.inputs)}), got {len(inputs)}")
        shape = inputs[self.source].shape
        for number, (x, kind) in enumerate(zip(inputs, self.inputs, strict=True)):
            wrong = kind in ("point", "vector") and (x.ndim != 3 or x.shape[::2] != shape[::2])
            wrong |= kind == "matrix" and (x.shape != shape or x.ndim != 3 or x.shape[1] != x.shape[2])
            wrong |= kind == "node" and x.shape[:2] != shape[:2]
            if wrong or not x.ndim or len(x) != shape[0]:
                raise ValueError(
                    f"input {number} is no {kind!r} input: it has the shape {tuple(x.shape)}, the first "
                    f"{self.inputs[self.source]!r} input {tuple(shape)}"
                )
            check_finite(**{f"input {number}": x})

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Those of the module."""
        return self.module.example_inputs(batch)  # type: ignore[operator]


class StackedFrames(NamedTuple):
    """The permutations (elements, n) of the frames of several graphs, one after the other, and whose they are."""

    order: Tensor
    owner: Tensor
    counts: Tensor

    def into(self, x: Tensor, kind: str) -> Tensor:
        """An input of the graphs, once for every permutation."""
        if kind == "invariant":
            return x[self.owner]
        owner, order = self.owner[:, None], self.order
        if kind == "node":
            return x[owner, order]
        return x[owner[..., None], order[:, :, None], order[:, None, :]]

    def back(self, x: Tensor) -> Tensor:
        """Outputs per node (elements, n, ...) in the order of the graph's nodes."""
        rows = torch.arange(len(x), device=x.device)[:, None]
        return x[rows, self.order.argsort(1)]

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the permutations of each graph."""
        total = x.new_zeros(len(self.counts), *x.shape[1:]).index_add(0, self.owner, x)
        return total / self.counts.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def stacked_frames(adjacency: Tensor, samples: int | None, present: Tensor | None = None) -> StackedFrames:
    """The frames of graphs (B, n, n); nodes that are not present stay in place, behind the others."""
    frames = [
        graph_frame(matrix, samples=samples)
        if present is None
        else _padded(matrix, samples, present[number].nonzero()[:, 0])
        for number, matrix in enumerate(adjacency)
    ]
    counts = torch.tensor([len(f) for f in frames], device=adjacency.device)
    owner = torch.arange(len(frames), device=adjacency.device).repeat_interleave(counts)
    return StackedFrames(torch.cat(frames), owner, counts)


def _padded(matrix: Tensor, samples: int | None, nodes: Tensor) -> Tensor:
    """The frame of the subgraph of `nodes`, the other nodes appended in their order."""
    frame = nodes[graph_frame(matrix[nodes][:, nodes], samples=samples)]
    absent = torch.ones(len(matrix), dtype=torch.bool, device=matrix.device).index_fill(0, nodes, False)
    rest = absent.nonzero()[:, 0]
    return torch.cat([frame, rest.expand(len(frame), -1)], 1)
