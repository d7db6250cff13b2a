"""EqMotion: where agents will be, from where they were, equivariantly.

Xu, Tan, Tan, Chen, Wang, Wang, Wang, "EqMotion: Equivariant Multi-agent Motion Prediction with Invariant Interaction
Reasoning", CVPR 2023, arXiv 2303.10876. From positions x and velocities v of T_p steps (M the DCT along time, bars
means over agents and channels, every MLP two linear maps with SiLU after both unless stated otherwise):

    1. h_i = [Linear(|v_i|), Linear(angles between successive v_i)]                                 invariant, F numbers
    2. x <- M (x - mean), v <- M v
    3. G = W_x (x - xbar) + xbar,  V = W_v v                                                        C vectors per agent
    4. delta_ij = MLP(|c_i - c_j|), c = [G, V];  n_i = MLP([h_i, sum_j MLP([h_i, h_j, delta_ij])]);
       c_ij = softmax(MLP([n_i, n_j, delta_ij]))                                                    K categories
    5. in every layer, D_ij = G_i - G_j and m_ij = MLP([h_i, h_j, |D_ij|]) of the incoming features:
       G_i <- G_i + MLP'(h_i) (G_i - Gbar)                                                          MLP': no last SiLU
       G_i <- G_i + sum_j w_ij D_ij,  w_ij = MLP(sum_k c_ijk MLP_k([h_i, h_j, |D_ij|]))
       G <- G + W V,   G <- vector_relu(W_q (G - Gbar), W_k (G - Gbar)) + Gbar
       h_i <- h_i + MLP'([h_i, sum_j m_ij])
    6. y = M^T (W_o (G - Gbar) + Gbar) + mean.

A rotation or reflection of the past is one of the prediction, and so is a translation; the categories change under
neither. The paper claims lower errors than non-equivariant predictors on particles, molecules, skeletons and
pedestrians, and that the categories find the springs between particles without being shown any.

What differs here: the update of h in the last layer reaches no output and is not built (nor m_ij there), which are
7296 of 88034 parameters at C = F = 32, 3 layers; several heads share the categories; agents that are only padding
enter no mean and no sum.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...ops.cosine import dct_matrix
from ..arguments import check_sizes
from .eqmotion_layers import Agents, FeatureLayer, HeadLinear, Reasoning
from .graph import check_finite


class EqMotion(nn.Module):
    """Past positions and velocities (batch, agents, T_p, d) to future positions (batch, agents, T_f, d), d = 2 or 3.

    With several heads the predictions are (batch, heads, agents, T_f, d). The number of agents is free.

    Args:
        history, horizon: T_p and T_f, steps.
        dim: F, invariant numbers per agent; even.
        channels: C, vectors per agent.
        depth: number of layers.
        categories: K, of interactions; at least 2.
        heads: predictions of every agent; several ones are one more layer each, with its own weights, behind `depth`
            shared layers.
        logits_activation: SiLU between the logits of the categories and their softmax, as in the released code; it
            bounds them below by -0.28.

    Raises:
        ValueError: an argument out of range; in `forward`, shapes that do not fit, NaN or infinity of an agent that
            is present, a system without agents (the last two where they can be asked without waiting for the device).
    """

    def __init__(
        self,
        history: int,
        horizon: int,
        *,
        dim: int = 64,
        channels: int = 64,
        depth: int = 4,
        categories: int = 2,
        heads: int = 1,
        logits_activation: bool = True,
    ):
        super().__init__()
        check_sizes(history=history, horizon=horizon, dim=dim, channels=channels, depth=depth, heads=heads)
        _check(dim, categories)
        self.history, self.horizon, self.heads = history, horizon, heads
        self.speeds, self.angles = nn.Linear(history, dim // 2), nn.Linear(history, dim // 2)
        self.positions = nn.Linear(history, channels, bias=False)
        self.velocities = nn.Linear(history, channels, bias=False)
        self.reasoning = Reasoning(dim, channels, categories, logits_activation)
        shared = depth if heads > 1 else depth - 1
        self.layers = nn.ModuleList(FeatureLayer(dim, channels, categories) for _ in range(shared))
        self.last = FeatureLayer(dim, channels, categories, heads=heads, last=True)
        self.output = HeadLinear(heads, channels, horizon, bias=False)

    def forward(
        self,
        pos: Float[Tensor, "batch agents history d"],
        vel: Float[Tensor, "batch agents history d"],
        present: Bool[Tensor, "batch agents"] | None = None,
    ) -> Float[Tensor, "batch *heads agents horizon d"]:
        """Positions of the next steps; `present` marks the agents that are not padding (None: all)."""
        h, g, v, mean, agents = self._features(pos, vel, present)
        c = self.reasoning(h, g, v, agents)
        for layer in self.layers:
            h, g = layer(h, g, v, c, agents)
        _, g = self.last(h, g, v, c, agents)
        centre = agents.mean(g)
        spectrum = self.output(g - centre) + centre
        y = (spectrum @ dct_matrix(self.horizon, spectrum) + mean).mT
        return y[0] if self.heads == 1 else y.movedim(0, 1)

    def categories(
        self,
        pos: Float[Tensor, "batch agents history d"],
        vel: Float[Tensor, "batch agents history d"],
        present: Bool[Tensor, "batch agents"] | None = None,
    ) -> Float[Tensor, "batch agents agents categories"]:
        """Probabilities of the categories of what agent j (axis 2) does to agent i (axis 1); 0 where j is i.

        Which category stands for which interaction is left to the training. Those of absent agents mean nothing.
        """
        h, g, v, _, agents = self._features(pos, vel, present)
        c = nn.functional.pad(self.reasoning(h, g, v, agents)[0], (0, 0, 0, 1))
        n = torch.arange(c.shape[1], device=c.device)
        return c[:, n[:, None], (n - n[:, None] - 1) % len(n)]

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Random walks of five agents in three dimensions."""
        vel = torch.randn(batch, 5, self.history, 3)
        return vel.cumsum(2), vel

    def _features(
        self, pos: Tensor, vel: Tensor, present: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Agents]:
        """Steps 1 to 3: h, G, V with their axis of heads, the mean position (batch, 1, d, 1), the agents."""
        self._check_inputs(pos, vel, present)
        agents = Agents(present)
        pos, vel = agents.fill(pos), agents.fill(vel)
        check_finite(pos=pos, vel=vel)
        h = torch.cat([self.speeds(vel.norm(dim=-1)), self.angles(turning_angles(vel))], dim=-1)
        dct = dct_matrix(self.history, pos)
        mean = agents.mean(pos.mT)
        x, v = (pos.mT - mean) @ dct.mT, vel.mT @ dct.mT
        centre = agents.mean(x)
        return h[None], (self.positions(x - centre) + centre)[None], self.velocities(v)[None], mean, agents

    def _check_inputs(self, pos: Tensor, vel: Tensor, present: Tensor | None) -> None:
        if pos.ndim != 4 or pos.shape[2] != self.history or vel.shape != pos.shape or not pos.shape[1]:
            raise ValueError(
                f"pos and vel must both be (batch, agents, {self.history} steps, d) with an agent at least, got "
                f"{tuple(pos.shape)} and {tuple(vel.shape)}"
            )
        if present is not None and present.shape != pos.shape[:2]:
            raise ValueError(
                f"present must be (batch, agents) = {tuple(pos.shape[:2])}, got {tuple(present.shape)}"
            )


def turning_angles(vel: Float[Tensor, "*rows steps d"]) -> Float[Tensor, "*rows steps"]:
    """`arccos(v_{t-1} . v_t / ((|v_{t-1}| + 1e-6) (|v_t| + 1e-6)))`, the first of v_0 with itself.

    Where the cosine is 1 or -1, and the derivative infinite, the gradient is 0.
    """
    before = torch.cat([vel[..., :1, :], vel[..., :-1, :]], dim=-2)
    norms = (before.norm(dim=-1) + 1e-6) * (vel.norm(dim=-1) + 1e-6)
    cosine = ((before * vel).sum(-1) / norms).clamp(-1, 1)
    inside = cosine.abs() < 1
    return torch.where(inside, torch.where(inside, cosine, 0).acos(), cosine.detach().acos())


def _check(dim: int, categories: int) -> None:
    if dim % 2:
        raise ValueError(f"dim={dim}: must be even, half for the speeds and half for the angles")
    if categories < 2:
        raise ValueError(f"categories={categories}: must be at least 2")
