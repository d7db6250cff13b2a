"""S4D: diagonal state-space layers.

Gu, Gupta, Goel, Ré, "On the Parameterization and Initialization of Diagonal State Space Models",
NeurIPS 2022, arXiv 2206.11893. Per channel, with a_n, B_n, C_n complex and dt > 0,

    x'(t) = A x(t) + B u(t),   y(t) = 2 Re(C x(t)) + D u(t),   A = diag(a_0 .. a_{M-1}),

every a_n standing for itself and its conjugate. Discretised to `Abar = exp(log Abar)` and `Bbar`,

    training:   y = K * u + D u,   K_l = 2 Re sum_n C_n Bbar_n Abar_n^l      (FFT convolution)
    inference:  x_k = Abar x_{k-1} + Bbar u_k,   y_k = 2 Re(C x_k) + D u_k   (recurrence)

| discretisation | Abar | Bbar, z = a dt |
|---|---|---|
| zoh | exp(z) | B (exp(z) - 1)/a |
| bilinear | (1 + z/2)/(1 - z/2) | B dt/(1 - z/2) |
| dss | exp(z) | B (exp(z) - 1)/(a (exp(L z) - 1)): normalised over the length L, for convolution only |

The paper's claims: the diagonal part of HiPPO-LegS gives S4's kernels as N grows; the initialisation of A
decides the accuracy, the discretisation and the form of Re a hardly matter; the kernel is two lines of code.
What differs here: the kernel is evaluated in the two-level real form of `ops.vandermonde` (the same sums),
the phase of LegS's eigenvectors is fixed by making B real and positive, the kernel always has the input's
length, and the row `real` is real throughout: its Im a is fixed at 0 and neither B nor C stores an imaginary
part, so no parameter is dead (only Re(B C) enters the kernel there) and training cannot leave the axis; C is
drawn with E|C|^2 = 1 in every row.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from ...errors import NonFiniteError
from ...ops import (
    Pair,
    divide,
    expm1,
    fft_conv,
    log_mobius,
    multiply,
    phi1,
    stored_pair,
    to_pair,
    vandermonde,
    vandermonde_transpose,
)
from ..arguments import check_choice
from .arguments import TRAINABLE, check_dt, check_sizes, check_trainable
from .caching import ParameterCache
from .initialisation import DiagonalInit as DiagonalInit


class S4D(ParameterCache):
    """`dim` independent diagonal state-space models, one per channel: (batch, length, dim) in and out.

    Args:
        dim: H, number of channels.
        state_dim: N, even: the real size of the state; N/2 complex numbers are stored.
        init: name of an initialisation of A, or a `DiagonalInit`.
        dt: (smallest, largest) initial step, in units of one sample at rate 1; log-uniform per channel. 1/dt
            is the memory in samples: it must fit the length.
        discretisation: `zoh`, `bilinear` or `dss` (see the module's table).
        copies: S, number of independent (A, B); channel h uses copy h mod S. None means one per channel.
        bidirectional: two kernels with common A, B, dt:
            `y_t = sum_{s<=t} K0[t-s] u_s + sum_{s>t} K1[s-t-1] u_s + D u_t`.
        trainable: which of A, B, dt are trained; the others are buffers.

    Attributes:
        bandlimit: None, or the largest frequency to keep, in units of the Nyquist frequency of the rate in
            use: C_n counts as 0 where `dt |Im a_n| / (2 pi) > bandlimit / 2`.
    """

    log_dt: Tensor
    A_re: Tensor
    A_im: Tensor | None
    B: Tensor

    def __init__(
        self,
        dim: int,
        state_dim: int = 64,
        *,
        init: str | DiagonalInit = "lin",
        dt: Sequence[float] = (1e-3, 1e-1),
        discretisation: str = "zoh",
        copies: int | None = None,
        bidirectional: bool = False,
        trainable: Sequence[str] = TRAINABLE,
    ):
        super().__init__()
        check_sizes(dim, state_dim, copies)
        check_dt(dt)
        check_trainable(trainable)
        check_choice("discretisation", discretisation, ("zoh", "bilinear", "dss"))
        self.init = DiagonalInit(init) if isinstance(init, str) else init
        if discretisation == "dss" and self.init.real_transform == "none":
            raise ValueError("discretisation is 'dss', it needs Re a < 0: real_transform exp or relu")
        self.dim, self.state_dim, self.copies = dim, state_dim, copies or dim
        self.discretisation, self.bidirectional = discretisation, bidirectional
        self.bandlimit: float | None = None
        self._make_parameters(dt, trainable)

    def _make_parameters(self, dt: Sequence[float], trainable: Sequence[str]) -> None:
        real, imag, b = self.init.spectrum(self.state_dim, self.copies)
        self.modes = real.shape[-1]
        low, high = math.log(dt[0]), math.log(dt[1])
        step = torch.exp(low + (high - low) * torch.rand(self.dim, dtype=torch.float64, device="cpu"))
        self._store("log_dt", self.init.encode_dt(step), "dt" in trainable)
        self._store("A_re", self.init.encode_real(real), "A" in trainable)
        self._store("A_im", None if self.init.is_real else imag, "A" in trainable)
        parts = 1 if self.init.is_real else 2
        b = torch.stack([b, torch.zeros_like(b)], dim=-1)[..., :parts]
        self._store("B", b, "B" in trainable)
        self.C = nn.Parameter(self.init.output_map(1 + self.bidirectional, self.dim, self.state_dim))
        self.D = nn.Parameter(torch.randn(self.dim))

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """Tags of the optimiser's groups, for the parameters that are trained."""
        tags = {"log_dt": "ssm_dt", "A_re": "ssm_A", "A_im": "ssm_A", "B": "ssm_B"}
        trained = dict(self.named_parameters(recurse=False))
        return {name: ("ssm", tag) for name, tag in tags.items() if name in trained}

    def initialisation_report(self) -> dict[str, float]:
        """Numbers about the initialisation for a run's record: those of an init that has `report`, else none."""
        report = getattr(self.init, "report", None)
        return report(self.state_dim) if report is not None else {}

    def discretise(self, rate: float = 1.0) -> tuple[Pair, Pair]:
        """(log Abar, Bbar) at step `rate * dt`, pairs of (dim, modes) in float64.

        Double precision costs nothing here (no length axis) and keeps the phases `l Im z` of long kernels
        exact. For `dss` Bbar is the factor that does not depend on the length, that of `zoh`.
        """
        dt = rate * self.init.decode_dt(self.log_dt.double()).unsqueeze(-1)
        z, b = self._a().scale(dt), stored_pair(self.B).repeat(self.dim // self.copies).scale(dt)
        if self.discretisation == "bilinear":
            return log_mobius(z), divide(b, Pair(1 - z.re / 2, -z.im / 2))
        return z, multiply(b, phi1(z))

    def _a(self) -> Pair:
        real = self.init.decode_real(self.A_re.double())
        imag = torch.zeros_like(real) if self.A_im is None else self.A_im.double()
        return Pair(real, imag).repeat(self.dim // self.copies)

    def _c(self, log_abar: Pair) -> Pair:
        """C in double precision, zero above the band limit."""
        c = stored_pair(self.C)
        if self.bandlimit is None:
            return c
        return c.scale((log_abar.im.abs() / math.pi <= self.bandlimit).double())

    def kernel(self, length: int, rate: float = 1.0) -> Float[Tensor, "directions dim length"]:
        """The convolution kernel `K_l`, l = 0..length-1; two directions where the layer is bidirectional.

        In eval mode without gradients it is kept until the length, the rate, the mode or a parameter changes.

        Args:
            length: >= 1.
            rate: factor on dt: 2 runs a model on every second sample of what it was trained on.

        Raises:
            ValueError: length < 1, rate <= 0, or a rate other than 1 with `dss`.
            NonFiniteError: `real_transform` is `none` and the kernel has grown beyond the number range.
        """
        if length < 1:
            raise ValueError(f"length is {length}, S4D needs at least one sample")
        self._check_rate(rate)
        return self._cached("kernel", (length, rate, self.bandlimit), lambda: self._kernel(length, rate))

    def _kernel(self, length: int, rate: float) -> Tensor:
        log_abar, bbar = self.discretise(rate)
        weights = multiply(self._c(log_abar), bbar)
        if self.discretisation == "dss":
            weights = divide(weights, expm1(log_abar.scale(length)))
        kernel = vandermonde(weights.to(self._dtype), log_abar, length)
        if self.init.real_transform == "none" and not torch.isfinite(kernel).all():
            raise NonFiniteError(
                f"the kernel of S4D(dim={self.dim}, real_transform='none') is not finite at length {length}: "
                f"training has driven Re a up to {self._a().re.max().item():.3g}; use exp or relu"
            )
        return kernel

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
            raise ValueError(f"the input has {u.shape[-1]} channels, S4D was built with dim = {self.dim}")
        length = u.shape[1]
        kernel = self.kernel(length, rate)
        if state is not None or return_state:
            self._check_recurrent()
        # length-last until the end: one copy in, one out, and everything between runs along contiguous memory
        u = u.transpose(1, 2).contiguous()
        y = fft_conv(u, kernel[0], kernel[1] if self.bidirectional else None)
        if state is not None:
            y = y + self._response(state, length, rate).to(y.dtype)
        y = (y + self.D.unsqueeze(-1) * u).transpose(1, 2).contiguous()
        return (y, self._final_state(u, state, rate)) if return_state else y

    def _response(self, state: Tensor, length: int, rate: float) -> Tensor:
        """What the initial state adds: `2 Re sum_n C_n Abar_n^{k+1} x_{-1,n}`."""
        log_abar, _ = self.discretise(rate)
        c = self._c(log_abar).complex()[0]
        weights = c * torch.exp(log_abar.complex()) * state
        return vandermonde(to_pair(weights).to(self._dtype), log_abar, length)

    def _final_state(self, u: Tensor, state: Tensor | None, rate: float) -> Tensor:
        """`x_{L-1} = Abar^L x_{-1} + sum_l Abar^{L-1-l} Bbar u_l`."""
        log_abar, bbar = self.discretise(rate)
        final = bbar.complex() * vandermonde_transpose(u.flip(-1).to(self._dtype), log_abar)
        if state is not None:
            final = final + torch.exp(u.shape[-1] * log_abar.complex()) * state
        return final.to(self._dtype.to_complex())

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
        self._check_rate(rate)
        abar, bbar, c = self._cached("step", (rate, self.bandlimit), lambda: self._step_matrices(rate))
        state = abar * state + bbar * u_t.unsqueeze(-1)
        y = 2 * (c * state).real.sum(-1)
        return (y + self.D * u_t).to(u_t.dtype), state

    def _step_matrices(self, rate: float) -> tuple[Tensor, ...]:
        log_abar, bbar = self.discretise(rate)
        matrices = torch.exp(log_abar.complex()), bbar.complex(), self._c(log_abar).complex()[0]
        return tuple(x.to(self._dtype.to_complex()) for x in matrices)

    def _check_rate(self, rate: float) -> None:
        if not rate > 0:
            raise ValueError(f"rate is {rate}, it must be > 0")
        if self.discretisation == "dss" and rate != 1:
            raise ValueError(f"rate is {rate}, but discretisation 'dss' has no other resolution than 1")

    def _check_recurrent(self) -> None:
        if self.bidirectional:
            raise ValueError("bidirectional is True: states and steps need a causal layer")
        if self.discretisation == "dss":
            raise ValueError("discretisation is 'dss', its kernel depends on the length: no states or steps")

    def extra_repr(self) -> str:
        return (
            f"{self.dim}, {self.state_dim}, init={self.init.name!r}, discretisation={self.discretisation!r}, "
            f"copies={self.copies}, bidirectional={self.bidirectional}"
        )
