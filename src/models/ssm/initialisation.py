"""How a diagonal state matrix starts and how its entries are kept in range (S4D, sections 4 and 5).

| name | Im a_n, n = 0..M-1, N = 2M | Re a_n | B_n |
|---|---|---|---|
| legs | positive frequencies of the normal part of HiPPO-LegS | -1/2 | modulus of V^* b |
| inv | (N/pi)(N/(2n+1) - 1) | -1/2 | 1 |
| lin | pi n | -1/2 | 1 |
| inv2 | (N/pi)(N/(n+1) - 1) | -1/2 | 1 |
| quad | (2n+1)^2/pi | -1/2 | 1 |
| real | 0, fixed | -(n+1) | 1 |
| rand | exp(standard normal), per copy | -1/2 | 1 |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from ...ops import legs_spectrum
from ..arguments import check_choice

_FREQUENCIES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "inv": lambda n, size: size / math.pi * (size / (2 * n + 1) - 1),
    "lin": lambda n, size: math.pi * n,
    "inv2": lambda n, size: size / math.pi * (size / (n + 1) - 1),
    "quad": lambda n, size: (2 * n + 1) ** 2 / math.pi,
}
_NAMES = ("legs", *_FREQUENCIES, "real", "rand")
_RELU_OFFSET = 1e-4  # keeps Re a below zero where the rectifier is off


@dataclass(frozen=True)
class DiagonalInit:
    """Initial values and parameterisation of the diagonal A, of B, and of the step size.

    Args:
        name: a row of the table above.
        real_transform: Re a as a function of the stored r: `exp`: -exp(r); `relu`: -(relu(r) + 1e-4); `none`:
            -r, which training may drive above 0, where the kernel grows with the length (ablation only).
        real_scale, imag_scale: factors on the initial Re a (> 0) and Im a.
        real_random: Re a_n = -U(0, 1) instead of -1/2; for `real` -U(0, M).
        imag_random: U(0, M) takes the place of the index n (`inv`, `lin`, `inv2`, `quad` only).
        clip_b: largest modulus of B_n, or None. None is the theory. A well-known implementation clips the
            imaginary part of V^* b to [-2, 2] in whatever phase LAPACK returns, which for `legs` with N = 64
            alters 34 % of the entries; 2.0 comes nearest to it without depending on that phase.
        dt_transform: the step as a function of the stored value: `exp` or `softplus`. Both start at the same
            steps; their checkpoints are not interchangeable.

    Raises:
        ValueError: an unknown name or option, a factor out of range, a flag that the row cannot use.
    """

    name: str = "lin"
    real_transform: str = field(default="exp", kw_only=True)
    real_scale: float = field(default=1.0, kw_only=True)
    imag_scale: float = field(default=1.0, kw_only=True)
    real_random: bool = field(default=False, kw_only=True)
    imag_random: bool = field(default=False, kw_only=True)
    clip_b: float | None = field(default=None, kw_only=True)
    dt_transform: str = field(default="exp", kw_only=True)

    def __post_init__(self) -> None:
        check_choice("init", self.name, _NAMES)
        check_choice("real_transform", self.real_transform, ("exp", "relu", "none"))
        check_choice("dt_transform", self.dt_transform, ("exp", "softplus"))
        if not self.real_scale > 0:
            raise ValueError(f"real_scale is {self.real_scale}, it must be > 0: Re a has to stay negative")
        if self.clip_b is not None and not self.clip_b > 0:
            raise ValueError(f"clip_b is {self.clip_b}, it must be > 0 or None")
        if self.imag_random and self.name not in _FREQUENCIES:
            raise ValueError(
                f"imag_random does not go with init {self.name!r}; it replaces the index n in the formulas "
                f"of {', '.join(_FREQUENCIES)}"
            )

    @property
    def is_real(self) -> bool:
        """True where A, B and C have no imaginary part at all."""
        return self.name == "real"

    def spectrum(self, state_dim: int, copies: int) -> tuple[Float64[Tensor, "copies modes"], ...]:
        """The initial (Re a, Im a, B), float64 on the CPU; random rows draw from the default generator."""
        modes = state_dim // 2
        real, imag = self._real(modes, copies), self._imag(state_dim, copies)
        b = legs_spectrum(state_dim)[1] if self.name == "legs" else torch.ones(modes, **_F64)
        b = b.expand(copies, modes)
        if self.clip_b is not None:
            b = b.clamp(max=self.clip_b)
        return real * self.real_scale, imag * self.imag_scale, b

    def output_map(
        self, directions: int, dim: int, state_dim: int
    ) -> Float[Tensor, "directions dim modes parts"]:
        """The initial C: isotropic normal with E|C|^2 = 1, of the default type, on the default device."""
        parts = 1 if self.is_real else 2
        return torch.randn(directions, dim, state_dim // 2, parts) / math.sqrt(parts)

    def _real(self, modes: int, copies: int) -> Tensor:
        if self.real_random:
            # 1 - U lies in (0, 1]: the logarithm of the stored form exists
            return (torch.rand(copies, modes, **_F64) - 1) * (modes if self.is_real else 1)
        if self.is_real:
            return -torch.arange(1, modes + 1, **_F64).expand(copies, modes)
        return torch.full((copies, modes), -0.5, **_F64)

    def _imag(self, state_dim: int, copies: int) -> Tensor:
        modes = state_dim // 2
        if self.name == "legs":
            return legs_spectrum(state_dim)[0].expand(copies, modes)
        if self.is_real:
            return torch.zeros(copies, modes, **_F64)
        if self.name == "rand":
            return torch.exp(torch.randn(copies, modes, **_F64))
        index = torch.arange(modes, **_F64).expand(copies, modes)
        if self.imag_random:
            index = torch.rand(copies, modes, **_F64) * modes
        return _FREQUENCIES[self.name](index, state_dim)

    def encode_real(self, real: Tensor) -> Tensor:
        """The stored value of a real part (< 0); inverse of `decode_real`."""
        if self.real_transform == "exp":
            return torch.log(-real)
        return -real - (_RELU_OFFSET if self.real_transform == "relu" else 0)

    def decode_real(self, stored: Tensor) -> Tensor:
        """Re a of the stored value."""
        if self.real_transform == "exp":
            return -torch.exp(stored)
        return -(F.relu(stored) + _RELU_OFFSET) if self.real_transform == "relu" else -stored

    def encode_dt(self, dt: Tensor) -> Tensor:
        """The stored value of a step > 0; inverse of `decode_dt`."""
        return torch.log(dt) if self.dt_transform == "exp" else torch.log(torch.expm1(dt))

    def decode_dt(self, stored: Tensor) -> Tensor:
        """The step of the stored value."""
        return torch.exp(stored) if self.dt_transform == "exp" else F.softplus(stored)


_F64 = {"dtype": torch.float64, "device": "cpu"}


def like_default(value: Tensor) -> Tensor:
    """A copy in the default type on the default device, the meta device included."""
    return torch.empty(value.shape, dtype=torch.get_default_dtype()).copy_(value)
