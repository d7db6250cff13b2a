"""Adapters on a two-layer perceptron: trained on odd digits, adapted to even ones (no Lightning training).

The toy of the PiSSA repository (arXiv 2404.02948), with more PCA dimensions than ranks, so that a rank-r pair is not
the whole layer. MNIST: the first 10000 odd digits of the training set with labels (d - 1) / 2 for pretraining, the
first 1000 even ones with labels d / 2 for adaptation, the next 4000 even ones as test. Pixels 0..255 are projected on
the principal components of both training parts and divided by the overall standard deviation. Perceptron
`dims -> 128 -> 5` without biases, Adam on the full batch, one rate before (200 steps) and after (100 steps).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from ..data.parquet import load_images
from ..models.adapters.dora import DoRA
from ..models.adapters.inject import adapter_layers, inject
from ..models.adapters.layer import Adapter
from ..models.adapters.lora import LoRA
from ..models.adapters.pissa import PiSSA
from ..models.adapters.sorsa import SORSA, SORSALayer
from ..models.arguments import check_choice, check_sizes
from ..ops.orthonormality import REGULARISERS, regulariser, variation
from ..optim.orthonormal import OrthonormalAdamW

ADAPTERS: dict[str, Callable[[int], Adapter]] = {
    "lora": lambda rank: LoRA(rank),
    "rslora": lambda rank: LoRA(rank, rslora=True),
    "dora": lambda rank: DoRA(rank),
    "pissa": lambda rank: PiSSA(rank),
    "minor": lambda rank: PiSSA(rank, minor=True),
    "sorsa": lambda rank: SORSA(rank),
}
METHODS = ("full", *ADAPTERS)
PRETRAINING, ADAPTATION, TEST = 10_000, 1_000, 4_000  # digits
PRETRAINING_STEPS, MARKS = 200, (25, 50, 100)
WIDTH, CLASSES = 128, 5
LAYERS = ("first", "second")


class Digits(NamedTuple):
    """Images as features, and labels 0..4."""

    x: Float[Tensor, "digits dims"]
    y: Int[Tensor, " digits"]


@dataclass(frozen=True)
class AdapterToy:
    """Adapts the pretrained perceptron by one method. Calling it returns

    | name | meaning |
    |---|---|
    | `loss/25`, `loss/50`, `loss/100` | cross-entropy in nats on the adaptation digits after so many steps |
    | `accuracy` | on the test digits, at the end |
    | `dsigma/1`, `dsigma/2`, `dd/1`, `dd/2` | `ops.orthonormality.variation` of either layer, by index |
    | `dd_assigned/1`, `dd_assigned/2` | dD with the triplets paired by assignment |
    | `ortho` | of `sorsa`: the mean of `||F^T F - I||_F` over its four factors, at the end |

    Args:
        method: full, lora, rslora, dora, pissa, minor (the smallest triplets) or sorsa; c = 1, of rslora sqrt(rank).
        lr: of both trainings.
        gamma, regularised: of `sorsa`, see `OrthonormalAdamW`.
        rank: of both layers; at most what their weights have.
        dims: of the PCA.
        scaled: features divided by their standard deviation.
        seed: of the weights.

    Raises:
        ValueError: an unknown method or regulariser, a number out of range, gamma with another method than sorsa.
        DataError: MNIST is not there.
    """

    method: str = "pissa"
    lr: float = 2e-3
    gamma: float = 0.0
    regularised: str = "smooth"
    rank: int = 4
    dims: int = 64
    scaled: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("regularised", self.regularised, REGULARISERS)
        check_sizes(rank=self.rank, dims=self.dims)
        if self.lr <= 0 or self.gamma < 0:
            raise ValueError(f"lr={self.lr}, gamma={self.gamma}: lr must be positive, gamma not negative")
        if self.gamma and self.method != "sorsa":
            raise ValueError(f"gamma={self.gamma}: must be 0 for method={self.method!r}, it is SORSA's")

    def __call__(self) -> dict[str, float]:
        pixels, labels, _ = load_images("mnist", "train")
        return self.study(*digits(pixels, labels, self.dims, scaled=self.scaled))

    def study(self, before: Digits, after: Digits, test: Digits) -> dict[str, float]:
        """The measures above, from any digits."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = perceptron(before.x.shape[1])
            train(model, OrthonormalAdamW(model, lr=self.lr), before, PRETRAINING_STEPS)
            start = {name: weight.clone() for name, weight in weights(model).items()}
            self.adapt(model)
        optimiser = OrthonormalAdamW(model, lr=self.lr, gamma=self.gamma, regulariser=self.regularised)
        losses = train(model, optimiser, after, max(MARKS))
        found = {f"loss/{mark}": losses[mark] for mark in MARKS}
        with torch.no_grad():
            found["accuracy"] = float((model(test.x).argmax(1) == test.y).double().mean())
        for number, (name, end) in enumerate(weights(model).items(), 1):
            found[f"dsigma/{number}"], found[f"dd/{number}"] = variation(start[name], end)
            found[f"dd_assigned/{number}"] = variation(start[name], end, "assignment")[1]
        return found | self.ortho(model)

    def adapt(self, model: nn.Module) -> None:
        """Puts the method's adapters into both layers."""
        if self.method == "full":
            return
        for name, weight in weights(model).items():
            rank = min(self.rank, *weight.shape)
            inject(model, ADAPTERS[self.method](rank), targets=name)

    def ortho(self, model: nn.Module) -> dict[str, float]:
        """How far SORSA's factors are from orthonormal; nothing for other methods."""
        if self.method != "sorsa":
            return {}
        layers = [layer for layer in adapter_layers(model).values() if isinstance(layer, SORSALayer)]
        factors = [side.detach() for layer in layers for side in (layer.U, layer.Vh.mT)]
        return {"ortho": regulariser(factors)}


def perceptron(dims: int) -> nn.Module:
    """`dims -> 128 -> 5` with ReLU, no biases, torch's own start."""
    model = nn.Sequential()
    model.add_module("first", nn.Linear(dims, WIDTH, bias=False))
    model.add_module("relu", nn.ReLU())
    model.add_module("second", nn.Linear(WIDTH, CLASSES, bias=False))
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The effective weights (out, in) of both layers by name, adapters included."""
    return {name: model.get_submodule(name).weight.detach() for name in LAYERS}  # type: ignore[union-attr]


def train(model: nn.Module, optimiser: OrthonormalAdamW, data: Digits, steps: int) -> list[float]:
    """Full-batch steps; the loss after 0 .. `steps` of them."""
    losses = []
    for step in range(steps + 1):
        loss = F.cross_entropy(model(data.x), data.y)
        losses.append(loss.item())
        if step < steps:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return losses


def digits(
    pixels: UInt8[Tensor, "images height width channels"],
    labels: Int[Tensor, " images"],
    dims: int,
    *,
    scaled: bool,
) -> tuple[Digits, Digits, Digits]:
    """Pretraining, adaptation and test digits as features: PCA of the former two, in float64.

    Raises:
        ValueError: fewer digits than the parts need, or more dimensions than pixels.
    """
    odd, even = (labels % 2 == 1).nonzero()[:, 0], (labels % 2 == 0).nonzero()[:, 0]
    if len(odd) < PRETRAINING or len(even) < ADAPTATION + TEST or dims > pixels[0].numel():
        raise ValueError(
            f"{len(odd)} odd and {len(even)} even digits of {pixels[0].numel()} pixels are not enough for "
            f"{PRETRAINING} and {ADAPTATION + TEST} in dims={dims}"
        )
    odd, even = odd[:PRETRAINING], even[: ADAPTATION + TEST]
    chosen = torch.cat([odd, even])
    x = pixels[chosen].flatten(1).double()
    fitted = x[: PRETRAINING + ADAPTATION]
    centred = fitted - fitted.mean(0)
    components = torch.linalg.eigh(centred.mT @ centred).eigenvectors.flip(1)[:, :dims]
    features = (x - fitted.mean(0)) @ components
    if scaled:
        features = features / features[: PRETRAINING + ADAPTATION].std()
    sizes = [PRETRAINING, ADAPTATION, TEST]
    parts = zip(features.float().split(sizes), (labels[chosen] // 2).split(sizes), strict=True)
    before, after, test = (Digits(*part) for part in parts)
    return before, after, test
