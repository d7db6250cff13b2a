"""How an S5 layer starts: eigenvalues and eigenvectors of the blocks of its state matrix, and its input map."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from ...ops import legs_normal_part, legs_vector
from ..arguments import check_choice
from .arguments import TRAINABLE, check_trainable

_F64 = {"dtype": torch.float64, "device": "cpu"}
_SPREAD = 0.8796256610342398  # standard deviation of a standard normal cut off at -2 and 2


@dataclass(frozen=True)
class S5Init:
    """Initial eigenvalues, eigenvectors and input map of S5.

    A subclass with another state matrix overrides `block_eigen` and `names`.

    Args:
        name: `legs`, the normal part of HiPPO-LegS.
        symmetric: keep one of each conjugate pair of eigenvalues; the other half is implied by the real part.
            False keeps all of them, with a plain real part.
        clip_eigs: Re Lambda counts as min(Re Lambda, -1e-4). Without it nothing keeps Lambda stable.
        b_init: B (P, H) before the change of basis: `lecun`, truncated normal of variance 1/P (the fan-in of the
            shape (P, H) as (in, out) is P, not H); `legs`, every column the LegS vector of each block.
        trainable: which of A (Lambda), B, dt are trained; the others are buffers.

    Raises:
        ValueError: an unknown name or option.
    """

    name: str = "legs"
    symmetric: bool = field(default=True, kw_only=True)
    clip_eigs: bool = field(default=False, kw_only=True)
    b_init: str = field(default="lecun", kw_only=True)
    trainable: Sequence[str] = field(default=TRAINABLE, kw_only=True)

    def __post_init__(self) -> None:
        check_choice("init", self.name, self.names())
        check_choice("b_init", self.b_init, ("lecun", "legs"))
        check_trainable(self.trainable)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The known names."""
        return ("legs",)

    def block_eigen(
        self, size: int
    ) -> tuple[
        Complex128[Tensor, " modes"],
        Complex128[Tensor, "size modes"],
        Complex128[Tensor, "modes size"],
        Float64[Tensor, " modes"],
    ]:
        """(Lambda, V, V^{-1}, weight) of one block of that size, on the CPU; `A V = V diag(Lambda)`.

        A mode enters the output as `2 weight Re(C~ x)`: weight 1 for an eigenvalue that stands for itself and
        its conjugate, 1/2 for one that stands for itself alone (a real one, or any without symmetry). The
        number of modes may exceed size/2 where there are real eigenvalues.

        Here: `S = V diag(Lambda) V^*`, S the normal part of LegS, eigenvalues by ascending imaginary part;
        with symmetry the first half, those below 0.
        """
        frequencies, v = _normal_basis(size)
        kept = size // 2 if self.symmetric else size
        v = v[:, :kept]
        eigenvalues = torch.complex(torch.full((kept,), -0.5, **_F64), frequencies[:kept])
        return eigenvalues, v, v.mH, torch.full((kept,), 1.0 if self.symmetric else 0.5, **_F64)

    def input_map(self, state_dim: int, dim: int, blocks: int) -> Float64[Tensor, "state_dim dim"]:
        """B before the change of basis; draws from the default generator on the CPU."""
        if self.b_init == "legs":
            return legs_vector(state_dim // blocks).repeat(blocks).unsqueeze(-1).expand(-1, dim)
        return truncated_normal((state_dim, dim), state_dim)

    def output_map(self, shape: Sequence[int], fan_in: int) -> Complex128[Tensor, "..."]:
        """C before the change of basis, variance 1/fan_in of real and imaginary part each."""
        return torch.view_as_complex(truncated_normal((*shape, 2), fan_in))


@lru_cache(maxsize=32)
def _normal_basis(size: int) -> tuple[Tensor, Tensor]:
    """(w ascending, V) of the normal part `V diag(-1/2 + i w) V^*` of LegS, V^* b real and positive."""
    skew = legs_normal_part(size) + torch.eye(size, **_F64) / 2
    frequencies, v = torch.linalg.eigh(-1j * skew)
    return frequencies, v * torch.sgn(v.mH @ legs_vector(size).to(v.dtype))


def truncated_normal(shape: Sequence[int], fan_in: int) -> Float64[Tensor, "..."]:
    """Normal numbers cut off at two standard deviations, scaled to variance 1/fan_in; float64 on the CPU."""
    draws = torch.nn.init.trunc_normal_(torch.empty(shape, **_F64), a=-2.0, b=2.0)
    return draws / (_SPREAD * math.sqrt(fan_in))
