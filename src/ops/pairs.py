"""Complex arithmetic on pairs of real tensors.

Inductor has no code for complex tensors, and real exponentials, sines and matrix products are the faster ones
on a CPU; parameters are stored as real pairs anyway.
"""

from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

_ZERO_BELOW = 1e-12  # |z| that counts as 0 where a quotient (exp(z) - 1)/z is formed


class Pair(NamedTuple):
    """A complex tensor as its real and imaginary part, two real tensors of shapes that broadcast."""

    re: Float[Tensor, "..."]
    im: Float[Tensor, "..."]

    def to(self, dtype: torch.dtype) -> "Pair":
        """Both parts in another real type."""
        return Pair(self.re.to(dtype), self.im.to(dtype))

    def scale(self, factor: Float[Tensor, "..."] | float | int) -> "Pair":
        """The product with something real."""
        return Pair(self.re * factor, self.im * factor)

    def repeat(self, times: int) -> "Pair":
        """`times` copies one after the other along the first axis; 1 is the pair itself."""
        if times == 1:
            return self
        return Pair(*(part.repeat(times, *[1] * (part.ndim - 1)) for part in self))

    def complex(self) -> Complex[Tensor, "..."]:
        """The same numbers as one complex tensor."""
        return torch.complex(*torch.broadcast_tensors(self.re, self.im))


def to_pair(z: Complex[Tensor, "..."]) -> Pair:
    """The pair of a complex tensor."""
    return Pair(z.real, z.imag)


def multiply(a: Pair, b: Pair) -> Pair:
    """a b"""
    return Pair(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re)


def divide(a: Pair, b: Pair) -> Pair:
    """a / b"""
    inverse = 1 / (b.re.square() + b.im.square())
    return multiply(a, Pair(b.re * inverse, -b.im * inverse))


def expm1(z: Pair) -> Pair:
    """exp(z) - 1, accurate for small z: `expm1(x) - 2 e^x sin^2(y/2) + i e^x sin y`."""
    modulus = torch.exp(z.re)
    return Pair(torch.expm1(z.re) - 2 * modulus * torch.sin(z.im / 2).square(), modulus * torch.sin(z.im))


def phi1(z: Pair) -> Pair:
    """(exp(z) - 1)/z, 1 at z = 0."""
    zero = z.re.square() + z.im.square() < _ZERO_BELOW**2
    safe = Pair(torch.where(zero, _ZERO_BELOW, z.re), torch.where(zero, 0.0, z.im))
    return divide(expm1(safe), safe)


def log_mobius(z: Pair) -> Pair:
    """log((1 + z/2)/(1 - z/2)) on some branch; finite at z = -2, where the quotient is 0."""
    x, y = z.re / 2, z.im / 2
    zero = (1 + x).square() + y.square() < _ZERO_BELOW**2
    above = torch.where(zero, _ZERO_BELOW, 1 + x)
    modulus = torch.log(above.square() + y.square()) - torch.log((1 - x).square() + y.square())
    return Pair(modulus / 2, torch.atan2(y, above) + torch.atan2(y, 1 - x))


def stored_pair(stored: Float[Tensor, "... parts"]) -> Pair:
    """The float64 pair of a real tensor with a trailing axis of (real, imaginary) or of (real,)."""
    real = stored[..., 0].double()
    return Pair(real, stored[..., 1].double() if stored.shape[-1] == 2 else torch.zeros_like(real))
