"""Barlow Twins on vectors of which half is shared between views: what the embedding keeps, and what the backbone does.

A latent s, uniform on [-1, 1]^8, is seen together with a nuisance n of the same law that is drawn anew for each view,
through a fixed random rotation: `x = R [s; n]`, R orthogonal, 16 x 16. Fresh samples at every step. Views agree in s
alone, so that the loss of Zbontar et al. 2021 (arXiv 2103.03230) makes the embedding forget n. The backbone in front
of the projector need not forget it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..models.arguments import check_sizes
from ..models.backbones.barlow_twins import BarlowTwins
from ..models.backbones.mlp import MLP
from ..ops.correlation import barlow_loss

LATENT = 8
PROBED = 4000  # samples to fit the probes, and as many to test them


@dataclass(frozen=True)
class BarlowSyntheticStudy:
    """Trains a perceptron 16-64-64 with a projector 64-128-128 by Adam. Calling it returns

    | name | meaning |
    |---|---|
    | `embedding/latent`, `embedding/nuisance` | R^2 of the best linear map from the embedding, on new samples |
    | `backbone/latent`, `backbone/nuisance` | the same from the backbone's output |
    | `loss/first`, `loss/last` | of the first step, and the mean of the last ten |
    | `fall` | the first over the last |

    Args:
        steps: of training, at least 20.
        batch_size: pairs of views in a step.
        lr: of Adam.
        redundancy_weight: w of the loss.
        seed: of the rotation, the weights and the samples.

    Raises:
        ValueError: a number out of range.
    """

    steps: int = 1000
    batch_size: int = 256
    lr: float = 3e-3
    redundancy_weight: float = 0.005
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(batch_size=self.batch_size)
        if self.steps < 20:
            raise ValueError(f"steps={self.steps}: must be at least 20")
        if not self.lr > 0 or not self.redundancy_weight >= 0:
            raise ValueError(
                f"lr={self.lr}, redundancy_weight={self.redundancy_weight}: must be positive, and not negative"
            )

    def __call__(self) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            rotation = torch.linalg.qr(torch.randn(2 * LATENT, 2 * LATENT))[0]
            model = BarlowTwins(MLP(2 * LATENT, dims=(64,), features=64), dims=(128, 128))
            losses = self._train(model, rotation)
            found = _probed(model.eval(), rotation)
        first, last = losses[0], sum(losses[-10:]) / 10
        return {**found, "loss/first": first, "loss/last": last, "fall": first / last}

    def _train(self, model: nn.Module, rotation: Tensor) -> list[float]:
        optimizer, losses = torch.optim.Adam(model.parameters(), lr=self.lr), []
        for _ in range(self.steps):
            latent = _uniform(self.batch_size)
            first, second = (
                torch.cat([latent, _uniform(self.batch_size)], 1) @ rotation.mT for _ in range(2)
            )
            loss = barlow_loss(model(first), model(second), redundancy_weight=self.redundancy_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses


def _uniform(count: int) -> Tensor:
    return 2 * torch.rand(count, LATENT) - 1


@torch.no_grad()
def _probed(model: BarlowTwins, rotation: Tensor) -> dict[str, float]:
    parts = {"latent": _uniform(2 * PROBED), "nuisance": _uniform(2 * PROBED)}
    x = torch.cat(list(parts.values()), 1) @ rotation.mT
    seen = {"embedding": model(x), "backbone": model.features(x)}
    return {f"{where}/{part}": explained(z, y) for where, z in seen.items() for part, y in parts.items()}


def explained(z: Float[Tensor, "samples dim"], y: Float[Tensor, "samples targets"]) -> float:
    """R^2 on the second half of the samples of least squares with an offset on the first; over all targets at once."""
    half = len(z) // 2
    z, y = torch.cat([z, torch.ones_like(z[:, :1])], 1).double(), y.double()
    # gelsd: an embedding need not have full rank.
    fitted = torch.linalg.lstsq(
        z[:half], y[:half], driver="gelsd" if z.device.type == "cpu" else None
    ).solution
    tested = y[half:]
    left = (tested - z[half:] @ fitted).square().sum()
    return float(1 - left / (tested - tested.mean(0)).square().sum())
