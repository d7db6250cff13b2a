"""What tensor products cost, and how many paths they have (Xie et al., ICML 2025, arXiv 2506.13523).

Three patterns of one channel: `mimo`, all degrees 0..L in both inputs to all up to 2L; `simo`, degree L in both inputs
to all up to 2L; `siso`, degree L in both inputs to degree L (L + 1 for odd L: no Gaunt
product has the path of an odd sum 3 L).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..models.equivariant.clebsch_gordan import ClebschGordanProduct
from ..models.equivariant.gaunt_product import GauntTensorProduct
from ..models.equivariant.matrix_product import MatrixProduct
from ..models.equivariant.tensor_product import TensorProduct, name_of
from ..models.equivariant.vector_product import VectorSphericalProduct
from ..ops.sphere import check_degree
from .timing import medians, one_thread

PATTERNS = ("mimo", "simo", "siso")
FOURIER_LIMIT = 8  # the tables of higher degrees do not fit


@dataclass(frozen=True)
class ProductSpeed:
    """Milliseconds of one forward pass of each product on the CPU, one thread, medians of interleaved repetitions.

    Metrics: `<name>_ms` and `<name>_us_per_output`, microseconds over the number of output irreps, for `cg` (dense),
    `e3nn`, `grid`, `separable`, `fourier`, `vector` (polar fields) and `matrix`. They compute different functions: see
    the paths.

    Args:
        degree: L.
        pattern: `mimo`, `simo` or `siso`.
        batch: pairs of inputs.
        repeats: timed calls of each, after three that are not.
        seed: of the inputs.

    Raises:
        ValueError: an unknown pattern, sizes below 1.
    """

    degree: int
    pattern: str = "mimo"
    batch: int = 2048
    repeats: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise ValueError(f"pattern is {self.pattern!r}, known are {', '.join(PATTERNS)}")
        if not 1 <= self.degree <= FOURIER_LIMIT or self.batch < 1 or self.repeats < 1:
            raise ValueError(
                f"degree={self.degree}, batch={self.batch}, repeats={self.repeats}: each must be at least 1, the "
                f"degree at most {FOURIER_LIMIT}"
            )

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        with one_thread():
            times = medians(self._calls(), self.repeats)
        outputs = len(degrees_of(self.degree, self.pattern)[1])
        per_output = {f"{name}_us_per_output": 1e3 * value / outputs for name, value in times.items()}
        return {f"{name}_ms": value for name, value in times.items()} | per_output

    def _calls(self) -> dict[str, Callable[[], Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        made = products(self.degree, self.pattern)
        first = next(iter(made.values()))
        inputs = [
            torch.randn(self.batch, irreps.dim, generator=generator)
            for irreps in (first.irreps_in1, first.irreps_in2)
        ]
        return {name: partial(product, *inputs) for name, product in made.items()}


def degrees_of(degree: int, pattern: str) -> tuple[list[int], list[int]]:
    """Degrees of both inputs, and of the output."""
    if pattern == "mimo":
        return list(range(degree + 1)), list(range(2 * degree + 1))
    return [degree], list(range(2 * degree + 1)) if pattern == "simo" else [degree + degree % 2]


def products(degree: int, pattern: str) -> dict[str, TensorProduct]:
    """The products of a pattern by name; outputs are those of its degrees that each can make."""
    inputs, outputs = degrees_of(degree, pattern)
    natural, unsigned = _irreps(inputs, natural=True), _irreps(inputs, natural=False)
    every = _irreps(outputs, natural=pattern == "mimo")
    even = _irreps([l for l in outputs if pattern == "mimo" or l % 2 == 0], natural=pattern == "mimo")
    gaunt = {
        route: GauntTensorProduct(natural, natural, even, route=route)
        for route in ("grid", "separable", "fourier")
    }
    reached = VectorSphericalProduct(natural, natural, fields=("polar",)).irreps_out
    vector_out = [part for part in reached if part.ir.l in outputs]
    return {
        "cg": ClebschGordanProduct(natural, natural, every),
        "e3nn": ClebschGordanProduct(natural, natural, every, backend="e3nn"),
        **gaunt,
        "vector": VectorSphericalProduct(natural, natural, vector_out, fields=("polar",)),
        "matrix": MatrixProduct(unsigned, unsigned, _irreps(outputs, natural=False)),
    }


def _irreps(degrees: Iterable[int], *, natural: bool) -> str:
    return "+".join(f"1x{name_of((l, (-1) ** l if natural else 1))}" for l in degrees)


@dataclass(frozen=True)
class PathCounts:
    """Paths (l1, l2, l3) of inputs of all degrees 0..L to all up to 2L, and how many the products have.

    Metrics: `paths/all`, `paths/even` (l1 + l2 + l3 even), `paths/odd`, and of each product the triples that it
    couples: `gaunt`, `vector`, `matrix`; `outputs/gaunt`, the irreps that it makes.

    Args:
        degree: L.

    Raises:
        ValueError: a negative degree.
    """

    degree: int

    def __post_init__(self) -> None:
        check_degree(self.degree)

    def __call__(self) -> dict[str, float]:
        degrees = range(self.degree + 1)
        triples = [(a, b, c) for a in degrees for b in degrees for c in range(abs(a - b), a + b + 1)]
        even = sum(sum(triple) % 2 == 0 for triple in triples)
        natural = _irreps(degrees, natural=True)
        gaunt = GauntTensorProduct(natural, natural)
        vector = VectorSphericalProduct(natural, natural)
        unsigned = _irreps(degrees, natural=False)
        coupled = {
            "gaunt": gaunt.paths, "vector": vector.paths, "matrix": MatrixProduct(unsigned, unsigned).paths
        }  # fmt: skip
        found = {f"paths/{name}": len({path[::2] for path in paths}) for name, paths in coupled.items()}
        counts = {"paths/all": len(triples), "paths/even": even, "paths/odd": len(triples) - even}
        return {k: float(v) for k, v in (counts | found | {"outputs/gaunt": len(gaunt.irreps_out)}).items()}
