"""S5: the layer against double sums, dense systems, S4D, and its own recurrence."""

import copy
import math
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from eigenzoo.errors import NonFiniteError
from eigenzoo.models.ssm import S4D
from eigenzoo.models.ssm.s5 import S5, S5Init
from eigenzoo.ops import legs_normal_part
from eigenzoo.ops.scan import diagonal_scan_plain
from eigenzoo.optim.groups import parameter_groups
from eigenzoo.testing import assert_batch_independent, relative_error

F64, C128 = torch.float64, torch.complex128


def make(dim: int = 3, state_dim: int = 8, **options) -> S5:
    torch.manual_seed(0)
    return S5(dim, state_dim, **options).double()


def noise(*shape: int, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bidirectional": True},
        {"blocks": 2, "c_init": "trunc", "discretisation": "bilinear"},
        {"c_init": "complex", "bidirectional": True, "init": S5Init(symmetric=False, b_init="legs")},
    ],
)
def test_output_is_the_double_sum(options: dict):
    """Lag 0 is in both sums of the bidirectional layer."""
    layer, u = make(**options), noise(2, 20, 3)
    k = layer.impulse_response(20)
    assert k.shape == (1 + layer.bidirectional, 3, 3, 20)
    wanted = layer.D * u
    for t in range(20):
        for s in range(20):
            if s <= t:
                wanted[:, t] += u[:, s] @ k[0, ..., t - s].T
            if s >= t and layer.bidirectional:
                wanted[:, t] += u[:, s] @ k[1, ..., s - t].T
    assert relative_error(layer(u), wanted) < 1e-12


@torch.no_grad()
def test_bidirectional_is_forward_and_reversed_forward():
    layer, causal = make(bidirectional=True), make()
    for name in ("log_dt", "Lambda", "B"):
        getattr(causal, name).copy_(getattr(layer, name))
    causal.D.zero_()
    u, total = noise(2, 33, 3), 0
    for direction in (0, 1):
        causal.C.copy_(layer.C[direction : direction + 1])
        total = total + (causal(u.flip(1)).flip(1) if direction else causal(u))
    assert relative_error(layer(u), total + layer.D * u) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
@pytest.mark.parametrize("rate", [1.0, 2.0])
def test_blocks_of_s4d(discretisation: str, rate: float):
    """With one block per channel, and B and C of that structure, S5 is S4D."""
    dim, size = 4, 6
    torch.manual_seed(0)
    s4d = S4D(dim, size, init="rand", discretisation=discretisation).double()
    s5 = make(dim, dim * size, blocks=dim, discretisation=discretisation)
    s5.log_dt.copy_(s4d.log_dt.repeat_interleave(s4d.modes))
    s5.Lambda.copy_(torch.stack([s4d.init.decode_real(s4d.A_re), s4d.A_im], -1).flatten(0, 1))
    s5.B.zero_(), s5.C.zero_()
    for h in range(dim):
        modes = slice(h * s4d.modes, (h + 1) * s4d.modes)
        s5.B[modes, h], s5.C[0, h, modes] = s4d.B[h], s4d.C[0, h]
    s5.D.copy_(s4d.D)
    u = noise(2, 300, dim)
    y, state = s5(u, rate=rate, return_state=True)
    wanted, wanted_state = s4d(u, rate=rate, return_state=True)
    assert relative_error(y, wanted) < 1e-10
    assert relative_error(state, wanted_state.flatten(1)) < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(F64, 1e-10), (torch.float32, 1e-5)])
def test_steps_equal_the_scan(dtype: torch.dtype, tolerance: float):
    layer = make(state_dim=32, blocks=2).to(dtype).eval()
    u = noise(2, 1500, 3, dtype=dtype)
    state, steps = layer.initial_state(2), []
    for u_t in u.unbind(1):
        y_t, state = layer.step(u_t, state, rate=0.5)
        steps.append(y_t)
    y, final = layer(u, rate=0.5, return_state=True)
    assert final.dtype == state.dtype and relative_error(state, final) < tolerance
    assert relative_error(torch.stack(steps, 1), y) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("cut", [1, 17, 39])
def test_chunks_equal_the_whole(cut: int):
    layer, u, gaps = make(), noise(2, 40, 3), 0.1 + noise(2, 40).abs()
    for steps in (None, gaps):
        parts = (None, None) if steps is None else (steps[:, :cut], steps[:, cut:])
        whole, final = layer(u, return_state=True, steps=steps)
        first, state = layer(u[:, :cut], return_state=True, steps=parts[0])
        second, last = layer(u[:, cut:], state=state, return_state=True, steps=parts[1])
        assert relative_error(torch.cat([first, second], 1), whole) < 1e-12
        assert relative_error(last, final) < 1e-12


@torch.no_grad()
def test_zoh_is_exact_for_constant_input():
    layer = make(2)
    z, _ = layer.discretise()
    eigenvalues, b = torch.view_as_complex(layer.Lambda), torch.view_as_complex(layer.B).sum(1)
    k = torch.arange(1, 51, dtype=F64).unsqueeze(-1)
    x = b / eigenvalues * (torch.exp(z.complex() * k) - 1)
    response = 2 * (x @ torch.view_as_complex(layer.C)[0].T).real
    assert relative_error(layer(torch.ones(1, 50, 2, dtype=F64))[0] - layer.D, response) < 1e-12


@torch.no_grad()
def test_rate_and_equal_steps_multiply_dt():
    layer, u = make(bidirectional=True), noise(2, 30, 3)
    doubled = copy.deepcopy(layer)
    doubled.log_dt += math.log(2)
    assert relative_error(layer(u, rate=2.0), doubled(u)) < 1e-12
    assert relative_error(layer(u, steps=torch.full((2, 30), 2.0, dtype=F64)), doubled(u)) < 1e-12
    assert relative_error(layer(u, steps=torch.full((2, 30), 4.0, dtype=F64), rate=0.5), doubled(u)) < 1e-12


@torch.no_grad()
def test_irregular_steps_are_held_samples():
    """zoh: a step of s is s unit steps with the same input."""
    layer, u = make(), noise(1, 12, 3)
    gaps = torch.tensor([1, 3, 2, 1, 5, 1, 1, 4, 2, 7, 1, 2])
    held = layer(u.repeat_interleave(gaps, 1))[:, gaps.cumsum(0) - 1]
    assert relative_error(layer(u, steps=gaps.double().unsqueeze(0)), held) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
def test_irregular_steps_are_the_loop(discretisation: str):
    layer, u, gaps = make(discretisation=discretisation), noise(2, 45, 3), 0.1 + 3 * noise(2, 45).abs()
    z, b = layer._continuous(1.5)
    (c,) = layer._output_maps()
    wanted, _ = diagonal_scan_plain(u, z, b, c, steps=gaps, method=discretisation)
    assert relative_error(layer(u, rate=1.5, steps=gaps), wanted + layer.D * u) < 1e-10


@torch.no_grad()
def test_equal_dt_per_mode_is_a_scalar_dt():
    layer = make(dt=(0.03, 0.03))
    eigenvalues, b = torch.view_as_complex(layer.Lambda), torch.view_as_complex(layer.B)
    c, dt = torch.view_as_complex(layer.C)[0], layer.log_dt[0].exp()
    assert torch.equal(layer.log_dt, layer.log_dt[:1].expand(layer.modes)) and dt.item() == pytest.approx(
        0.03
    )
    bbar = ((torch.exp(eigenvalues * dt) - 1) / eigenvalues).unsqueeze(-1) * b
    for lag in (0, 1, 40):
        wanted = 2 * ((c * torch.exp(eigenvalues * dt * lag)) @ bbar).real
        assert relative_error(layer.impulse_response(41)[0, ..., lag], wanted) < 1e-12


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [2, 16])
def test_eigenvectors_of_the_normal_part(symmetric: bool, size: int):
    eigenvalues, v, v_inverse, weight = S5Init(symmetric=symmetric).block_eigen(size)
    assert len(eigenvalues) == (size // 2 if symmetric else size)
    assert relative_error(v.mH @ v, torch.eye(len(eigenvalues), dtype=C128)) < 1e-13
    assert torch.equal(v_inverse, v.mH)
    assert relative_error(2 * ((v * (weight * eigenvalues)) @ v_inverse).real, legs_normal_part(size)) < 1e-13
    assert (eigenvalues.imag < 0).all() == symmetric


@torch.no_grad()
def test_initial_maps_have_their_variances():
    """B~ = V^* B keeps half of the norm of B, of variance 1/P; C and D as documented."""
    dim, states = 200, 64
    for blocks in (1, 8):
        layer = S5(dim, states, blocks=blocks)
        assert layer.B.square().sum().item() == pytest.approx(dim / 2, rel=0.05)
        assert layer.log_dt.shape == (layer.modes,) == (states // 2,)
    for c_init, variance in (("lecun", 1 / (dim * states)), ("trunc", 1 / states), ("complex", 0.5)):
        c = S5(dim, states, c_init=c_init, bidirectional=True).C
        assert c.shape == (2, dim, states // 2, 2)
        # the columns of V are unit vectors: C V has the variance of C
        assert c.square().mean().item() == pytest.approx(variance, rel=0.05)
    assert S5(5000, 2).D.square().mean().item() == pytest.approx(1, rel=0.1)
    log_dt = S5(1, 4000, blocks=2000, dt=(0.01, 1.0)).log_dt
    assert log_dt.exp().min() > 0.0099 and log_dt.exp().max() < 1.01
    assert log_dt.mean().item() == pytest.approx(math.log(0.1), abs=0.1)


@torch.no_grad()
def test_legs_input_map():
    layer = make(2, 8, blocks=2, init=S5Init(b_init="legs"))
    _, v, _, _ = layer.init.block_eigen(4)
    columns = v.mH @ torch.sqrt(2 * torch.arange(4, dtype=F64) + 1).to(C128)
    wanted = columns.repeat(2).unsqueeze(-1).expand(4, 2)
    assert relative_error(torch.view_as_complex(layer.B), wanted) < 1e-6
    assert (columns.real > 0).all() and columns.imag.abs().max() < 1e-12


@dataclass(frozen=True)
class OneRealPair(S5Init):
    """A block of size 4 with two real eigenvalues and a conjugate pair: three modes."""

    def matrix(self) -> torch.Tensor:
        base = torch.block_diag(
            torch.diag(torch.tensor([-1.0, -3.0])), torch.tensor([[-0.5, 2.0], [-2.0, -0.5]])
        )
        change = torch.eye(4, dtype=F64) + 0.3 * noise(4, 4)
        return change @ base.double() @ change.inverse()

    def block_eigen(self, size: int):
        eigenvalues, v = torch.linalg.eig(self.matrix())
        keep = eigenvalues.imag > -1e-9
        weight = torch.where(eigenvalues.imag[keep].abs() < 1e-9, 0.5, 1.0).double()
        return eigenvalues[keep], v[:, keep], v.inverse()[keep], weight


@torch.no_grad()
def test_real_eigenvalues_of_another_initialisation():
    """More modes than half the state: the layer is the dense system of which they are the eigenvalues."""
    torch.manual_seed(0)
    layer = S5(2, 8, blocks=2, init=OneRealPair(), dt=(0.2, 0.2)).double()
    assert layer.modes == 6
    eigenvalues, v, v_inverse, _ = layer.init.block_eigen(4)
    b, c = noise(8, 2), noise(2, 8)
    layer.Lambda.copy_(torch.view_as_real(eigenvalues.repeat(2)))
    layer.B.copy_(torch.view_as_real((v_inverse @ b.view(2, 4, 2).to(C128)).flatten(0, 1)))
    layer.C[0].copy_(torch.view_as_real((c.view(2, 2, 4).to(C128) @ v).flatten(1)))
    a = torch.block_diag(layer.init.matrix(), layer.init.matrix())
    dt = layer.log_dt[0].exp()
    bbar = torch.linalg.solve(a, torch.linalg.matrix_exp(a * dt) - torch.eye(8, dtype=F64)) @ b
    for lag in (0, 1, 7):
        wanted = c @ torch.linalg.matrix_exp(a * dt * lag) @ bbar
        assert relative_error(layer.impulse_response(8)[0, ..., lag], wanted) < 1e-9


@torch.no_grad()
def test_suffix_padding_leaves_causal_outputs_alone():
    layer, u = make(), noise(1, 30, 3)
    changed = torch.cat([u[:, :20], 100 * noise(1, 15, 3)], 1)
    assert relative_error(layer(changed)[:, :20], layer(u)[:, :20]) < 1e-12


def test_every_parameter_is_trained_and_tagged():
    layer = S5(4, 8, bidirectional=True)
    layer(torch.randn(2, 30, 4), steps=torch.rand(2, 30)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() and p.grad.isfinite().all() for p in layer.parameters())
    tags = layer.parameter_tags()
    assert set(tags) == {name for name, _ in layer.named_parameters()} == {"log_dt", "Lambda", "B", "C", "D"}
    groups = {"ssm": {"lr": 1e-3, "weight_decay": 0.0}, "ssm_B": {"weight_decay": 0.1}, "ssm_C": {"lr": 0.5}}
    found = {id(p): group for group in parameter_groups(layer, groups) for p in group["params"]}
    assert found[id(layer.B)] | {"params": 0} == {"params": 0, "lr": 1e-3, "weight_decay": 0.1}
    assert found[id(layer.C)]["lr"] == 0.5 and "lr" not in found[id(layer.D)]


def test_frozen_parts_are_buffers():
    layer = S5(4, 8, init=S5Init(trainable=["dt"]))
    assert (
        {name for name, _ in layer.named_parameters()} == {"log_dt", "C", "D"} == set(layer.parameter_tags())
    )
    assert {"Lambda", "B"} < {name for name, _ in layer.named_buffers()}


def test_unstable_eigenvalue_is_named():
    layer = S5(2, 8)
    with torch.no_grad():
        layer.Lambda[2] = torch.tensor([3.0, 1.5])
        layer.log_dt.zero_()
    u = torch.randn(1, 40, 2)
    with pytest.raises(
        NonFiniteError, match=r"eigenvalue 2 of S5\(dim=2, state_dim=8\) is 3\+1.5j.*exp\(120\)"
    ):
        layer(u)
    with pytest.raises(NonFiniteError, match=r"eigenvalue 2"):
        layer(u, steps=torch.full((1, 40), 0.8))
    assert layer(u[:, :20]).isfinite().all() and layer(u, rate=0.1).isfinite().all()
    clipped = S5(2, 8, init=S5Init(clip_eigs=True))
    clipped.load_state_dict(layer.state_dict())
    assert clipped.eigenvalues().re.max().item() == pytest.approx(-1e-4)
    assert clipped(u).isfinite().all()


@torch.no_grad()
def test_cache_follows_the_parameters():
    layer = make().eval()
    u = noise(1, 10, 3)
    before = layer(u)
    assert torch.equal(layer(u), before)
    layer.Lambda[:, 0] -= 0.3
    assert not torch.equal(layer(u), before)
    stepped, _ = layer.step(u[:, 0], layer.initial_state(1))
    assert relative_error(stepped, layer(u)[:, 0]) < 1e-12
    layer.C.mul_(2)
    assert relative_error(layer.step(u[:, 0], layer.initial_state(1))[0], layer(u)[:, 0]) < 1e-12


def test_types_devices_and_copies():
    layer = S5(3, 8, bidirectional=True)
    assert_batch_independent(layer, (torch.randn(3, 20, 3),))
    half = copy.deepcopy(layer).bfloat16()
    u = torch.randn(2, 20, 3)
    y = half(u.bfloat16())
    assert y.dtype == torch.bfloat16 and relative_error(y.float(), layer(u)) < 0.05
    y.sum().backward()
    assert half.B.grad is not None and half.B.grad.dtype == torch.bfloat16
    with torch.device("meta"):
        ghost = S5(3, 8, blocks=2)
        y, state = ghost(torch.randn(2, 20, 3), return_state=True)
    assert all(p.is_meta for p in ghost.parameters())
    assert y.shape == (2, 20, 3) and state.shape == (2, 4) and state.is_meta


_MANY_LENGTHS = """
import torch
from eigenzoo.models.ssm.s5 import S5
from eigenzoo.testing import assert_close

layer, twin = S5(2, 4, bidirectional=True), S5(2, 4, bidirectional=True)
twin.load_state_dict(layer.state_dict())
twin.compile(fullgraph=True, dynamic=True)
for length in (5, 300, 64, 1000):
    u = torch.randn(3, length, 2)
    outputs = layer(u), twin(u)
    assert_close(outputs[1], outputs[0], 1e-5)
    for y in outputs:
        y.square().sum().backward()
    torch._dynamo.config.error_on_recompile = True
assert_close(twin.Lambda.grad, layer.Lambda.grad, 1e-4)
torch._dynamo.config.error_on_recompile = False
steps = torch.rand(3, 50)
assert_close(twin(u[:, :50], steps=steps), layer(u[:, :50], steps=steps), 1e-5)
"""


@pytest.mark.slow
@pytest.mark.process
def test_compiles_once_for_all_lengths():
    """In a process of its own: the runtime shape checks of this one cannot be traced."""
    subprocess.run([sys.executable, "-c", _MANY_LENGTHS], check=True)


@torch.no_grad()
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
def test_smallest_sizes(discretisation: str):
    layer = S5(1, 2, discretisation=discretisation)
    u = torch.ones(1, 1, 1)
    assert torch.allclose(layer(u), (layer.impulse_response(1)[0, 0, 0] + layer.D).float())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dim": 0}, "dim is 0"),
        ({"state_dim": 7}, "state_dim is 7.*even"),
        ({"state_dim": 0}, "state_dim is 0"),
        ({"state_dim": 0, "init": S5Init(symmetric=False)}, "state_dim is 0.*at least 1"),
        ({"state_dim": 16, "blocks": 3}, "blocks is 3.*divide state_dim = 16"),
        ({"blocks": 0}, "blocks is 0"),
        ({"state_dim": 12, "blocks": 4}, "blocks is 4.*size 3.*even"),
        ({"dt": (0.1, 0.01)}, "dt is .0.1, 0.01."),
        ({"init": "legz"}, "init is 'legz', known are legs; did you mean 'legs'"),
        ({"c_init": "lecum"}, "did you mean 'lecun'"),
        ({"discretisation": "dss"}, "discretisation is 'dss', known are zoh, bilinear"),
    ],
)
def test_bad_layer_arguments(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        S5(**({"dim": 4} | options))


def test_bad_initialisation_arguments():
    with pytest.raises(ValueError, match="b_init is 'ones'"):
        S5Init(b_init="ones")
    with pytest.raises(ValueError, match=r"trainable is .*'C'.*A, B, dt"):
        S5Init(trainable=["C"])


@pytest.mark.parametrize(
    "options, call, message",
    [
        ({}, lambda s: s(torch.ones(1, 0, 2)), "length is 0"),
        ({}, lambda s: s(torch.ones(1, 4, 3)), "3 channels.*dim = 2"),
        ({}, lambda s: s(torch.ones(1, 4, 2), rate=0.0), "rate is 0.0"),
        ({}, lambda s: s.step(torch.ones(1, 2), s.initial_state(1), rate=-1.0), "rate is -1.0"),
        ({}, lambda s: s(torch.ones(1, 4, 2), steps=torch.ones(1, 3)), "steps has shape"),
        ({"bidirectional": True}, lambda s: s.initial_state(1), "bidirectional is True"),
        (
            {"bidirectional": True},
            lambda s: s(torch.ones(1, 4, 2), return_state=True),
            "bidirectional is True",
        ),
    ],
)
def test_bad_layer_calls(options: dict, call, message: str):
    with pytest.raises(ValueError, match=message):
        call(S5(2, 4, **options))
