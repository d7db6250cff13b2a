"""S4: kernels, recurrence, states, frozen bases, and what a layer has to cope with."""

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.func import functional_call

from eigenzoo.models.ssm import S4D
from eigenzoo.models.ssm.s4 import S4, DPLRInit
from eigenzoo.ops.dense import dplr_kernel_dense
from eigenzoo.ops.hippo import HIPPO
from eigenzoo.ops.pairs import Pair
from eigenzoo.testing import assert_all_gradients, assert_dtype_follows, assert_save_load, relative_error

F64 = torch.float64


def make(dim: int = 3, state_dim: int = 8, **options) -> S4:
    torch.manual_seed(0)
    return S4(dim, state_dim, **options).double()


def dense(layer: S4, length: int, rate: float = 1.0) -> torch.Tensor:
    c = Pair(layer.C[..., 0].double(), layer.C[..., 1].double())
    return dplr_kernel_dense(layer.continuous(), c, rate * layer.log_dt.double().exp(), length)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 9, 16, 70])  # by generating function below 4 L = N^2, densely above
@pytest.mark.parametrize("init", HIPPO)
def test_kernel_is_the_dense_recurrence(init: str, length: int):
    layer = make(init=init, bidirectional=True)
    assert relative_error(layer.kernel(length, rate=2.0), dense(layer, length, 2.0)) < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("length", [50, 1500])
def test_float32_kernel_has_six_digits(length: int):
    layer = S4(4, 64)
    assert layer.kernel(length).dtype == torch.float32
    assert relative_error(layer.kernel(length).double(), dense(layer, length)) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("copies", [1, 2])
def test_channel_uses_copy_h_mod_s(copies: int):
    layer = make(dim=4, copies=copies)
    assert layer.A_re.shape == (copies, 4) and layer.P.shape == (copies, 1, 4, 2)
    layer.B.normal_()
    wide = make(dim=4)
    for name in ("A_re", "A_im", "P", "B"):
        stored = getattr(layer, name)
        getattr(wide, name).copy_(stored.repeat(4 // copies, *[1] * (stored.ndim - 1)))
    assert torch.equal(layer.kernel(9), wide.kernel(9))


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("init", ["legs", "legt", "fout"])
def test_steps_equal_the_convolution(init: str, dtype: torch.dtype, tolerance: float):
    layer = make(state_dim=32, init=init).to(dtype).eval()
    u = torch.randn(2, 1000, 3, dtype=dtype)
    state, steps = layer.initial_state(2), []
    for u_t in u.unbind(1):
        y_t, state = layer.step(u_t, state)
        steps.append(y_t)
    y, final = layer(u, return_state=True)
    assert relative_error(torch.stack(steps, 1), y) < tolerance
    assert final.dtype == state.dtype and relative_error(state, final) < tolerance


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(st.integers(2, 60), st.data(), st.sampled_from(HIPPO), st.floats(0.5, 3))
def test_chunks_equal_the_whole(length: int, data: st.DataObject, init: str, rate: float):
    cut = data.draw(st.integers(1, length - 1))
    layer = make(init=init)
    u = torch.randn(2, length, 3, dtype=F64)
    whole, final = layer(u, return_state=True, rate=rate)
    first, state = layer(u[:, :cut], return_state=True, rate=rate)
    second, last = layer(u[:, cut:], state=state, return_state=True, rate=rate)
    assert relative_error(torch.cat([first, second], 1), whole) < 1e-9
    assert relative_error(last, final) < 1e-12


@torch.no_grad()
def test_bidirectional_is_two_sums():
    layer = make(bidirectional=True)
    u, k = torch.randn(2, 11, 3, dtype=F64), layer.kernel(11)
    wanted = layer.D * u
    for t in range(11):
        for s in range(11):
            wanted[:, t] += (k[0, :, t - s] if s <= t else k[1, :, s - t - 1]) * u[:, s]
    assert relative_error(layer(u), wanted) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("length", [15, 200])
def test_without_the_low_rank_it_is_bilinear_s4d(length: int):
    layer = make(state_dim=16, init="legs")
    layer.P.zero_()
    diagonal = S4D(3, 16, discretisation="bilinear").double()
    for name in ("log_dt", "A_re", "A_im", "B", "C"):
        getattr(diagonal, name).copy_(getattr(layer, name))
    assert relative_error(layer.kernel(length), diagonal.kernel(length)) < 1e-9


@torch.no_grad()
def test_fout_is_a_delay():
    """With C = sum_n p_n(1) x_n the output is the input 1/dt samples ago, and nothing is left after 2/dt."""
    layer = make(1, 128, init="fout", dt=(0.01, 0.01))
    layer.C.zero_()
    layer.C[0, 0, :, 0] = (-1.0) ** torch.arange(64)
    layer.C[0, 0, 0, 0] = 0.5**0.5
    kernel = layer.kernel(400)[0, 0]
    assert abs(kernel.argmax().item() - 100) <= 2
    assert kernel.sum().item() == pytest.approx(1, abs=0.1)
    assert kernel[220:].abs().max() < 0.2 * kernel.max()


class KernelOnly(torch.nn.Module):
    def __init__(self, layer: S4, length: int):
        super().__init__()
        self.layer, self.length = layer, length

    def forward(self) -> torch.Tensor:
        return self.layer.kernel(self.length)


@pytest.mark.parametrize("length", [1, 7, 40])
@pytest.mark.parametrize(
    "options",
    [{}, {"init": "legt", "bidirectional": True}, {"init": "fout", "copies": 1}],
    ids=["legs", "legt", "fout"],
)
def test_gradient_of_the_kernel(options: dict, length: int):
    module = KernelOnly(make(2, 6, **options), length)
    with torch.no_grad():
        for name in ("P", "B"):  # off the axis that the gauge puts them on
            getattr(module.layer, name).add_(0.1 * torch.randn_like(getattr(module.layer, name)))
    names = [n for n, _ in module.named_parameters() if n != "layer.D"]
    values = [dict(module.named_parameters())[n].detach().requires_grad_() for n in names]
    assert gradcheck(lambda *v: functional_call(module, dict(zip(names, v, strict=True)), ()), values)


def test_gradients_through_states():
    layer = make(2, 4)
    u = torch.randn(1, 5, 2, dtype=F64, requires_grad=True)
    state = torch.randn(1, 2, 2, dtype=torch.complex128, requires_grad=True)
    assert gradcheck(lambda u, state: layer(u, state=state, return_state=True), (u, state))


@pytest.mark.parametrize("init, rank", [("legs", 1), ("legt", 2)])
def test_parameters(init: str, rank: int):
    h, m = 6, 4
    layer = S4(h, 2 * m, init=init, bidirectional=True)
    assert sum(p.numel() for p in layer.parameters()) == h + 4 * h * m + 2 * h * m * rank + 4 * h * m + h
    assert_all_gradients(layer, (torch.randn(2, 30, h),))
    assert layer.parameter_tags() == {
        "log_dt": ("ssm", "ssm_dt"),
        "A_re": ("ssm", "ssm_A"),
        "A_im": ("ssm", "ssm_A"),
        "P": ("ssm", "ssm_A"),
        "B": ("ssm", "ssm_B"),
    }
    frozen = S4(h, 2 * m, init=init, trainable=["B"])
    assert {n for n, _ in frozen.named_parameters()} == {"B", "C", "D"}
    assert frozen.parameter_tags() == {"B": ("ssm", "ssm_B")}


class TestFrozen:
    """A, B and dt all frozen: the state kernels are computed once, in training too."""

    @pytest.mark.parametrize(
        "options",
        [{}, {"copies": 1, "dt": (0.01, 0.01)}, {"copies": 2, "dt": (0.01, 0.01), "bidirectional": True}],
        ids=["each", "all equal", "two"],
    )
    def test_equals_the_trained_layer(self, options: dict):
        frozen, trained = make(4, trainable=[], **options), make(4, **options)
        trained.load_state_dict(frozen.state_dict())
        for layer in (frozen, trained):
            layer(torch.ones(1, 50, 4, dtype=F64).cumsum(1)).square().sum().backward()
        assert relative_error(frozen.kernel(50), trained.kernel(50)) < 1e-12
        assert relative_error(frozen.C.grad, trained.C.grad) < 1e-9

    def test_one_basis_for_equal_channels(self):
        layer = make(6, copies=2, dt=(0.01, 0.01), trainable=[])
        kept = layer._frozen_basis(30, 1.0)
        assert kept is not None
        basis, groups = kept
        assert basis.shape == (2, 8, 30) and [g.tolist() for g in groups] == [[0, 2, 4], [1, 3, 5]]
        assert layer._frozen_basis(30, 1.0) is kept
        assert layer._frozen_basis(31, 1.0) is not kept

    @torch.no_grad()
    def test_follows_the_buffers(self):
        layer = make(2, trainable=[])
        layer.kernel(30)
        for name in ("log_dt", "A_re", "A_im", "P", "B"):
            getattr(layer, name).add_(0.1)
            assert relative_error(layer.kernel(30), dense(layer, 30)) < 1e-9
        other = S4(2, 8, trainable=[]).double()
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer.kernel(30), other.kernel(30))
        assert layer.float().kernel(30).dtype == torch.float32

    def test_made_in_inference_mode_serves_training(self):
        layer = make(2, trainable=[])
        with torch.inference_mode():
            layer.kernel(30)
        layer.kernel(30).sum().backward()
        assert layer.C.grad.any()

    def test_too_large_to_keep(self, monkeypatch: pytest.MonkeyPatch):
        layer = make(2, trainable=[])
        monkeypatch.setattr("eigenzoo.models.ssm.s4._LARGEST_BASIS", 100)
        assert layer._frozen_basis(30, 1.0) is None
        assert relative_error(layer.kernel(30), dense(layer, 30)) < 1e-9


@torch.no_grad()
def test_kept_in_eval_mode_until_a_parameter_changes():
    layer = make().eval()
    kernel = layer.kernel(9)
    assert layer.kernel(9) is kernel and layer.kernel(9, rate=2.0) is not kernel
    layer.C.add_(1)
    assert not torch.equal(layer.kernel(9), kernel)


@pytest.mark.parametrize("trainable", [("A", "B", "dt"), ()], ids=["trained", "frozen"])
def test_copies_and_types(trainable: tuple[str, ...], tmp_path):
    def build() -> S4:
        return S4(3, 8, init="legt", trainable=trainable)

    u = torch.randn(2, 20, 3)
    layer = build()
    layer(u)
    assert torch.equal(copy.deepcopy(layer)(u), layer(u))
    assert_dtype_follows(layer, (u,), torch.bfloat16)
    assert_save_load(build, (u,), tmp_path)
    with torch.device("meta"):
        assert build()(u.to("meta")).shape == u.shape
    assert build().to("meta")(u.to("meta")).shape == u.shape


@torch.no_grad()
@pytest.mark.parametrize("trainable", [("A", "B", "dt"), ()], ids=["trained", "frozen"])
def test_autocast_leaves_kernels_and_states_alone(trainable: tuple[str, ...]):
    layer, u = S4(2, 8, trainable=trainable), torch.randn(1, 20, 2)
    start = torch.randn(1, 2, 4, dtype=torch.complex64)
    plain = [layer.kernel(10), layer.kernel(50), *layer(u, state=start, return_state=True)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = [layer.kernel(10), layer.kernel(50), *layer(u, state=start, return_state=True)]
    for value, wanted in zip(cast, plain, strict=True):
        assert torch.equal(value, wanted)


@torch.no_grad()
def test_smallest_sizes():
    for init in HIPPO:
        layer = S4(1, 2, init=init)
        assert torch.allclose(layer(torch.ones(1, 1, 1)), layer.kernel(1)[0] + layer.D)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dim": 0}, "dim is 0"),
        ({"state_dim": 7}, "state_dim is 7.*even"),
        ({"dt": (0.1, 0.01)}, "dt is .0.1, 0.01."),
        ({"dt": (0.0, 0.01)}, "0 < smallest"),
        ({"copies": 3}, "copies is 3.*dim = 4"),
        ({"init": "fuot"}, "init is 'fuot', known are legs, legt, .*did you mean 'fout'"),
        ({"trainable": ["A", "E"]}, "trainable is .*'E'.*A, B, dt"),
        ({"trainable": "dt"}, "trainable is 'dt'"),
    ],
)
def test_bad_arguments(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        S4(**({"dim": 4} | options))
    with pytest.raises(ValueError, match="real_floor is 0"):
        DPLRInit("legs", real_floor=0.0)


@pytest.mark.parametrize(
    "options, call, message",
    [
        ({}, lambda s: s.kernel(0), "length is 0"),
        ({}, lambda s: s(torch.ones(1, 0, 2)), "length is 0"),
        ({}, lambda s: s(torch.ones(1, 4, 3)), "3 channels.*dim = 2"),
        ({}, lambda s: s.kernel(4, rate=0.0), "rate is 0.0"),
        ({}, lambda s: s.step(torch.ones(1, 2), s.initial_state(1), rate=-1.0), "rate is -1.0"),
        ({"bidirectional": True}, lambda s: s.initial_state(1), "bidirectional is True"),
        ({"bidirectional": True}, lambda s: s(torch.ones(1, 4, 2), return_state=True), "bidirectional is"),
    ],
)
def test_bad_calls(options: dict, call, message: str):
    with pytest.raises(ValueError, match=message):
        call(S4(2, 4, **options))


_MANY_LENGTHS = """
import torch
from eigenzoo.models.ssm.s4 import S4
from eigenzoo.testing import assert_close

layer, twin = (S4(2, 4, init="legt", bidirectional=True) for _ in range(2))
twin.load_state_dict(layer.state_dict())
twin.compile(fullgraph=True, dynamic=True)
for length in (5, 300, 64):
    u = torch.randn(3, length, 2)
    outputs = layer(u), twin(u)
    assert_close(outputs[1], outputs[0], 1e-5)
    for y in outputs:
        y.square().sum().backward()
    torch._dynamo.config.error_on_recompile = True
for p, q in zip(twin.parameters(), layer.parameters()):
    assert_close(p.grad, q.grad, 1e-4)
"""


@pytest.mark.slow
@pytest.mark.process
def test_compiles_once_for_all_lengths():
    """In a process of its own: the runtime shape checks of this one cannot be traced."""
    subprocess.run([sys.executable, "-c", _MANY_LENGTHS], check=True)
