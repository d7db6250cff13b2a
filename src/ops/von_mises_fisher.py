"""The von Mises-Fisher distribution on the unit sphere of R^p: density, fit, samples; p to 32768 and more.

    log f(z) = kappa mu.z + (p/2 - 1) log kappa - (p/2) log 2 pi - log I_(p/2-1)(kappa)

Fitted as by Plesner, Sorensen, Hauberg, ICS 2024, arXiv 2409.08729: with Rbar the length of the mean, mu = mean / Rbar
and kappa solves A_p(kappa) = I_(p/2) / I_(p/2-1) = Rbar by Newton's method from

    kappa_0 = Rbar (p - Rbar^2) / (1 - Rbar^2)      (Banerjee et al., JMLR 2005),  A' = 1 - A^2 - (p-1) A / kappa.

The paper claims that fits succeed at p = 2048, 8192 and 32768, where other libraries over- or underflow. What differs
here: A_p comes from expansions of the ratio itself, not as the exponential of a difference of logarithms.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from .bessel import iv_ratio, log_iv_over_power

UNIT = 1e-3  # how far from 1 the length of a unit vector may be: bfloat16 rounds by 4e-3 of an entry, not of a length
_FLAT = 1e-14  # slopes of A_p below are lost in rounding


class VonMisesFisher(NamedTuple):
    """A fitted distribution, in float64: mean direction, concentration, length of the samples' mean (corrected)."""

    mean: Float64[Tensor, "*batch dim"]
    kappa: Float64[Tensor, "*batch"]
    resultant: Float64[Tensor, "*batch"]


def bessel_ratio(dim: int, kappa: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """A_p(kappa) = I_(p/2)(kappa) / I_(p/2-1)(kappa), the mean of mu.z, p = `dim`; differentiable.

    Raises:
        ValueError: dim below 2; a negative or NaN kappa.
    """
    _check_dim(dim)
    return iv_ratio(dim / 2 - 1, kappa)


def vmf_log_normaliser(dim: int, kappa: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """log c of the density c exp(kappa mu.z), p = `dim`; -log area of the sphere at kappa = 0; differentiable.

    Raises:
        ValueError: dim below 2; a negative or NaN kappa.
    """
    _check_dim(dim)
    return -log_iv_over_power(dim / 2 - 1, kappa) - dim / 2 * math.log(2 * math.pi)


def vmf_log_prob(
    z: Float[Tensor, "*batch dim"], mean: Float[Tensor, "*#batch dim"], kappa: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch"]:
    """log f(z), differentiable in all three. Unit vectors are expected, not made.

    Raises:
        ValueError: dim below 2, a vector that is not of length 1, a negative or NaN kappa.
    """
    check_unit("z", z)
    check_unit("mean", mean)
    return kappa * (z * mean).sum(-1) + vmf_log_normaliser(z.shape[-1], kappa)


def fit_vmf(z: Float[Tensor, "*batch n dim"], *, unbias: bool = False, steps: int = 8) -> VonMisesFisher:
    """The distribution of greatest likelihood of n unit vectors.

    Args:
        unbias: Rbar^2 -> (n Rbar^2 - 1) / (n - 1), at least 0: the length of the mean of few samples is too large.
        steps: of Newton's method.

    Raises:
        ValueError: fewer than 2 samples, dim below 2, a vector that is not of length 1, samples that are all equal
            (kappa is infinite) or whose mean is 0 (it has no direction).
    """
    n, dim = z.shape[-2:]
    if n < 2:
        raise ValueError(
            f"z: {n} sample{'s' * (n != 1)}, a fit of a von Mises-Fisher distribution needs at least 2"
        )
    check_unit("z", z)
    mean = z.mean(-2, dtype=torch.float64)
    resultant = torch.linalg.vector_norm(mean, dim=-1)
    if bool((resultant == 0).any()):
        raise ValueError("z: the samples' mean is 0, the mean direction is not defined")
    if bool((resultant >= 1 - 1e-15).any()) or bool((z == z[..., :1, :]).all(-1).all(-1).any()):
        raise ValueError("z: the samples are all equal, the concentration kappa is infinite")
    direction = mean / resultant.unsqueeze(-1)
    if unbias:
        resultant = ((n * resultant.square() - 1) / (n - 1)).clamp_min(0).sqrt()
    return VonMisesFisher(direction, fit_kappa(dim, resultant, steps=steps), resultant)


def fit_kappa(dim: int, resultant: Float[Tensor, "*batch"], *, steps: int = 8) -> Float64[Tensor, "*batch"]:
    """The kappa with A_p(kappa) = `resultant`, p = `dim`, by Newton's method in float64.

    To relative rounding of A_p; where 1 - A_p is itself near rounding (kappa^2 > 5e13 p), kappa_0 as it is.

    Raises:
        ValueError: dim below 2, a resultant outside [0, 1), steps below 0.
    """
    _check_dim(dim)
    if steps < 0:
        raise ValueError(f"steps={steps}: must be at least 0")
    if not bool(((resultant >= 0) & (resultant < 1)).all()):
        raise ValueError("resultant: the length of a mean of unit vectors must lie in [0, 1)")
    resultant = resultant.double()
    kappa = resultant * (dim - resultant.square()) / (1 - resultant.square())
    for _ in range(steps):
        a = bessel_ratio(dim, kappa)
        over_kappa = torch.where(kappa > 0, a / torch.where(kappa > 0, kappa, 1.0), 1 / dim)
        slope = 1 - a.square() - (dim - 1) * over_kappa
        step = torch.where(slope > _FLAT, (a - resultant) / slope.clamp_min(_FLAT), 0.0)
        kappa = torch.maximum(kappa - step, kappa / 2)
    return kappa


def sample_vmf(
    mean: Float[Tensor, "*batch dim"],
    kappa: Float[Tensor, "*batch"] | float,
    samples: int,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "samples *batch dim"]:
    """Independent samples, in the dtype and on the device of `mean`.

    By Wood's rejection (Communications in Statistics 23, 1994): with T symmetric beta, drawn by Ulrich's method,

        x_0 = 2 kappa / (sqrt(4 kappa^2 + (p-1)^2) + p - 1),   w = (x_0 + T) / (1 + x_0 T),

    w = mu.z is taken with probability exp(kappa (w - x_0) + (p-1) log((1 - x_0 w) / (1 - x_0^2))).

    Args:
        mean: unit vectors.
        kappa: at least 0.
        generator: of the device of `mean`; None is torch's own.

    Raises:
        ValueError: samples below 1, dim below 2, a mean that is not of length 1, a negative or non-finite kappa.
    """
    if samples < 1:
        raise ValueError(f"samples={samples}: must be at least 1")
    check_unit("mean", mean)
    dim = mean.shape[-1]
    kappa = torch.as_tensor(kappa, dtype=torch.float64, device=mean.device).expand(mean.shape[:-1])
    if not bool(((kappa >= 0) & (kappa < math.inf)).all()):
        raise ValueError("kappa: must be at least 0 and finite")
    along = _along(dim, kappa.expand(samples, *kappa.shape).flatten(), generator)
    along = along.view(samples, *kappa.shape, 1)
    across = torch.randn(samples, *mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    across = across.addcmul_((across * mean).sum(-1, keepdim=True), mean, value=-1)
    across = across.mul_((1 - along.square()).sqrt().to(mean.dtype) / across.norm(dim=-1, keepdim=True))
    return across.addcmul_(along.to(mean.dtype), mean.expand_as(across))


def _along(dim: int, kappa: Tensor, generator: torch.Generator | None) -> Tensor:
    """One mu.z for each kappa."""
    root = torch.sqrt(4 * kappa.square() + (dim - 1) ** 2)
    x0 = 2 * kappa / (root + dim - 1)
    rest = 2 * (dim - 1) / (root + dim - 1)  # 1 - x0^2
    found, left = torch.empty_like(kappa), torch.arange(len(kappa), device=kappa.device)
    while len(left):
        k, x, r = kappa[left], x0[left], rest[left]
        u = torch.rand(3, len(left), generator=generator, dtype=torch.float64, device=kappa.device)
        t = _symmetric_beta(dim, u[0], u[1])
        w = (x + t) / (1 + x * t)
        gain = k * (w - x) + (dim - 1) * torch.log((1 - x * w) / r)
        taken = gain >= torch.log(u[2])
        found[left[taken]] = w[taken]
        left = left[~taken]
    return found


def _symmetric_beta(dim: int, u: Tensor, angle: Tensor) -> Tensor:
    """T in [-1, 1] with (1 + T) / 2 ~ Beta((p-1)/2, (p-1)/2), of two uniform numbers."""
    radius = torch.ones_like(u) if dim == 2 else -torch.expm1(2 / (dim - 2) * torch.log1p(-u))
    return radius.sqrt() * torch.cos(2 * math.pi * angle)


def check_unit(name: str, vectors: Tensor) -> None:
    """Raises ValueError naming the first vector that is not of length 1, and for dim below 2; not when compiled."""
    _check_dim(vectors.shape[-1])
    if torch.compiler.is_compiling() or vectors.device.type == "meta":
        return
    lengths = torch.linalg.vector_norm(vectors.detach(), dim=-1, dtype=torch.float64).flatten()
    bad = ~((lengths - 1).abs() <= UNIT)
    if bool(bad.any()):
        index = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"{name}: vector {index} has length {float(lengths[index]):.6g}, not 1: normalise it first"
        )


def _check_dim(dim: int) -> None:
    if dim < 2:
        raise ValueError(f"dim={dim}: a von Mises-Fisher distribution needs at least 2 dimensions")
