"""S5: one diagonal state-space model with many inputs and outputs, evaluated by a scan.

Smith, Warrington, Linderman, "Simplified State Space Layers for Sequence Modeling", ICLR 2023,
arXiv 2208.04933. With P states (P/2 complex modes, each standing for itself and its conjugate), H channels,
Lambda in C^modes, B~ (modes, H), C~ (H, modes) and one step dt per mode

    x_k = Lbar x_{k-1} + Bbar u_k,   y_k = 2 Re(C~ x_k) + D u_k      (D elementwise)

| discretisation | Lbar | Bbar |
|---|---|---|
| zoh | exp(Lambda dt) | (exp(Lambda dt) - 1)/Lambda B~ |
| bilinear | (1 + Lambda dt/2)/(1 - Lambda dt/2) | dt/(1 - Lambda dt/2) B~ |

The paper's claims: one such system replaces H independent ones and their mixing; the scan costs no more than
the FFT convolutions and allows steps that vary along the sequence; accuracy is that of S4 or better.
Initialisation: the normal part of HiPPO-LegS of size P/J, `V diag(Lambda) V^*`, J times on the block diagonal;
B~ = V^{-1} B with B real, C~ = C V. What differs here: the scan is the segmented one of `ops.diagonal_scan`
(same sums, the states are never kept), and the phases of the eigenvectors are fixed by `v_n^* b > 0`, b the
LegS vector, so that a seed gives the same parameters on every machine.

Optimiser groups of the paper, with `r` the rate of the SSM, `f r` the base rate and `w` the base decay:

    standard:        groups: {ssm: {lr: r, weight_decay: 0}}
    BandCdecay:      groups: {ssm: {lr: r, weight_decay: 0}, ssm_B: {lr: r, weight_decay: w}}
    BfastandCdecay:  groups: {ssm: {lr: r, weight_decay: 0}, ssm_B: {lr: f r, weight_decay: w}}
    noBCdecay:       groups: {ssm: .., ssm_C: {lr: r, weight_decay: 0}, ssm_D: {lr: r, weight_decay: 0}}

With the paper's `dt_global` the steps leave the group for the base rate, and a well-known implementation then
decays log dt, towards dt = 1. Here: `ssm_dt: {lr: f r, weight_decay: 0}`, the rate without the decay.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ...errors import NonFiniteError
from ...ops import Pair, log_mobius, multiply, phi1
from ...ops.scan import diagonal_scan
from ..arguments import check_choice
from .arguments import check_dt
from .caching import ParameterCache
from .s5_init import S5Init as S5Init

_C_INITS = ("lecun", "trunc", "complex")
_CLIP = -1e-4  # largest Re Lambda with clip_eigs


class S5(ParameterCache):
    """A diagonal state-space model with `dim` inputs and outputs: (batch, length, dim) in and out.

    Args:
        dim: H, number of channels.
        state_dim: P, the real size of the state.
        blocks: J, number of equal blocks of Lambda; divides `state_dim` into even parts.
        init: name of an initialisation of Lambda, or an `S5Init`, which has further options.
        dt: (smallest, largest) initial step, in units of one sample at rate 1; log-uniform per mode.
        c_init: of C~. `lecun`: C V with real and imaginary part of C (H, P) truncated normal, variance
            1/(H P) (fan-in of a shape (H, P, 2), where the channels count as a receptive field); `trunc`: the
            same with variance 1/P (row by row, shape (1, P, 2)); `complex`: C~ itself normal, variance 1/2.
        bidirectional: a second recurrence from the end, with common Lambda, B~, dt and a C~ of its own:
            `y_t = sum_{s<=t} K0[t-s] u_s + sum_{s>=t} K1[s-t] u_s + D u_t`. Lag 0 is in both sums.
        discretisation: `zoh` or `bilinear` (see the module's table).

    Attributes:
        modes: number of complex modes.
    """

    log_dt: Tensor
    Lambda: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    weight: Tensor

    def __init__(
        self,
        dim: int,
        state_dim: int = 64,
        *,
        blocks: int = 1,
        init: str | S5Init = "legs",
        dt: Sequence[float] = (1e-3, 1e-1),
        c_init: str = "lecun",
        bidirectional: bool = False,
        discretisation: str = "zoh",
    ):
        super().__init__()
        self.init = S5Init(init) if isinstance(init, str) else init
        _check_sizes(dim, state_dim, blocks, self.init.symmetric)
        check_dt(dt)
        check_choice("c_init", c_init, _C_INITS)
        check_choice("discretisation", discretisation, ("zoh", "bilinear"))
        self.dim, self.state_dim, self.blocks = dim, state_dim, blocks
        self.c_init, self.bidirectional, self.discretisation = c_init, bidirectional, discretisation
        self._make_parameters(dt)

    def _make_parameters(self, dt: Sequence[float]) -> None:
        eigenvalues, v, v_inverse, weight = self.init.block_eigen(self.state_dim // self.blocks)
        self.modes, trained = self.blocks * len(eigenvalues), self.init.trainable
        low, high = math.log(dt[0]), math.log(dt[1])
        self._store("log_dt", low + (high - low) * torch.rand(self.modes, **_F64), "dt" in trained)
        self._store("Lambda", torch.view_as_real(eigenvalues.repeat(self.blocks)), "A" in trained)
        b = self.init.input_map(self.state_dim, self.dim, self.blocks).unflatten(0, (self.blocks, -1))
        self._store("B", torch.view_as_real((v_inverse @ b.to(v.dtype)).flatten(0, 1)), "B" in trained)
        self._store("C", torch.view_as_real(self._initial_c(v)), True)
        self._store("D", torch.randn(self.dim, **_F64), True)
        self._store("weight", weight.real.repeat(self.blocks), False)

    def _initial_c(self, v: Tensor) -> Tensor:
        lead = (1 + self.bidirectional, self.dim)
        if self.c_init == "complex":
            return torch.randn(*lead, self.modes, dtype=torch.complex128, device="cpu")
        fan_in = self.state_dim * (self.dim if self.c_init == "lecun" else 1)
        return (self.init.output_map((*lead, self.blocks, len(v)), fan_in) @ v).flatten(2)

    def parameter_tags(self) -> dict[str, tuple[str, ...]]:
        """Tags of the optimiser's groups, for the parameters that are trained; see the module."""
        tags = {"log_dt": ("ssm", "ssm_dt"), "Lambda": ("ssm", "ssm_A"), "B": ("ssm", "ssm_B")}
        tags |= {"C": ("ssm_C",), "D": ("ssm_D",)}
        trained = dict(self.named_parameters(recurse=False))
        return {name: names for name, names in tags.items() if name in trained}

    def initialisation_report(self) -> dict[str, float]:
        """Numbers about the initialisation of a block for a run's record, of an init that has `report`, else none."""
        report = getattr(self.init, "report", None)
        return report(self.state_dim // self.blocks) if report is not None else {}

    def eigenvalues(self) -> Pair:
        """Lambda (modes,) as it is in use, in float64: with `clip_eigs` its real part is at most -1e-4."""
        real, imag = self.Lambda.double().unbind(-1)
        return Pair(real.clamp(max=_CLIP) if self.init.clip_eigs else real, imag)

    def discretise(self, rate: float = 1.0) -> tuple[Pair, Pair]:
        """(log Lbar, Bbar) at step `rate * dt`, pairs of (modes,) and (modes, dim) in float64."""
        z, b = self._continuous(rate)
        if self.discretisation == "bilinear":
            half = Pair(1 - z.re / 2, -z.im / 2)
            inverse = (half.re.square() + half.im.square()).reciprocal()
            return log_mobius(z), multiply(b, _column(Pair(half.re * inverse, -half.im * inverse)))
        return z, multiply(b, _column(phi1(z)))

    def _continuous(self, rate: float) -> tuple[Pair, Pair]:
        """(Lambda dt, B~ dt) in float64."""
        dt = rate * torch.exp(self.log_dt.double())
        return self.eigenvalues().scale(dt), Pair(*self.B.double().unbind(-1)).scale(dt.unsqueeze(-1))

    def _output_maps(self) -> list[Pair]:
        """Per direction C~ with what makes the real part that of the conjugate pair, (dim, modes)."""
        c = 2 * self.weight.to(self._dtype).unsqueeze(-1) * self.C.to(self._dtype)
        return [Pair(*part.unbind(-1)) for part in c]

    def forward(
        self,
        u: Float[Tensor, "batch length dim"],
        *,
        state: Complex[Tensor, "batch modes"] | None = None,
        rate: float = 1.0,
        return_state: bool = False,
        steps: Float[Tensor, "samples positions"] | None = None,
    ) -> Float[Tensor, "batch length dim"] | tuple[Tensor, Tensor]:
        """Scan over the sequence. Multiply padded positions of `u` by 0 beforehand if bidirectional.

        Args:
            state: x_{-1}, the state before the first sample (causal layers); None is zero.
            rate: factor on dt: 2 runs a model on every second sample of what it was trained on.
            return_state: return `(y, x_{length-1})`, to go on with another chunk or with `step`.
            steps: factors on dt per position, > 0, for samples at irregular times: the time since the sample
                before, in units of the usual one.

        Raises:
            ValueError: length 0, wrong number of channels or shape of `steps`, rate <= 0, or a state with a
                bidirectional layer.
            NonFiniteError: an eigenvalue has a positive real part, and over this length its state would grow
                beyond the number range. Looked at on the CPU only; elsewhere it would stall the device.
        """
        self._check_input(u, steps, rate)
        if state is not None or return_state:
            self._check_recurrent()
        z, b = self._cached("maps", (rate, steps is None), lambda: self._maps(rate, steps is None))
        self._check_growth(z, u.shape[1] if steps is None else steps)
        options = {"steps": steps, "method": self.discretisation}
        maps = self._cached("outputs", (), self._output_maps)
        y, final = diagonal_scan(u, z, b, maps[0], state=state, **options)
        if self.bidirectional:
            y = y + diagonal_scan(u, z, b, maps[1], reverse=True, **options)[0]
        y = (y + self.D * u).to(u.dtype)
        return (y, final) if return_state else y

    def _maps(self, rate: float, constant: bool) -> tuple[Pair, Pair]:
        z, b = self.discretise(rate) if constant else self._continuous(rate)
        return z, b.to(self._dtype)

    def initial_state(self, batch: int) -> Complex[Tensor, "batch modes"]:
        """The zero state of the recurrence."""
        self._check_recurrent()
        return torch.zeros(batch, self.modes, dtype=self._dtype.to_complex(), device=self.C.device)

    def step(
        self, u_t: Float[Tensor, "batch dim"], state: Complex[Tensor, "batch modes"], rate: float = 1.0
    ) -> tuple[Float[Tensor, "batch dim"], Complex[Tensor, "batch modes"]]:
        """One sample of the recurrence: `(y_t, new state)`; equal to `forward` for causal layers."""
        self._check_recurrent()
        _check_rate(rate)
        lbar, inputs, outputs = self._cached("step", (rate,), lambda: self._step_matrices(rate))
        mapped = (u_t.to(inputs.dtype) @ inputs).unflatten(-1, (-1, 2))
        state = torch.addcmul(torch.view_as_complex(mapped), lbar, state)
        y = torch.view_as_real(state).flatten(1) @ outputs
        return (y + self.D * u_t).to(u_t.dtype), state

    def _step_matrices(self, rate: float) -> tuple[Tensor, Tensor, Tensor]:
        """Lbar, and the real maps (dim, 2 modes) and (2 modes, dim) to and from interleaved states."""
        log_lbar, bbar = self.discretise(rate)
        c = self._output_maps()[0]
        inputs = torch.stack(bbar.to(self._dtype), dim=1).flatten(0, 1).T.contiguous()
        outputs = torch.stack([c.re, -c.im], dim=-1).flatten(1).T.contiguous()
        return torch.exp(log_lbar.complex()).to(self._dtype.to_complex()), inputs, outputs

    def impulse_response(
        self, length: int, rate: float = 1.0
    ) -> Float[Tensor, "directions dim_out dim_in length"]:
        """`K_l = 2 Re(C~ Lbar^l Bbar)`, l = 0..length-1, per direction, without D; float64, for small sizes."""
        log_lbar, bbar = self.discretise(rate)
        index = torch.arange(length, device=bbar.re.device)
        response = torch.exp(log_lbar.complex().unsqueeze(-1) * index).unsqueeze(
            1
        ) * bbar.complex().unsqueeze(-1)
        c = torch.stack([part.to(torch.float64).complex() for part in self._output_maps()])
        return torch.einsum("dom,mil->doil", c, response).real

    def _check_input(self, u: Tensor, steps: Tensor | None, rate: float) -> None:
        if u.shape[-1] != self.dim:
            raise ValueError(f"the input has {u.shape[-1]} channels, S5 was built with dim = {self.dim}")
        if u.shape[1] < 1:
            raise ValueError("length is 0, S5 needs at least one sample")
        if steps is not None and steps.shape != u.shape[:2]:
            raise ValueError(
                f"steps has shape {tuple(steps.shape)}, wanted {tuple(u.shape[:2])} as the input"
            )
        _check_rate(rate)

    def _check_growth(self, z: Pair, extent: int | Tensor) -> None:
        """Refuse a state that overflows; `extent` is the length, or the steps."""
        if self.init.clip_eigs or z.re.device.type != "cpu" or torch.compiler.is_compiling():
            return
        total = extent if isinstance(extent, int) else extent.detach().sum(1).max().item()
        worst = int(z.re.detach().argmax())
        growth = z.re[worst].item() * total
        if growth > math.log(torch.finfo(self._dtype).max):
            value = complex(*self.Lambda[worst].tolist())
            raise NonFiniteError(
                f"eigenvalue {worst} of S5(dim={self.dim}, state_dim={self.state_dim}) is {value:.4g}: its state "
                f"grows by exp({growth:.4g}) over this input; S5Init(clip_eigs=True) keeps Re Lambda < 0"
            )

    def _check_recurrent(self) -> None:
        if self.bidirectional:
            raise ValueError("bidirectional is True: states and steps need a causal layer")

    def extra_repr(self) -> str:
        return (
            f"{self.dim}, {self.state_dim}, blocks={self.blocks}, init={self.init.name!r}, "
            f"discretisation={self.discretisation!r}, bidirectional={self.bidirectional}"
        )


_F64 = {"dtype": torch.float64, "device": "cpu"}


def _column(x: Pair) -> Pair:
    return Pair(x.re.unsqueeze(-1), x.im.unsqueeze(-1))


def _check_rate(rate: float) -> None:
    if not rate > 0:
        raise ValueError(f"rate is {rate}, it must be > 0")


def _check_sizes(dim: int, state_dim: int, blocks: int, symmetric: bool) -> None:
    if dim < 1:
        raise ValueError(f"dim is {dim}, it must be at least 1")
    if state_dim < 1 or (symmetric and state_dim % 2):
        raise ValueError(
            f"state_dim is {state_dim}, it must be even and >= 2: it counts conjugate pairs"
            if symmetric
            else f"state_dim is {state_dim}, it must be at least 1"
        )
    if blocks < 1 or state_dim % blocks:
        raise ValueError(f"blocks is {blocks}, it must divide state_dim = {state_dim}")
    if symmetric and (state_dim // blocks) % 2:
        raise ValueError(
            f"blocks is {blocks}: the blocks of state_dim = {state_dim} have size {state_dim // blocks}, which "
            "must be even, as they hold conjugate pairs"
        )
