"""S4D: kernels and outputs against a dense recurrence, closed forms, and the two modes against each other."""

import math
import subprocess
import sys
from itertools import pairwise

import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

from eigenzoo.errors import NonFiniteError
from eigenzoo.models.ssm import S4D, DiagonalInit
from eigenzoo.ops import to_pair, vandermonde
from eigenzoo.testing import relative_error

F64 = torch.float64


def make(dim: int = 3, state_dim: int = 8, **options) -> S4D:
    torch.manual_seed(0)
    return S4D(dim, state_dim, **options).double()


def continuous(layer: S4D, channel: int) -> tuple[torch.Tensor, ...]:
    """(A, B, C) of one channel as real matrices of size 2M, and dt."""
    copy = channel % layer.copies
    a = torch.complex(layer.init.decode_real(layer.A_re), layer.A_im)[copy]
    b, c = torch.view_as_complex(layer.B)[copy], torch.view_as_complex(layer.C)[:, channel]
    matrix = torch.cat(
        [torch.cat([a.real.diag(), -a.imag.diag()], 1), torch.cat([a.imag.diag(), a.real.diag()], 1)]
    )
    return (
        matrix,
        torch.cat([b.real, b.imag]),
        2 * torch.cat([c.real, -c.imag], 1),
        layer.log_dt[channel].exp(),
    )


def dense_kernel(layer: S4D, channel: int, length: int) -> torch.Tensor:
    """C Abar^l Bbar by repeated products of dense real matrices."""
    a, b, c, dt = continuous(layer, channel)
    size = len(b)
    eye = torch.eye(size, dtype=F64)
    if layer.discretisation == "zoh":
        block = torch.zeros(size + 1, size + 1, dtype=F64)
        block[:size, :size], block[:size, size] = a * dt, b * dt
        block = torch.from_numpy(scipy.linalg.expm(block.numpy()))  # torch's own is good to 1e-10 only
        abar, state = block[:size, :size], block[:size, size]
    else:
        abar = torch.linalg.solve(eye - a * dt / 2, eye + a * dt / 2)
        state = torch.linalg.solve(eye - a * dt / 2, b * dt)
    taps = []
    for _ in range(length):
        taps.append(c @ state)
        state = abar @ state
    return torch.stack(taps, dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
@pytest.mark.parametrize("init", ["lin", "legs", "inv", "rand"])
def test_kernel_is_the_dense_recurrence(init: str, discretisation: str):
    layer = make(init=init, discretisation=discretisation, bidirectional=True)
    kernel = layer.kernel(70)
    for channel in range(3):
        assert relative_error(kernel[:, channel], dense_kernel(layer, channel, 70)) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("copies", [1, 2])
def test_channel_uses_copy_h_mod_s(copies: int):
    layer = make(dim=4, copies=copies, init="rand")
    assert layer.A_re.shape == (copies, 4)
    for channel in range(4):
        assert relative_error(layer.kernel(9)[0, channel], dense_kernel(layer, channel, 9)[0]) < 1e-12


@torch.no_grad()
def test_bidirectional_is_two_sums():
    layer = make(bidirectional=True)
    u = torch.randn(2, 11, 3, dtype=F64)
    k = layer.kernel(11)
    wanted = layer.D * u
    for t in range(11):
        for s in range(11):
            wanted[:, t] += (k[0, :, t - s] if s <= t else k[1, :, s - t - 1]) * u[:, s]
    assert relative_error(layer(u), wanted) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
def test_steps_equal_the_convolution(dtype: torch.dtype, tolerance: float, discretisation: str):
    layer = make(state_dim=64, discretisation=discretisation).to(dtype).eval()
    u = torch.randn(1, 4096, 3, dtype=dtype)
    state, steps = layer.initial_state(1), []
    for u_t in u.unbind(1):
        y_t, state = layer.step(u_t, state)
        steps.append(y_t)
    y, final = layer(u, return_state=True)
    assert relative_error(torch.stack(steps, 1), y) < tolerance
    assert final.dtype == state.dtype and relative_error(state, final) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("cut", [1, 17, 39])
def test_chunks_equal_the_whole(cut: int):
    layer = make()
    u = torch.randn(2, 40, 3, dtype=F64)
    whole, final = layer(u, return_state=True)
    first, state = layer(u[:, :cut], return_state=True)
    second, last = layer(u[:, cut:], state=state, return_state=True)
    assert relative_error(torch.cat([first, second], 1), whole) < 1e-12
    assert relative_error(last, final) < 1e-12


@torch.no_grad()
def test_zoh_is_exact_for_constant_input():
    layer = make(dim=2)
    z, _ = layer.discretise()
    a = torch.complex(layer.init.decode_real(layer.A_re), layer.A_im)
    c, b = torch.view_as_complex(layer.C)[0], torch.view_as_complex(layer.B)
    k = torch.arange(1, 51, dtype=F64)
    response = 2 * torch.einsum("hn,hnk->hk", c * b / a, torch.exp(z.complex().unsqueeze(-1) * k) - 1).real
    y = layer(torch.ones(1, 50, 2, dtype=F64)) - layer.D
    assert relative_error(y[0].T, response) < 1e-12


@torch.no_grad()
def test_bilinear_reaches_zoh_at_second_order():
    """Step response at t = 1 with dt halved from 1/64."""
    errors = []
    for steps in (64, 128, 256, 512):
        ends = []
        for discretisation in ("zoh", "bilinear"):
            layer = make(1, 4, dt=(1 / steps, 1 / steps), discretisation=discretisation)
            ends.append(layer(torch.ones(1, steps, 1, dtype=F64))[0, -1, 0].item())
        errors.append(abs(ends[1] - ends[0]))
    assert [a / b for a, b in pairwise(errors)] == pytest.approx([4.0] * 3, abs=0.03)


@torch.no_grad()
def test_lin_is_a_dirichlet_kernel():
    real, imag, b = DiagonalInit("lin").spectrum(16, 1)
    t = torch.arange(601, dtype=F64) * 0.01
    kernel = vandermonde(to_pair(b + 0j), to_pair(torch.complex(real, imag) * 0.01), 601)[0]
    wanted = 2 * torch.exp(-t / 2) * sum(torch.cos(math.pi * n * t) for n in range(8))
    assert relative_error(kernel, wanted) < 1e-12
    for even in (0, 2, 4, 6):
        near = kernel[max(0, 100 * even - 90) : 100 * even + 90]
        assert near.argmax().item() == pytest.approx(min(100 * even, 90), abs=2)
        assert near.max().item() == pytest.approx(16 * math.exp(-even / 2), rel=0.01)


@torch.no_grad()
def test_rate_is_a_change_of_resolution():
    """Every second sample at rate 2 gives every second output; the error falls linearly with dt."""
    errors = []
    for steps in (100, 200, 400):
        layer = make(2, 8, dt=(1 / steps, 1 / steps))
        layer.D.zero_()
        time = torch.arange(4 * steps, dtype=F64) / steps
        u = torch.sin(3 * time)[None, :, None].expand(1, -1, 2)
        errors.append(relative_error(layer(u[:, ::2], rate=2.0), layer(u)[:, ::2]))
    assert errors[0] < 0.03
    assert [a / b for a, b in pairwise(errors)] == pytest.approx([2.0] * 2, rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize("real_transform", ["exp", "relu"])
def test_kernels_decay_whatever_is_stored(real_transform: str):
    layer = make(dim=4, init=DiagonalInit("lin", real_transform=real_transform))
    torch.nn.init.normal_(layer.A_re, std=3)
    z, bbar = layer.discretise()
    assert (z.re < 0).all()
    weights = torch.view_as_complex(layer.C)[0] * bbar.complex()
    slowest = z.re.max(dim=1, keepdim=True).values
    bound = 2 * weights.abs().sum(1, keepdim=True) * torch.exp(slowest * torch.arange(500))
    assert (layer.kernel(500)[0].abs() <= bound * (1 + 1e-12)).all()


@torch.no_grad()
def test_float32_kernel_has_six_digits():
    layer = S4D(8, 64)
    assert relative_error(layer.kernel(16384).double(), layer.double().kernel(16384)) < 3e-6


@torch.no_grad()
def test_dss_is_normalised_over_the_length():
    layer = make(dim=2, discretisation="dss")
    a = torch.complex(layer.init.decode_real(layer.A_re), layer.A_im)
    powers = torch.exp((a * layer.log_dt.exp()[:, None]).unsqueeze(-1) * torch.arange(20))
    softmax = powers / powers.sum(-1, keepdim=True)
    weights = torch.view_as_complex(layer.C)[0] * torch.view_as_complex(layer.B) / a
    assert relative_error(layer.kernel(20)[0], 2 * torch.einsum("hn,hnl->hl", weights, softmax).real) < 1e-12


@torch.no_grad()
def test_band_limit_drops_fast_modes():
    layer = make(1, 8, dt=(0.1, 0.1))
    plain = layer.kernel(30)
    layer.bandlimit = 10.0
    assert torch.equal(layer.kernel(30), plain)
    layer.bandlimit = 0.15  # dt Im a / pi = 0.1 n: keeps n = 0 and 1
    kept = layer.kernel(30)
    layer.bandlimit = None
    layer.C[:, :, 2:] = 0
    assert torch.equal(kept, layer.kernel(30)) and not torch.equal(kept, plain)


class KernelOnly(torch.nn.Module):
    def __init__(self, layer: S4D, length: int):
        super().__init__()
        self.layer, self.length = layer, length

    def forward(self) -> torch.Tensor:
        return self.layer.kernel(self.length)


@pytest.mark.parametrize("length", [1, 7, 64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"discretisation": "bilinear", "bidirectional": True},
        {"discretisation": "dss"},
        {"init": "real"},
        {"init": DiagonalInit("inv", real_transform="relu", dt_transform="softplus"), "copies": 1},
    ],
    ids=["zoh", "bilinear", "dss", "real", "relu"],
)
def test_gradient_of_the_kernel(options: dict, length: int):
    module = KernelOnly(make(2, 4, **options), length)
    names = [n for n, _ in module.named_parameters() if n != "layer.D"]
    values = [dict(module.named_parameters())[n].detach().requires_grad_() for n in names]
    assert gradcheck(lambda *v: functional_call(module, dict(zip(names, v, strict=True)), ()), values)


def test_gradients_through_states():
    layer = make(2, 4)
    u = torch.randn(1, 5, 2, dtype=F64, requires_grad=True)
    state = torch.randn(1, 2, 2, dtype=torch.complex128, requires_grad=True)
    assert gradcheck(lambda u, state: layer(u, state=state, return_state=True), (u, state))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_parameter_count(bidirectional: bool):
    h, m = 6, 4
    layer = S4D(h, 2 * m, bidirectional=bidirectional)
    assert sum(p.numel() for p in layer.parameters()) == h + 4 * h * m + 2 * h * m * (1 + bidirectional) + h


def test_frozen_parameters_are_buffers():
    layer = S4D(4, 8, trainable=["B"])
    assert {n for n, _ in layer.named_parameters()} == {"B", "C", "D"}
    assert {n for n, _ in layer.named_buffers()} == {"log_dt", "A_re", "A_im"}
    assert layer.parameter_tags() == {"B": ("ssm", "ssm_B")}
    assert S4D(4, 8).parameter_tags() == {
        "log_dt": ("ssm", "ssm_dt"),
        "A_re": ("ssm", "ssm_A"),
        "A_im": ("ssm", "ssm_A"),
        "B": ("ssm", "ssm_B"),
    }


def test_real_row_has_no_dead_parameters():
    layer = S4D(4, 8, init="real")
    assert layer.A_im is None and layer.B.shape == (4, 4, 1) and layer.C.shape == (1, 4, 4, 1)
    layer(torch.randn(2, 10, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


def test_kernel_that_grows_is_named():
    layer = make(2, 4, init=DiagonalInit("lin", real_transform="none"))
    assert layer.kernel(50).isfinite().all()
    with torch.no_grad():
        layer.A_re.fill_(-1e4)
    with pytest.raises(NonFiniteError, match="not finite at length 5000"):
        layer.kernel(5000)


_MANY_LENGTHS = """
import torch
from eigenzoo.models.ssm import S4D
from eigenzoo.testing import assert_close

layer, twin = S4D(2, 4, bidirectional=True), S4D(2, 4, bidirectional=True)
twin.load_state_dict(layer.state_dict())
twin.compile(fullgraph=True, dynamic=True)
for length in (5, 300, 64, 1000):
    u = torch.randn(3, length, 2)
    outputs = layer(u), twin(u)
    assert_close(outputs[1], outputs[0], 1e-5)
    for y in outputs:
        y.square().sum().backward()
    torch._dynamo.config.error_on_recompile = True
assert_close(twin.log_dt.grad, layer.log_dt.grad, 1e-4)
"""


@pytest.mark.slow
@pytest.mark.process
def test_compiles_once_for_all_lengths():
    """In a process of its own: the runtime shape checks of this one cannot be traced."""
    subprocess.run([sys.executable, "-c", _MANY_LENGTHS], check=True)


@torch.no_grad()
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear", "dss"])
def test_smallest_sizes(discretisation: str):
    layer = S4D(1, 2, discretisation=discretisation)
    u = torch.ones(1, 1, 1)
    assert torch.allclose(layer(u), layer.kernel(1)[0] + layer.D)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dim": 0}, "dim is 0"),
        ({"state_dim": 7}, "state_dim is 7.*even"),
        ({"state_dim": 0}, "state_dim is 0"),
        ({"dt": (0.1, 0.01)}, "dt is .0.1, 0.01."),
        ({"dt": (0.0, 0.01)}, "0 < smallest"),
        ({"copies": 3}, "copies is 3.*dim = 4"),
        ({"init": "lim"}, "init is 'lim', known are legs, inv, lin, .*did you mean 'lin'"),
        ({"discretisation": "zho"}, "did you mean 'zoh'"),
        ({"trainable": ["A", "E"]}, "trainable is .*'E'.*A, B, dt"),
        ({"trainable": "dt"}, "trainable is 'dt'"),
        ({"discretisation": "dss", "init": DiagonalInit(real_transform="none")}, "needs Re a < 0"),
    ],
)
def test_bad_arguments(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        S4D(**({"dim": 4} | options))


@pytest.mark.parametrize(
    "options, call, message",
    [
        ({}, lambda s: s.kernel(0), "length is 0"),
        ({}, lambda s: s(torch.ones(1, 0, 2)), "length is 0"),
        ({}, lambda s: s(torch.ones(1, 4, 3)), "3 channels.*dim = 2"),
        ({}, lambda s: s.kernel(4, rate=0.0), "rate is 0.0"),
        ({"discretisation": "dss"}, lambda s: s.kernel(4, rate=2.0), "rate is 2.0.*'dss'"),
        ({"discretisation": "dss"}, lambda s: s.initial_state(1), "'dss'.*no states"),
        ({"bidirectional": True}, lambda s: s.initial_state(1), "bidirectional is True"),
        (
            {"bidirectional": True},
            lambda s: s(torch.ones(1, 4, 2), return_state=True),
            "bidirectional is True",
        ),
    ],
)
def test_bad_calls(options: dict, call, message: str):
    with pytest.raises(ValueError, match=message):
        call(S4D(2, 4, **options))
