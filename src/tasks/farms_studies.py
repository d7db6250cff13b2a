"""Spectra without the bias of the aspect ratio: random matrices, and pruning by their exponents (no training).

Hu, Goel, Killiakov, Yang, "Eigenspectrum Analysis of Neural Networks without Aspect Ratio Bias" (FARMS), ICML 2025,
arXiv 2506.06280. The paper claims that exponents of windows of one aspect ratio rank layers of different shape, and
that pruning ratios and learning rates from them are better than those from the full spectra. Differs: magnitude
pruning of a small language model, in place of Wanda and SparseGPT on large ones; random matrices have a closed form.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..models.arguments import check_choice, check_sizes
from ..models.compression.pruning import RULES as PRUNING_RULES
from ..models.compression.pruning import prune_by_magnitude, sparsity_ratios
from ..ops.submatrices import Windows
from ..ops.tails import LEAST_POINTS, RULES, marchenko_pastur_alpha, weight_exponent
from .compression_study import mean_loss, on_device
from .inputs import Batch

DISTRIBUTIONS = ("gaussian", "student")


@dataclass(frozen=True)
class RandomSpectrum:
    """Exponents (rule `median`) of a matrix of independent entries. Calling it returns

    | name | meaning |
    |---|---|
    | `alpha/full` | of the full spectrum |
    | `alpha/farms` | of square windows |
    | `law/full`, `law/farms` | of an infinite Gaussian matrix of the aspect ratio of the matrix and of the windows |

    Args:
        distribution: `gaussian`, or `student` with `degrees` of freedom (heavy-tailed).
        size: of the windows, `positions` starts per axis.

    Raises:
        ValueError: an unknown distribution, a size below 1.
    """

    rows: int = 128
    columns: int = 128
    distribution: str = "gaussian"
    degrees: int = 3
    size: int = 64
    positions: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("distribution", self.distribution, DISTRIBUTIONS)
        check_sizes(rows=self.rows, columns=self.columns, degrees=self.degrees)
        check_sizes(size=self.size, positions=self.positions)

    def __call__(self) -> dict[str, float]:
        matrix = self.draw()
        return {
            "alpha/full": weight_exponent(matrix),
            "alpha/farms": weight_exponent(matrix, Windows(self.size, positions=self.positions)),
            "law/full": marchenko_pastur_alpha(self.columns / self.rows),
            "law/farms": marchenko_pastur_alpha(1.0),
        }

    def draw(self) -> Tensor:
        """The matrix (rows, columns)."""
        generator = torch.Generator().manual_seed(self.seed)
        normal = torch.randn(self.rows, self.columns, generator=generator)
        if self.distribution == "gaussian":
            return normal
        squares = torch.randn(self.degrees, self.rows, self.columns, generator=generator).square().mean(0)
        return normal / squares.sqrt()


@dataclass(frozen=True, eq=False)
class PruningStudy:
    """Validation loss of a language model whose smallest weights are set to zero, with a ratio per block.

    All linear layers in its blocks are pruned, in one shot and without training afterwards. Calling it returns

    | name | meaning |
    |---|---|
    | `loss/dense` | of the base, in nats per token |
    | `loss@e` | pruned, for each e of `eps`; of the rule `uniform` there is only `loss` |
    | `loss`, `eps` | the least of them, and its e (0 for `uniform`) |
    | `ratio/min`, `ratio/max` | of the layers at that e |
    | `sparsity` | share of the weights that are zero at that e |

    Args:
        base: the trained model, tokens to logits.
        data: a data module of windows of text; the loss is that of its whole validation part.
        rule: `uniform`, `alpha` (full spectra) or `farms`.
        sparsity: share of weights to be removed.
        eps: spreads of the ratios that are tried.
        size: of the square windows of `farms`, five positions per axis.
        tail, least: rule of the exponent, and the points that a tail needs; the published code has `fix_finger` with 2.

    Raises:
        ValueError: an unknown rule, a number out of range.
        DataError: there is no validation part.
    """

    base: nn.Module
    data: Any
    rule: str = "farms"
    sparsity: float = 0.6
    eps: Sequence[float] = (0.1, 0.2, 0.3)
    size: int = 64
    tail: str = "fix_finger"
    least: int = LEAST_POINTS

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, PRUNING_RULES)
        check_choice("tail", self.tail, RULES)
        check_sizes(size=self.size, least=self.least)
        if not 0 <= self.sparsity <= 1 or not self.eps or not all(0 <= e < 1 for e in self.eps):
            raise ValueError(
                f"sparsity={self.sparsity}, eps={list(self.eps)}: must lie in [0, 1], eps below 1"
            )

    def __call__(self) -> dict[str, float]:
        batches = self._batches()
        found = {"loss/dense": mean_loss(self.base.eval(), batches)}
        tried = []
        for eps in (0.0,) if self.rule == "uniform" else self.eps:
            loss, ratios, sparsity = self._pruned(eps, batches)
            tried.append((loss, eps, min(ratios.values()), max(ratios.values()), sparsity))
            if self.rule != "uniform":
                found[f"loss@{eps:g}"] = loss
        names = ("loss", "eps", "ratio/min", "ratio/max", "sparsity")
        return found | dict(zip(names, min(tried), strict=True))

    def _pruned(self, eps: float, batches: Sequence[Batch]) -> tuple[float, dict[str, float], float]:
        """Loss, ratios and share of zeros of a pruned copy."""
        model = copy.deepcopy(self.base)
        ratios = sparsity_ratios(
            model,
            self.sparsity,
            rule=self.rule,
            eps=eps,
            windows=Windows(self.size),
            tail=self.tail,
            least=self.least,
        )
        removed = sum(prune_by_magnitude(model, ratios).values())
        total = sum(model.get_submodule(name).weight.numel() for name in ratios)  # type: ignore[union-attr]
        return mean_loss(model, batches), ratios, removed / total

    def _batches(self) -> list[Batch]:
        self.data.prepare_data()
        self.data.setup("fit")
        device = next(self.base.parameters()).device
        found: list[Batch] = [on_device(batch, device) for batch in self.data.val_dataloader()]
        if not found:
            raise DataError("the study needs a validation part; its data have none")
        return found
