"""What frozen features say of labels, by nearest neighbours and by a linear probe; how redundant embeddings are.

Everything stays on the device of the features.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchmetrics import Metric

from ..ops.precision import without_autocast

Features = Float[Tensor, "samples dim"]
Labels = Int[Tensor, " labels"]  # as many, which is checked with a message of its own


class Neighbours(nn.Module):
    """Weighted k-nearest neighbours by cosine (Wu et al. 2018, arXiv 1805.01978).

    Of the `k` stored samples with the largest cosine s_i, each votes for its class with the weight
    `exp(s_i / temperature)`.

    Raises:
        ValueError: k outside 1 .. samples, a temperature that is not positive, unequal numbers of rows.
    """

    def __init__(
        self, features: Features, labels: Labels, num_classes: int, *, k: int = 20, temperature: float = 0.07
    ):
        super().__init__()
        if len(features) != len(labels):
            raise ValueError(f"features: {len(features)} samples, and labels of {len(labels)}")
        if not 1 <= k <= len(features):
            raise ValueError(f"k={k}: must lie in 1 .. {len(features)}, the number of samples")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: must be positive")
        self.num_classes, self.k, self.temperature = num_classes, k, temperature
        self.register_buffer("bank", F.normalize(features.detach(), dim=1), persistent=False)
        self.register_buffer("labels", labels, persistent=False)

    @torch.no_grad()
    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """The votes per class; the prediction is the class with the most."""
        with without_autocast(features.device):
            near, index = (F.normalize(features, dim=1) @ self.bank.mT).topk(self.k, dim=1)  # type: ignore[union-attr]
        # exp((s - 1) / T): the same weights up to a factor, and never an overflow.
        weights = ((near - 1) / self.temperature).exp()
        votes = weights.new_zeros(len(features), self.num_classes)
        return votes.scatter_add_(1, self.labels[index], weights)  # type: ignore[index]


class LinearProbe(nn.Module):
    """Multinomial logistic regression on standardised features, fitted to the end: no rate and no schedule to choose.

        min_{W, b}  mean_i CE(W x_i + b, y_i) + decay / 2 ||W||_F^2,     x standardised per feature

    by L-BFGS on all samples at once. The problem is convex, so that the start (0) and the order do not matter.

    Args:
        decay: of the weights.
        steps: iterations at most.

    Raises:
        ValueError: a negative decay, steps below 1, unequal numbers of rows.
    """

    def __init__(
        self, features: Features, labels: Labels, num_classes: int, *, decay: float = 1e-3, steps: int = 100
    ):
        super().__init__()
        if len(features) != len(labels):
            raise ValueError(f"features: {len(features)} samples, and labels of {len(labels)}")
        if not decay >= 0 or steps < 1:
            raise ValueError(f"decay={decay}, steps={steps}: must not be negative, and at least 1")
        features, labels = features.detach().clone(), labels.clone()
        mean, sd = features.mean(0), features.std(0, correction=0)
        sd = torch.where(sd > 0, sd, 1.0)  # a constant feature says nothing
        x = (features - mean) / sd
        with torch.inference_mode(False), torch.enable_grad(), without_autocast(features.device):
            weight, bias = _fitted(x.clone(), labels.clone(), num_classes, decay, steps)
        self.register_buffer("weight", weight / sd, persistent=False)
        self.register_buffer("bias", bias - (weight * (mean / sd)).sum(1), persistent=False)

    @torch.no_grad()
    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        with without_autocast(features.device):
            return F.linear(features, self.weight, self.bias)  # type: ignore[arg-type]


def _fitted(x: Tensor, labels: Tensor, num_classes: int, decay: float, steps: int) -> tuple[Tensor, Tensor]:
    weight = x.new_zeros(num_classes, x.shape[1], requires_grad=True)
    bias = x.new_zeros(num_classes, requires_grad=True)
    fit = torch.optim.LBFGS([weight, bias], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        fit.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), labels) + 0.5 * decay * weight.square().sum()
        loss.backward()
        return loss

    fit.step(closure)  # pyright: ignore[reportArgumentType]
    return weight.detach(), bias.detach()


class Redundancy(Metric):
    """The mean square of the cross-correlation off its diagonal, over all samples of all processes.

        mean_{i != j} C_ij^2,     C_ij the correlation of coordinate i in one view with coordinate j in the other

    A coordinate that is constant has correlation 0. Sums are kept in float64, D^2 numbers.

    Args:
        dim: D, at least 2.
    """

    full_state_update = False
    count: Tensor
    totals: Tensor
    squares: Tensor
    products: Tensor

    def __init__(self, dim: int):
        super().__init__()
        if dim < 2:
            raise ValueError(f"dim={dim}: redundancy is between coordinates, of which there must be two")
        self.dim = dim
        shapes = {"count": (), "totals": (2, dim), "squares": (2, dim), "products": (dim, dim)}
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        z_a: Float[Tensor, "batch dim"],
        z_b: Float[Tensor, "batch dim"],
        weight: Float[Tensor, " batch"],
    ) -> None:
        """Adds samples as seen in two views; those of weight 0 do not count."""
        z, weight = torch.stack([z_a, z_b]).double(), weight.double()
        self.count += weight.sum()
        self.totals += weight @ z
        self.squares += weight @ z.square()
        self.products += (weight[:, None] * z[0]).mT @ z[1]

    def compute(self) -> Tensor:
        means, squares = self.totals / self.count, self.squares / self.count
        variances = squares - means.square()
        # Below this a variance is the rounding of the two sums that it is the difference of.
        scales = torch.where(variances > 1e-12 * squares, variances.rsqrt(), 0.0)
        c = (self.products / self.count - torch.outer(means[0], means[1])) * torch.outer(scales[0], scales[1])
        return (c.square().sum() - c.diagonal().square().sum()) / (self.dim * (self.dim - 1))
