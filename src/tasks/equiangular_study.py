"""How near to the Welch bound the generators of equiangular basis vectors come.

Shen, Sun, Wei, "Equiangular Basis Vectors", CVPR 2023, arXiv 2303.11637; see `eigenzoo.ops.equiangular`.
"""

import time
from dataclasses import dataclass

from ..models.arguments import check_choice, check_sizes
from ..ops.equiangular import METHODS, equiangular_vectors


@dataclass(frozen=True)
class EquiangularGeometryStudy:
    """Makes one set of unit vectors. Calling it returns

    | name | meaning |
    |---|---|
    | `max_cosine`, `mean_cosine` | of the |cos| of different vectors |
    | `welch` | the bound that no max_cosine is below |
    | `ratio_to_welch` | max_cosine / welch, where count > dim |
    | `steps`, `seconds` | taken |

    Args:
        count: vectors.
        dim: of the space.
        method: one of `ops.equiangular.METHODS`.
        alpha: |cos| that the hinge tolerates; None is 1.3 x the Welch bound.
        steps: at most; None is the method's own number.

    Raises:
        ValueError: sizes below 1, an unknown method; when called, what `equiangular_vectors` refuses.
    """

    count: int = 100
    dim: int = 25
    method: str = "logsumexp"
    alpha: float | None = None
    steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(count=self.count, dim=self.dim)
        check_choice("method", self.method, METHODS)

    def __call__(self) -> dict[str, float]:
        begin = time.perf_counter()
        report = equiangular_vectors(
            self.count,
            self.dim,
            method=self.method,
            alpha="auto" if self.alpha is None else self.alpha,
            steps=self.steps,
            seed=self.seed,
        ).report
        found = {
            "max_cosine": report.max_cosine,
            "mean_cosine": report.mean_cosine,
            "welch": report.welch,
            "steps": float(report.steps),
            "seconds": time.perf_counter() - begin,
        }
        return found | ({"ratio_to_welch": report.max_cosine / report.welch} if report.welch else {})
