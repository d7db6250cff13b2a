"""Whether the routes of the Gaunt product agree, and how fast they are beside e3nn's product (no training).

Luo et al., "Enabling Efficient Equivariant Operations in the Fourier Basis via Gaunt Tensor Products", ICLR 2024,
arXiv 2401.10216. The routes are those of `ops.gaunt`; the peer is e3nn's `TensorProduct` of the same function, "uuu"
paths with weights g^2.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..models.arguments import check_sizes
from ..ops.angular import gaunt_factor
from ..ops.gaunt import gaunt_plan, gaunt_product
from ..ops.sphere import check_degree, components, spherical_harmonics, wigner_d
from .timing import medians, one_thread

ON_GRIDS = ("grid", "separable", "fourier")
LARGEST_PEER = 11  # degree of e3nn's 3j symbols
LARGEST_DENSE = 5  # degree from which on the whole tensor is out of proportion
SINGLE, DOUBLE = torch.float32, torch.float64


@dataclass(frozen=True)
class GauntParity:
    """Largest relative errors of all products of degrees 0 .. L1 and 0 .. L2 with L1, L2 <= `degree`, to every L3.

    Calling it returns

    | name | meaning |
    |---|---|
    | `closed/float64`, `closed/float32` | of every route against `|g| wigner_3j` in float64 |
    | `equivariance/float64`, `equivariance/float32` | of every route under a rotation and under a reflection |
    | `homomorphism` | of the values of z against the products of the values of x and y, full output, float64 |

    Args:
        degree: the largest.
        samples: rows of random coefficients.
        seed: of them and of the rotation.

    Raises:
        ValueError: no sample; a negative degree.
    """

    degree: int = 3
    samples: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(samples=self.samples)
        check_degree(self.degree)

    def __call__(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed(self.seed)
        rotation = torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE, generator=generator))[0]
        found: dict[str, float] = {}
        for l1 in range(self.degree + 1):
            for l2 in range(self.degree + 1):
                x, y = (
                    torch.randn(self.samples, components(n), dtype=DOUBLE, generator=generator)
                    for n in (l1, l2)
                )
                for l3 in range(l1 + l2 + 1):
                    _raise(found, _agreement(x, y, l3))
                    _raise(found, _equivariance(x, y, l3, rotation))
                _raise(found, {"homomorphism": _homomorphism(x, y, l1 + l2, generator)})
        return found


def _raise(found: dict[str, float], new: Mapping[str, float]) -> None:
    """The larger of each."""
    for name, value in new.items():
        found[name] = max(found.get(name, 0.0), value)


def _agreement(x: Tensor, y: Tensor, degree_out: int) -> dict[str, float]:
    exact = gaunt_product(x, y, degree_out, route="dense")
    return {
        f"closed/{str(dtype).split('.')[1]}": max(
            _relative(gaunt_product(x.to(dtype), y.to(dtype), degree_out, route=route), exact)
            for route in ON_GRIDS
        )
        for dtype in (DOUBLE, SINGLE)
    }


def _equivariance(x: Tensor, y: Tensor, degree_out: int, rotation: Tensor) -> dict[str, float]:
    errors = {}
    for dtype in (DOUBLE, SINGLE):
        for route in ON_GRIDS:
            for element in (rotation, -rotation):
                f, g = (_rotated(t, element).to(dtype) for t in (x, y))
                z = gaunt_product(x.to(dtype), y.to(dtype), degree_out, route=route)
                turned = gaunt_product(f, g, degree_out, route=route)
                error = _relative(turned, _rotated(z.double(), element))
                _raise(errors, {f"equivariance/{str(dtype).split('.')[1]}": error})
    return errors


def _homomorphism(x: Tensor, y: Tensor, degree_out: int, generator: torch.Generator) -> float:
    points = torch.randn(len(x), 3, dtype=DOUBLE, generator=generator)
    values = spherical_harmonics(degree_out, points, normalise=True)
    z = gaunt_product(x, y, degree_out)
    exact = (x * values[:, : x.shape[1]]).sum(1) * (y * values[:, : y.shape[1]]).sum(1)
    return _relative((z * values).sum(1), exact)


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    parts, degree = [], 0
    while components(degree - 1) < x.shape[-1]:
        parts.append(x[:, components(degree - 1) : components(degree)] @ wigner_d(degree, rotation).mT)
        degree += 1
    return torch.cat(parts, -1)


def _relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())


@dataclass(frozen=True)
class GauntSpeed:
    """Median milliseconds of one product on one CPU thread, float32, one channel; all are called in turns.

    Calling it returns `<name>_ms` of the forward pass and `<name>_train_ms` of forward and backward, for the names
    `grid`, `separable`, `fourier`, `auto`, and, where they can be had, `dense` (degree <= 5) and `e3nn`
    (its 3j symbols end at degree 11); and `difference`, the largest relative one between `auto` and e3nn.

    Args:
        degree: L of both inputs.
        degree_out: None: L.
        batch: rows.
        repetitions: of each, after 3 that do not count.
        seed: of the random coefficients.

    Raises:
        ValueError: a size below 1; an output degree above 2 L.
    """

    degree: int = 4
    degree_out: int | None = None
    batch: int = 2048
    repetitions: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(degree=self.degree, batch=self.batch, repetitions=self.repetitions)
        if self.degree_out is not None and not 0 <= self.degree_out <= 2 * self.degree:
            raise ValueError(f"degree_out is {self.degree_out}, it must be in 0 .. {2 * self.degree}")

    def __call__(self) -> dict[str, float]:
        with one_thread():
            return self._measure()

    def _measure(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed(self.seed)
        degree_out = self.degree if self.degree_out is None else self.degree_out
        x, y, direction = (
            torch.randn(self.batch, components(n), generator=generator)
            for n in (self.degree, self.degree, degree_out)
        )
        products = self._products(degree_out)
        found: dict[str, float] = {}
        for suffix, call in (("ms", _forward(x, y)), ("train_ms", _with_gradients(x, y, direction))):
            times = medians(
                {name: partial(call, product) for name, product in products.items()}, self.repetitions
            )
            found |= {f"{name}_{suffix}": value for name, value in times.items()}
        if "e3nn" in products:
            found["difference"] = _relative(products["auto"](x, y), products["e3nn"](x, y).double())
        return found

    def _products(self, degree_out: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        names = [*ON_GRIDS, "auto", *(["dense"] if self.degree <= LARGEST_DENSE else [])]
        found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            name: _planned(self.degree, degree_out, name) for name in names
        }
        if degree_out <= LARGEST_PEER:
            found["e3nn"] = peer_product(self.degree, degree_out)
        return found


def _planned(degree: int, degree_out: int, route: str) -> Callable[[Tensor, Tensor], Tensor]:
    plan = gaunt_plan(degree, degree, degree_out, route=route, dtype=SINGLE)
    return lambda x, y: gaunt_product(x, y, plan=plan)


def _forward(x: Tensor, y: Tensor) -> Callable[[Callable], Any]:
    return lambda product: product(x, y)


def _with_gradients(x: Tensor, y: Tensor, direction: Tensor) -> Callable[[Callable], Any]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    return lambda product: torch.autograd.grad(product(x, y), (x, y), direction)


def peer_product(degree: int, degree_out: int) -> Any:
    """e3nn's module of the same function: the paths of even degree sum with weights g^2, unnormalised.

    Its 3j symbols end at degree 11.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from e3nn import o3
    inputs, outputs = (
        o3.Irreps([(1, (n, (-1) ** n)) for n in range(top + 1)]) for top in (degree, degree_out)
    )
    instructions = [
        (a, b, c, "uuu", False, gaunt_factor(a, b, c) ** 2)
        for a in range(degree + 1)
        for b in range(degree + 1)
        for c in range(abs(a - b), min(a + b, degree_out) + 1, 2)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return o3.TensorProduct(
            inputs, inputs, outputs, instructions, irrep_normalization="none", path_normalization="none"
        )
