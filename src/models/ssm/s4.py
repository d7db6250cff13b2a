"""S4: state-space layers with a matrix that is diagonal plus low rank.

Gu, Goel, Ré, "Efficiently Modeling Long Sequences with Structured State Spaces", ICLR 2022, arXiv 2111.00396;
initialisations: Gu, Johnson, Timalsina, Rudra, Ré, "How to Train Your HiPPO", ICLR 2023, arXiv 2206.12037. Per
channel, with M complex states, each for itself and its conjugate, and dt > 0,

    x'(t) = (diag(Lambda) - P P^*) x(t) + B u(t),   y(t) = 2 Re(C x(t)) + D u(t),

P of rank 1 or 2, and P^* x = 2 Re sum_n conj(P_n) x_n. Bilinear discretisation, A the matrix in brackets:

    Abar = (I - dt/2 A)^-1 (I + dt/2 A),   Bbar = (I - dt/2 A)^-1 dt B
    training:   y = K * u + D u,   K_l = C Abar^l Bbar                       (FFT convolution)
    inference:  x_k = Abar x_{k-1} + Bbar u_k,   y_k = 2 Re(C x_k) + D u_k   (O(M rank) a step by Woodbury)

The claim: the HiPPO matrices, whose state holds the projections of the past on an orthonormal basis, make long
memory trainable, and this form of them makes their kernels cheap. 1/dt is the mean lag in samples.
What differs here: C is stored, not C (I - Abar^L), so nothing depends on the length; the kernel's generating
function is evaluated inside the unit circle in a form without poles (`ops.dplr_kernel`), and where the length is
large beside the state, in float64 by dense powers in two levels, which is faster and as exact; gradients and
kernels are float64 inside whatever the parameters' type. Re Lambda = -exp(A_re) starts at -1e-4 where the normal
part of the matrix is skew-symmetric, as in the released code. The phase of eigenvectors is fixed by making B
real and positive, and B is not clipped. Where A, B and dt are all frozen the state kernels are computed once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Complex, Complex128, Float
from torch import Tensor, nn

from ...ops import Pair, fft_conv, stored_pair
from ...ops.dense import (
    combine_states,
    dense_accumulate,
    dense_kernel,
    dense_kernel_basis,
    dense_matrices,
    dense_power,
    dense_response,
    from_real,
    output_row,
    to_real,
)
from ...ops.dplr import DPLR, DPLRStep, dplr_discretise, dplr_kernel
from ...ops.hippo import HIPPO, hippo_spectrum
from ..arguments import check_choice
from .arguments import TRAINABLE, check_dt, check_sizes, check_trainable
from .caching import ParameterCache

_LARGEST_BASIS = 1 << 28  # numbers of a frozen basis that is kept


@dataclass(frozen=True)
class DPLRInit:
    """Initial A = diag(Lambda) - P P^* and B.

    Args:
        name: `legs`, `legt`, `fout`, `fout_decay` or `lagt`, see `ops.hippo_matrix`.
        real_floor: the smallest -Re Lambda to start from, > 0: it is stored as its logarithm.

    Raises:
        ValueError: an unknown name, or real_floor <= 0.
    """

    name: str = "legs"
    real_floor: float = field(default=1e-4, kw_only=True)

    def __post_init__(self) -> None:
        check_choice("init", self.name, HIPPO)
        if not self.real_floor > 0:
            raise ValueError(f"real_floor is {self.real_floor}, it must be > 0")

    def spectrum(
        self, state_dim: int
    ) -> tuple[Complex128[Tensor, " modes"], Complex128[Tensor, "rank modes"], Complex128[Tensor, " modes"]]:
        """The initial (Lambda, P, B), on the CPU."""
        a, p, b = hippo_spectrum(self.name, state_dim)
        return torch.complex(a.real.clamp(max=-self.real_floor), a.imag), p, b


class S4(ParameterCache):
    """`dim` independent DPLR state-space models, one per channel: (batch, length, dim) in and out.

    Args:
        dim: H, number of channels.
        state_dim: N, even: the real size of the state; N/2 complex numbers are stored.
        init: name of a HiPPO matrix, or a `DPLRInit`.
        dt: (smallest, largest) initial step, in units of one sample at rate 1; log-uniform per channel. 1/dt
            is the mean lag in samples; `legt` and `fout` see a window of 2/dt.
        copies: S, number of independent (A, B); channel h uses copy h mod S. None means one per channel.
        bidirectional: two kernels with common A, B, dt:
            `y_t = sum_{s<=t} K0[t-s] u_s + sum_{s>t} K1[s-t-1] u_s + D u_t`.
        trainable: which of A, B, dt are trained; the others are buffers.
    """

    log_dt: Tensor
    A_re: Tensor
    A_im: Tensor
    P: Tensor
    B: Tensor

    def __init__(
        self,
        dim: int,
        state_dim: int = 64,
        *,
        init: str | DPLRInit = "legs",
        dt: Sequence[float] = (1e-3, 1e-1),
        copies: int | None = None,
        bidirectional: bool = False,
        trainable: Sequence[str] = TRAINABLE,
    ):
        super().__init__()
        check_sizes(dim, state_dim, copies)
        check_dt(dt)
        check_trainable(trainable)
        self.init = DPLRInit(init) if isinstance(init, str) else init
        self.dim, self.state_dim, self.copies = dim, state_dim, copies or dim
        self.modes, self.bidirectional = state_dim // 2, bidirectional
        self._frozen = not trainable
        self._basis: tuple[tuple, tuple[Tensor, list[Tensor]]] | None = None
        self._make_parameters(dt, trainable)

    def _make_parameters(self, dt: Sequence[float], trainable: Sequence[str]) -> None:
        a, p, b = self.init.spectrum(self.state_dim)
        low, high = math.log(dt[0]), math.log(dt[1])
        uniform = torch.rand(self.dim, dtype=torch.float64, device="cpu")
        self._store("log_dt", low + (high - low) * uniform, "dt" in trainable)
        self._store("A_re", self._copied(torch.log(-a.real)), "A" in trainable)
        self._store("A_im", self._copied(a.imag), "A" in trainable)
        self._store("P", self._copied(torch.view_as_real(p)), "A" in trainable)
        self._store("B", self._copied(torch.view_as_real(b)), "B" in trainable)
        c = torch.randn(1 + self.bidirectional, self.dim, self.modes, 2) / math.sqrt(2)
        self.C = nn.Parameter(c)
        self.D = nn.Parameter(torch.randn(self.dim))

    def _copied(self, x: Tensor) -> Tensor:
        return x.expand(self.copies, *x.shape)

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """Tags of the optimiser's groups, for the parameters that are trained."""
        tags = {"log_dt": "ssm_dt", "A_re": "ssm_A", "A_im": "ssm_A", "P": "ssm_A", "B": "ssm_B"}
        trained = dict(self.named_parameters(recurse=False))
        return {name: ("ssm", tag) for name, tag in tags.items() if name in trained}

    def continuous(self) -> DPLR:
        """(Lambda, P, B) of every channel in float64."""
        a = Pair(-torch.exp(self.A_re.double()), self.A_im.double())
        each = self.dim // self.copies
        return DPLR(*(x.repeat(each) for x in (a, stored_pair(self.P), stored_pair(self.B))))

    def recurrence(self, rate: float = 1.0) -> DPLRStep:
        """Abar as diagonal and low rank, and Bbar, at step `rate * dt`, in float64."""
        return dplr_discretise(self.continuous(), self._dt(rate))

    def _dt(self, rate: float) -> Tensor:
        if not rate > 0:
            raise ValueError(f"rate is {rate}, it must be > 0")
        return rate * torch.exp(self.log_dt.double())

    def kernel(self, length: int, rate: float = 1.0) -> Float[Tensor, "directions dim length"]:
        """The convolution kernel `K_l`, l = 0..length-1; two directions where the layer is bidirectional.

        In eval mode without gradients it is kept until the length, the rate, the mode or a parameter changes.

        Args:
            length: >= 1.
            rate: factor on dt: 2 runs a model on every second sample of what it was trained on.

        Raises:
            ValueError: length < 1 or rate <= 0.
        """
        if length < 1:
            raise ValueError(f"length is {length}, S4 needs at least one sample")
        return self._cached("kernel", (length, rate), lambda: self._kernel(length, rate))

    def _kernel(self, length: int, rate: float) -> Tensor:
        c, dt = stored_pair(self.C), self._dt(rate)
        compiling = torch.compiler.is_compiling()
        if self._frozen and not compiling:
            basis = self._frozen_basis(length, rate)
            if basis is not None:
                return combine_states(output_row(c).to(self._dtype), *basis)
        # where the two cost the same, measured at N = 64 and 256; a compiled graph must not depend on the length
        if compiling or 4 * length < self.state_dim**2:
            return dplr_kernel(self.continuous(), c, dt, length, dtype=self._dtype)
        abar, bbar = dense_matrices(dplr_discretise(self.continuous(), dt))
        return dense_kernel(output_row(c), abar, bbar, length).to(self._dtype)

    def _frozen_basis(self, length: int, rate: float) -> tuple[Tensor, list[Tensor]] | None:
        """The state kernels of each distinct (copy, dt) and its channels, kept in training too.

        None where they would take more than 2^28 numbers.
        """
        buffers = list(self.buffers(recurse=False))
        versions = (None if t.is_inference() else (t.data_ptr(), t._version, t.device) for t in buffers)
        key = (length, rate, self._dtype, *versions)
        if self._basis is not None and self._basis[0] == key and None not in key:
            return self._basis[1]
        with torch.inference_mode(False), torch.no_grad():
            groups = self._groups()
            if len(groups) * self.state_dim * length > _LARGEST_BASIS:
                return None
            first = torch.stack([members[0] for members in groups])
            abar, bbar = dense_matrices(self.recurrence(rate))
            basis = dense_kernel_basis(abar[first], bbar[first], length).to(self._dtype)
        self._basis = (key, (basis, groups))
        return self._basis[1]

    def _groups(self) -> list[Tensor]:
        """The channels that share A, B and dt."""
        copy = torch.arange(self.dim, device=self.log_dt.device) % self.copies
        keys = torch.stack([copy.double(), self.log_dt.double()])
        if keys.is_meta:
            return list(copy.new_zeros(self.dim).unsqueeze(0))
        distinct, index = torch.unique(keys, dim=1, return_inverse=True)
        return [(index == group).nonzero().flatten() for group in range(distinct.shape[1])]

    def forward(
        self,
        u: Float[Tensor, "batch length dim"],
        *,
        state: Complex[Tensor, "batch dim modes"] | None = None,
        rate: float = 1.0,
        return_state: bool = False,
    ) -> Float[Tensor, "batch length dim"] | tuple[Tensor, Tensor]:
        """Convolution mode. Multiply padded positions of `u` by 0 beforehand if the layer is bidirectional.

        Args:
            state: x_{-1}, the state before the first sample (causal layers); None is zero.
            rate: see `kernel`.
            return_state: return `(y, x_{length-1})`, to go on with another chunk or with `step`.
        """
        if u.shape[-1] != self.dim:
            raise ValueError(f"the input has {u.shape[-1]} channels, S4 was built with dim = {self.dim}")
        kernel = self.kernel(u.shape[1], rate)
        # length-last until the end: one copy in, one out, and everything between runs along contiguous memory
        u = u.transpose(1, 2).contiguous()
        y = fft_conv(u, kernel[0], kernel[1] if self.bidirectional else None)
        final = None
        if state is not None or return_state:
            self._check_recurrent()
            response, final = self._through_states(u, state, rate)
            y = y + response.to(y.dtype)
        y = (y + self.D.unsqueeze(-1) * u).transpose(1, 2).contiguous()
        return (y, final) if return_state and final is not None else y

    def _through_states(self, u: Tensor, state: Tensor | None, rate: float) -> tuple[Tensor, Tensor]:
        """What the initial state adds, `2 Re C Abar^{k+1} x_{-1}`, and the final state."""
        abar, bbar = dense_matrices(self.recurrence(rate))
        final = dense_accumulate(abar, bbar, u.to(self._dtype))
        if state is None:
            return u.new_zeros(()), from_real(final)
        x = to_real(state).to(self._dtype)
        response = dense_response(
            output_row(stored_pair(self.C))[0], abar, dense_power(abar, x, 1), u.shape[-1]
        )
        return response, from_real(final + dense_power(abar, x, u.shape[-1]))

    def initial_state(self, batch: int) -> Complex[Tensor, "batch dim modes"]:
        """The zero state of the recurrence."""
        self._check_recurrent()
        shape = (batch, self.dim, self.modes)
        return torch.zeros(shape, dtype=self._dtype.to_complex(), device=self.C.device)

    def step(
        self, u_t: Float[Tensor, "batch dim"], state: Complex[Tensor, "batch dim modes"], rate: float = 1.0
    ) -> tuple[Float[Tensor, "batch dim"], Complex[Tensor, "batch dim modes"]]:
        """One sample of the recurrence: `(y_t, new state)`; equal to `forward` for causal layers."""
        self._check_recurrent()
        diagonal, left, right, bbar, c = self._cached("step", (rate,), lambda: self._step_matrices(rate))
        through = 2 * (right * state.unsqueeze(-2)).real.sum(-1, keepdim=True)
        state = diagonal * state - (left * through).sum(-2) + bbar * u_t.unsqueeze(-1)
        y = 2 * (c * state).real.sum(-1)
        return (y + self.D * u_t).to(u_t.dtype), state

    def _step_matrices(self, rate: float) -> tuple[Tensor, ...]:
        matrices = (*self.recurrence(rate), Pair(*(x[0] for x in stored_pair(self.C))))
        return tuple(x.complex().to(self._dtype.to_complex()) for x in matrices)

    def _check_recurrent(self) -> None:
        if self.bidirectional:
            raise ValueError("bidirectional is True: states and steps need a causal layer")

    def _apply(self, fn, recurse: bool = True) -> "S4":
        self._basis = None
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args) -> None:
        self._basis = None
        super()._load_from_state_dict(*args)

    def extra_repr(self) -> str:
        return (
            f"{self.dim}, {self.state_dim}, init={self.init.name!r}, copies={self.copies}, "
            f"bidirectional={self.bidirectional}"
        )
