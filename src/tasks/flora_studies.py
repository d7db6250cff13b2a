"""FLoRA against a flattened LoRA on convolutions: a planted update, and digits transferred to other digits.

Si et al., "Maintaining Structural Integrity in Parameter Spaces for Parameter Efficient Fine-tuning", ICLR 2025,
arXiv 2405.14739. The paper claims that an update which keeps the axes of a convolution does better than a flattened
one of the same size; its own tables need data and training code that were never released.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.parquet import load_images
from ..models.adapters.flora import FLoRA
from ..models.adapters.inject import adapter_layers, inject
from ..models.adapters.lora import LoRA
from ..models.arguments import check_choice, check_sizes
from ..ops.tucker import tucker_product

CHANNELS, KERNEL, SIDE = 32, (3, 3), 8  # of the planted convolution, and of its images
PLANTED_RANKS = (4, 4, 2, 2)  # in, out, kernel axes
SAMPLES, PLANTED_BATCH = 256, 32
WIDTHS, CLASSES = (16, 32, 64), 5
PRETRAINING = {"samples": 6000, "steps": 300, "batch": 128, "lr": 2e-3}
FINETUNING = {"samples": 1000, "steps": 150, "batch": 64}
TESTED = 3000
METHODS = ("head", "full", "lora", "flora")


@dataclass(frozen=True)
class PlantedTuckerStudy:
    """Recovery of an update of known Tucker ranks by gradient descent on a convolution's outputs.

    A frozen 3 x 3 convolution of 32 to 32 channels is to become the one with `W + dW*`, dW* of Tucker ranks (4, 4, 2,
    2) with orthonormal factors and a Gaussian core, of norm 1. The loss is the mean squared error of the outputs on
    256 Gaussian images of 8 x 8, batches of 32, Adam. The rank of the flattened dW* is that of its out-axis, 4.
    Calling it returns `error`, the Frobenius norm `||dW - dW*||`, and `trainable`, the number of parameters.

    Args:
        method: `flora` or `lora` (flattened).
        rank: of FLoRA's axes in, out, kernel (an int: the same for all, cut at the axis); of LoRA an int.
        scale: FLoRA's s, or LoRA's c.

    Raises:
        ValueError: an unknown method, sizes below 1, a rate that is not positive, several ranks for LoRA.
    """

    method: str = "flora"
    rank: int | Sequence[int] = PLANTED_RANKS
    scale: float = 4.0
    lr: float = 1e-2
    steps: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, ("flora", "lora"))
        _check(self.method, self.rank, self.lr, steps=self.steps)

    def __call__(self) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self._run()

    def _run(self) -> dict[str, float]:
        model = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, KERNEL, padding=1))
        target = planted_update()
        images = torch.randn(SAMPLES, CHANNELS, SIDE, SIDE)
        with torch.no_grad():
            wanted = model(images) + F.conv2d(images, target, padding=1)
        adapt(model, ["0"], self.method, self.rank, self.scale)

        def loss(batch: Tensor) -> Tensor:
            return F.mse_loss(model(images[batch]), wanted[batch])

        train(model, loss, SAMPLES, steps=self.steps, batch=PLANTED_BATCH, lr=self.lr)
        (layer,) = adapter_layers(model).values()
        error = (layer.delta().detach() - target.flatten(1)).norm()
        return {"error": float(error), "trainable": float(trainable(model))}


@dataclass(frozen=True)
class DigitTransferStudy:
    """A small convolutional network pretrained on odd MNIST digits and fine-tuned on even ones.

    `DigitCNN`, 300 steps of Adam at 2e-3 on 6000 odd digits in batches of 128; then 150 steps of Adam on 1000 even
    digits in batches of 64, the head trained by every method and labels digit // 2 in both; and a test on 3000 even
    digits. Calling it returns `accuracy` (a fraction), `accuracy/odd`, that of the pretrained network on 3000 odd
    digits, and `trainable`, the number of parameters.

    Args:
        method: `head` (the head alone), `full`, `flora` or `lora` (flattened); the adapters sit at all convolutions.
        rank: of FLoRA's axes in, out, kernel, each cut at the axis' length; of LoRA an int.
        scale: FLoRA's s, or LoRA's c.
        lr: of the fine-tuning.
        new_head: draw the head anew before the fine-tuning; otherwise it goes on from the odd digits' head.
        seed: of the network, the choice of digits and the order of batches.

    Raises:
        ValueError: an unknown method, a rate that is not positive, several ranks for LoRA.
        DataError: MNIST is not there.
    """

    method: str = "flora"
    rank: int | Sequence[int] = (8, 8, 2, 2)
    scale: float = 4.0
    lr: float = 2e-3
    new_head: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        _check(self.method, self.rank, self.lr)

    def __call__(self) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self._run()

    def _run(self) -> dict[str, float]:
        model = DigitCNN()
        fit(model, digits("train", 1, PRETRAINING["samples"]), **PRETRAINING)
        odd = accuracy(model, *digits("test", 1, TESTED))
        if self.new_head:
            model.head.reset_parameters()
        data = digits("train", 0, FINETUNING["samples"])
        if self.method == "head":
            model.convolutions.requires_grad_(False)
        elif self.method != "full":
            names = [f"convolutions.{j}" for j in range(len(WIDTHS))]
            adapt(model, names, self.method, self.rank, self.scale)
            model.head.requires_grad_(True)
        fit(model, data, **FINETUNING, lr=self.lr)
        found = accuracy(model, *digits("test", 0, TESTED))
        return {"accuracy": found, "accuracy/odd": odd, "trainable": float(trainable(model))}


class DigitCNN(nn.Module):
    """Three 3 x 3 convolutions of stride 2 to 16, 32 and 64 channels, with ReLU, the mean over pixels, a head."""

    def __init__(self) -> None:
        super().__init__()
        pairs = zip((1, *WIDTHS), WIDTHS, strict=False)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, KERNEL, stride=2, padding=1, bias=False) for a, b in pairs
        )
        self.head = nn.Linear(WIDTHS[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, height, width) -> logits (batch, 5)."""
        for convolution in self.convolutions:
            x = torch.relu(convolution(x))
        return self.head(x.mean(dim=(-2, -1)))


def planted_update() -> Tensor:
    """(out, in, 3, 3) of Tucker ranks (4, 4, 2, 2), norm 1: orthonormal factors, Gaussian core."""
    lengths = (CHANNELS, CHANNELS, *KERNEL)
    pairs = zip(lengths, PLANTED_RANKS, strict=True)
    factors = [torch.linalg.qr(torch.randn(length, rank))[0] for length, rank in pairs]
    update = tucker_product(torch.randn(PLANTED_RANKS), factors)
    return (update / update.norm()).movedim(1, 0)


def adapt(
    model: nn.Module, names: Sequence[str], method: str, rank: int | Sequence[int], scale: float
) -> None:
    """Adapters at these convolutions: FLoRA with ranks cut at the axes, or LoRA with c = scale; the rest frozen."""
    for name in names:
        if method == "lora" and isinstance(rank, int):
            adapter = LoRA(rank, alpha=scale * rank)
        else:
            adapter = FLoRA(_cut(rank, model.get_parameter(f"{name}.weight")), scale=scale)
        inject(model, adapter, targets=[name])


def _cut(rank: int | Sequence[int], weight: Tensor) -> int | list[int]:
    if isinstance(rank, int):
        return rank
    out, *others = weight.shape
    return [min(pair) for pair in zip(rank, (others[0], out, *others[1:]), strict=True)]


def digits(split: str, parity: int, count: int) -> tuple[Tensor, Tensor]:
    """`count` random digits of a parity: images (count, 1, 28, 28) in 0 .. 1 and labels 0 .. 4 (digit // 2)."""
    pixels, labels, _ = load_images("mnist", split)
    chosen = (labels % 2 == parity).nonzero().squeeze(1)
    chosen = chosen[torch.randperm(len(chosen))[:count]]
    return pixels[chosen].movedim(-1, 1).float() / 255, labels[chosen] // 2


def fit(
    model: nn.Module, data: tuple[Tensor, Tensor], *, samples: int, steps: int, batch: int, lr: float
) -> None:
    """Minimises the cross-entropy on labelled images."""
    images, labels = data

    def loss(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(images[chosen]), labels[chosen])

    train(model, loss, samples, steps=steps, batch=batch, lr=lr)


def train(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    samples: int,
    *,
    steps: int,
    batch: int,
    lr: float,
) -> None:
    """Adam on the parameters that are not frozen; `loss` takes the numbers of a batch's samples."""
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    batches = shuffled(samples, batch)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(next(batches)).backward()
        optimiser.step()


def shuffled(samples: int, batch: int) -> Iterator[Tensor]:
    """Batches without end, every epoch in a new order and without its last, incomplete batch."""
    while True:
        yield from torch.randperm(samples)[: samples // batch * batch].split(batch)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The fraction of images whose largest logit is at their label."""
    return float((model(images).argmax(1) == labels).double().mean())


def trainable(model: nn.Module) -> int:
    """Parameters that are not frozen."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _check(method: str, rank: int | Sequence[int], lr: float, **sizes: int) -> None:
    check_sizes(**sizes)
    if not 0 < lr < math.inf:
        raise ValueError(f"lr={lr}: must be positive and finite")
    if method == "lora" and not isinstance(rank, int):
        raise ValueError(f"rank={rank}: LoRA has a single rank, as it flattens the weight")
