"""What a predictor of trajectories that knows of no symmetry does with the same data."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..arguments import check_sizes
from .graph import check_finite
from .perceptron import perceptron


class TrajectoryMLP(nn.Module):
    """A multilayer perceptron on the past of all agents at once, as one vector: SiLU between linear maps.

    Args:
        history, horizon: steps of the past and of the future.
        points: how many agents there are, always.
        dim_out: d, of the space.
        dim: width of the hidden layers.
        depth: number of hidden layers.
        relative: positions are those relative to the agent's own last one, and the output is the displacement from
            it: a moved past gives the moved future.

    Raises:
        ValueError: an argument below 1; in `forward`, shapes that do not fit, NaN or infinity.
    """

    def __init__(
        self,
        history: int,
        horizon: int,
        *,
        points: int,
        dim_out: int,
        dim: int = 256,
        depth: int = 2,
        relative: bool = False,
    ):
        super().__init__()
        check_sizes(history=history, horizon=horizon, points=points, dim_out=dim_out, dim=dim, depth=depth)
        self.history, self.horizon, self.relative = history, horizon, relative
        self.shape_in, self.shape_out = (points, history, dim_out), (points, horizon, dim_out)
        widths = [2 * points * history * dim_out, *[dim] * depth, points * horizon * dim_out]
        self.layers = perceptron(widths, nn.SiLU)

    def forward(
        self,
        pos: Float[Tensor, "batch agents history d"],
        vel: Float[Tensor, "batch agents history d"],
        present: Bool[Tensor, "batch agents"] | None = None,
    ) -> Float[Tensor, "batch agents horizon d"]:
        """Positions of the next steps; what agents that are not `present` hold counts as zeros."""
        if pos.shape[1:] != self.shape_in or vel.shape != pos.shape:
            raise ValueError(
                f"pos and vel must both be (batch, agents, steps, d) = (batch, {', '.join(map(str, self.shape_in))}), "
                f"got {tuple(pos.shape)} and {tuple(vel.shape)}"
            )
        if present is not None:
            pos, vel = (torch.where(present[..., None, None], x, 0) for x in (pos, vel))
        check_finite(pos=pos, vel=vel)
        origin = pos[:, :, -1:] if self.relative else 0
        y = self.layers(torch.cat([(pos - origin).flatten(1), vel.flatten(1)], dim=1))
        return y.unflatten(1, self.shape_out) + origin

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random walks."""
        vel = torch.randn(batch, *self.shape_in)
        return vel.cumsum(2), vel
