"""Relative errors of fields on uniform grids, one number per sample: L2, and H1 with the gradient's error too.

    error(u, y) = |u - y| / max(|y|, eps)

with |.| the root of the mean over channels and grid points of

| class | what is averaged |
|---|---|
| `RelativeL2` | u^2 |
| `RelativeH1(form="fourier")` | u^2 + sum_a (w_a u)^2, w_a the wave number of axis a, in Fourier space |
| `RelativeH1(form="fd")` | u^2 + sum_a (d_a u)^2, d_a the central difference along axis a |

The mean instead of the integral cancels in the quotient; it makes `eps` a value in the units of the field,
whatever the resolution. A target of zeros has the error |u| / eps: finite, but large. Where u = y the error is 0,
and so is its gradient. Fields in half precision are compared in float32.

Sources: Li et al., "Fourier Neural Operator", ICLR 2021 (relative L2, physical derivatives); He, Liu, Xu, "MgNO",
ICLR 2024 (the Fourier form with whole wave numbers, which the released code cuts off at 20).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FORMS = ("fourier", "fd")
BOUNDARIES = ("periodic", "one_sided")
EPS = 1e-8


@dataclass(frozen=True)
class RelativeL2:
    """`|u - y|_2 / max(|y|_2, eps)` of every sample, over all channels and grid points.

    Args:
        eps: smallest root mean square of a target that counts, in the units of the field; > 0.
    """

    eps: float = EPS

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def __call__(
        self, prediction: Float[Tensor, "batch ..."], target: Float[Tensor, "batch ..."]
    ) -> Float[Tensor, " batch"]:
        """Errors of fields (batch, channels, *grid).

        Raises:
            ValueError: shapes that differ, or fields without a grid axis.
        """
        u, y = _pair(prediction, target)
        return _quotient(_mean(u - y), _mean(y), self.eps)


@dataclass(frozen=True)
class RelativeH1:
    """`|u - y|_H1 / max(|y|_H1, eps)` of every sample, `|u|_H1^2 = |u|^2 + sum_a |d_a u|^2`; 1 to 3 grid axes.

    `fourier` takes derivatives in Fourier space, as if the field were periodic; the points are those of a period,
    without its end. The weights are `1 + sum_a w_a^2`, and with

    - `lengths=None`: w_a = k_a, the whole wave number. With `k_max=20`: the norm of MgNO's released code;
    - `lengths` given: w_a = 2 pi k_a / L_a, the physical derivative.

    `k_max` sets w_a to 0 where |k_a| >= k_max, each axis by itself; the errors at those wave numbers still count
    in the L2 part.

    `fd` takes differences on the physical grid: (u_{i+1} - u_{i-1}) / 2h inside; at the ends of an axis wrapped
    around (`periodic`) or one-sided, of first order (`one_sided`). The spacing is h = L / n, or L / (n - 1) where
    the grid holds both ends of the domain (`ends`). Without `lengths` the domain has length 1 along every axis.

    Args:
        form: `fourier` or `fd`.
        k_max: see above, `fourier` only; None keeps all.
        lengths: of the domain, one per grid axis.
        boundary: `periodic` or `one_sided`, `fd` only (the Fourier form is periodic).
        ends: whether the grid holds both ends of the domain, `fd` with `one_sided` only.
        eps: smallest H1 norm of a target that counts, over the root of the number of points; > 0.

    Raises:
        ValueError: an unknown word, a size out of range, or an option of the other form.
    """

    form: str = "fourier"
    k_max: int | None = None
    lengths: Sequence[float] | None = None
    boundary: str = "periodic"
    ends: bool = False
    eps: float = EPS

    def __post_init__(self) -> None:
        _check_eps(self.eps)
        for name, value, known in (("form", self.form, FORMS), ("boundary", self.boundary, BOUNDARIES)):
            if value not in known:
                raise ValueError(f"{name}={value!r}: must be one of {', '.join(known)}")
        if self.k_max is not None and (self.form != "fourier" or self.k_max < 1):
            raise ValueError(f"k_max={self.k_max}: must be at least 1, and belongs to form='fourier'")
        if self.boundary == "one_sided" and self.form != "fd":
            raise ValueError("boundary='one_sided': belongs to form='fd'; the Fourier form is periodic")
        if self.ends and self.boundary != "one_sided":
            raise ValueError("ends=True: both ends are on the grid of boundary='one_sided' only")
        if self.lengths is not None and not (len(self.lengths) and min(self.lengths) > 0):
            raise ValueError(f"lengths={list(self.lengths)}: must be positive, one per grid axis")

    def __call__(
        self, prediction: Float[Tensor, "batch ..."], target: Float[Tensor, "batch ..."]
    ) -> Float[Tensor, " batch"]:
        """Errors of fields (batch, channels, *grid).

        Raises:
            ValueError: shapes that differ, other grid axes than 1 to 3 or than `lengths` has, or an axis of one
                point (`fd`).
        """
        u, y = _pair(prediction, target)
        if not 3 <= u.ndim <= 5:
            raise ValueError(f"RelativeH1 wants 1 to 3 grid axes, got fields of shape {tuple(u.shape)}")
        if self.lengths is not None and len(self.lengths) != u.ndim - 2:
            raise ValueError(f"lengths={list(self.lengths)}: the fields have {u.ndim - 2} grid axes")
        norm = self._fourier if self.form == "fourier" else self._differences
        return _quotient(norm(u - y), norm(y), self.eps)

    def _fourier(self, u: Tensor) -> Tensor:
        """Mean square by Parseval; of the real field's spectrum only the half that rfft gives is looked at."""
        grid = u.shape[2:]
        spectrum = torch.fft.rfftn(u, dim=tuple(range(2, u.ndim)), norm="ortho")
        energy = torch.view_as_real(spectrum).square().sum(-1)
        scales = [1.0] * len(grid) if self.lengths is None else [2 * torch.pi / x for x in self.lengths]
        weight = torch.ones((), dtype=u.dtype, device=u.device)
        for axis, (size, scale) in enumerate(zip(grid, scales, strict=True)):
            k = torch.fft.fftfreq(size, 1 / size, dtype=u.dtype, device=u.device).abs()
            k = k[: spectrum.shape[2 + axis]]
            kept = k if self.k_max is None else torch.where(k < self.k_max, k, 0)
            weight = weight + (scale * kept).square().view(-1, *[1] * (len(grid) - 1 - axis))
        # The columns that stand for themselves and for their mirror image count twice.
        twice = torch.full((spectrum.shape[-1],), 2.0, dtype=u.dtype, device=u.device)
        twice[0] = 1.0
        if grid[-1] % 2 == 0:
            twice[-1] = 1.0
        return (energy * (weight * twice)).flatten(1).sum(1) / u[0].numel()

    def _differences(self, u: Tensor) -> Tensor:
        total = _mean(u)
        lengths = self.lengths or [1.0] * (u.ndim - 2)
        for axis, length in enumerate(lengths, start=2):
            size = u.shape[axis]
            if size < 2:
                raise ValueError(
                    f"differences need at least 2 points per axis, the grid is {tuple(u.shape[2:])}"
                )
            spacing = length / (size - 1 if self.ends else size)
            total = total + _mean(self._slope(u, axis) / spacing)
        return total

    def _slope(self, u: Tensor, axis: int) -> Tensor:
        """Difference per grid step."""
        if self.boundary == "one_sided":
            return torch.gradient(u, dim=axis)[0]
        return (u.roll(-1, axis) - u.roll(1, axis)) / 2


def _check_eps(eps: float) -> None:
    if not eps > 0:
        raise ValueError(f"eps={eps}: must be > 0")


def _pair(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != target.shape or prediction.ndim < 3:
        raise ValueError(
            f"prediction and target must both be (batch, channels, *grid), got the shapes "
            f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    return prediction.to(dtype), target.to(dtype)


def _mean(values: Tensor) -> Tensor:
    """Mean square of every sample."""
    return values.flatten(1).square().mean(1)


def _quotient(error: Tensor, size: Tensor, eps: float) -> Tensor:
    """Roots of two mean squares, divided."""
    return _root(error) / _root(size).clamp(min=eps)


def _root(value: Tensor) -> Tensor:
    """The square root, with gradient 0 instead of infinity at 0."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1).sqrt(), value)
