"""Checks that hold for every model, for use in tests of this package and of models written elsewhere.

Each takes a module and a tuple of example inputs, raises AssertionError with the names of what fails, and
leaves parameters and mode as they were.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .ops.symmetry import Rep, act, parse_group, parse_rep, random_element

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """max |value - reference| / max |reference|; the plain maximum where the reference is 0."""
    scale = reference.abs().max().item()
    return (value - reference).abs().max().item() / (scale or 1.0)


def assert_close(value: Tensor, reference: Tensor, tolerance: float, what: str = "values") -> None:
    """`relative_error(value, reference) <= tolerance`; NaN fails."""
    error = relative_error(value, reference)
    assert error <= tolerance, f"{what} differ by {error:.3g} of the maximum, allowed {tolerance:.3g}"


def assert_all_gradients(module: nn.Module, inputs: tuple) -> None:
    """Every parameter that is trained gets a finite gradient that is not zero."""
    with _copied(module, training=True) as twin:
        output = twin(*inputs)
        (output * torch.randn_like(output)).sum().backward()
        trained = [(name, p.grad) for name, p in twin.named_parameters() if p.requires_grad]
        dead = [name for name, grad in trained if grad is None or not grad.any()]
        broken = [name for name, grad in trained if grad is not None and not grad.isfinite().all()]
    assert not dead, f"no gradient reaches {dead}"
    assert not broken, f"the gradient is not finite in {broken}"


def assert_all_submodules_matter(module: nn.Module, inputs: tuple) -> None:
    """Disturbing the output of any submodule changes the output of the module (nothing is built in vain)."""
    with _copied(module) as twin, torch.no_grad():
        plain = twin(*inputs)
        named = [
            (n, m) for n, m in twin.named_modules() if n and not isinstance(m, _CONTAINERS) and _is_called(m)
        ]
        idle = [name for name, sub in named if torch.equal(_with_disturbance(twin, sub, inputs), plain)]
    assert not idle, f"the output does not depend on {idle}"


def assert_save_load(make: Callable[[], nn.Module], inputs: tuple, folder: Path) -> None:
    """Weights written by safetensors and read into a second module give bit-equal output."""
    from safetensors.torch import load_file, save_file

    first, second = make().eval(), make().eval()
    save_file(first.state_dict(), folder / "model.safetensors")
    with torch.no_grad():
        before, reference = second(*inputs), first(*inputs)
        second.load_state_dict(load_file(folder / "model.safetensors"))
        after = second(*inputs)
    assert not torch.equal(before, reference), "two new modules are equal: the check would prove nothing"
    assert torch.equal(after, reference), "the loaded module differs from the saved one"


def assert_batch_independent(module: nn.Module, inputs: tuple, tolerance: float = 1e-5) -> None:
    """In eval mode a batch gives what its samples give one by one (axis 0 of every input is the batch)."""
    with _copied(module) as twin, torch.no_grad():
        whole = twin(*inputs)
        single = [twin(*(x[i : i + 1] for x in inputs)) for i in range(inputs[0].shape[0])]
    assert_close(torch.cat(single), whole, tolerance, "the batch and its samples")


def assert_dtype_follows(module: nn.Module, inputs: tuple, dtype: torch.dtype) -> None:
    """After `module.to(dtype)` parameters, gradients and output have that type, and the output is finite."""
    with _copied(module, training=True) as twin:
        twin.to(dtype)
        output = twin(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))
        output.sum().backward()
        wrong = [n for n, p in twin.named_parameters() if p.dtype != dtype]
    assert output.dtype == dtype, f"the output is {output.dtype}, wanted {dtype}"
    assert not wrong, f"{wrong} did not become {dtype}"
    assert output.isfinite().all(), f"the output in {dtype} is not finite"


def assert_device_follows(module: nn.Module, inputs: tuple, device: str, tolerance: float = 1e-4) -> None:
    """After `module.to(device)` the output lies there and, `meta` apart, has the CPU's values."""
    with _copied(module) as twin, torch.no_grad():
        reference = twin(*inputs)
        output = twin.to(device)(*(x.to(device) for x in inputs))
    assert output.device.type == torch.device(device).type, (
        f"the output lies on {output.device}, not {device}"
    )
    assert output.shape == reference.shape, f"the shape is {tuple(output.shape)} on {device}"
    if output.device.type != "meta":
        assert_close(output.cpu(), reference, tolerance, f"cpu and {device}")


def assert_stays_on_device(module: nn.Module, inputs: tuple) -> None:
    """The forward pass makes no tensor on the CPU when module and inputs are elsewhere (on `meta`).

    On CUDA such a tensor is copied to the device, which waits for it, and cannot be captured in a graph. An index that
    is a list of numbers is copied too, but escapes this check.
    """
    found: list[str] = []
    with _copied(module) as twin, torch.no_grad():
        twin.to("meta")
        moved = [x.to("meta") for x in inputs]
        with _HostTensors(found), _HostData(found):
            twin(*moved)
    assert not found, f"tensors on the CPU in {sorted(set(found))}"


class _HostTensors(TorchDispatchMode):
    """Notes the operations that read or write a tensor on the CPU."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(x, Tensor) and x.device.type == "cpu" for x in tree_leaves((args, kwargs, result))):
            self.found.append(str(func))
        return result


class _HostData(TorchFunctionMode):
    """Notes the calls that make a tensor of Python's numbers, whose copy to the device no dispatch sees."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor):
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


def assert_compiles(module: nn.Module, batches: Iterable[tuple], tolerance: float = 1e-4) -> None:
    """Compiled in place without a graph break, output and gradients equal the eager ones for every batch."""
    with _copied(module, training=True) as eager, _copied(module, training=True) as compiled:
        compiled.compile(fullgraph=True, dynamic=True)
        for inputs in batches:
            outputs = [m(*inputs) for m in (eager, compiled)]
            assert_close(outputs[1], outputs[0], tolerance, "eager and compiled output")
            direction = torch.randn_like(
                outputs[0]
            )  # a sum of squares is constant where the output is a rotation
            for output in outputs:
                (output * direction).sum().backward()
        for (name, p), q in zip(eager.named_parameters(), compiled.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), f"only one form has a gradient of {name}"
            if p.grad is not None and q.grad is not None:
                assert_close(q.grad, p.grad, tolerance, f"eager and compiled gradients of {name}")


def assert_commutes(
    function: Callable[..., Tensor],
    inputs: tuple,
    actions: Iterable[tuple[Callable[..., tuple], Callable[[Tensor], Tensor]]],
    tolerance: float = 1e-5,
) -> None:
    """`function(*act_in(*inputs)) = act_out(function(*inputs))` for every action, of whatever kind.

    Args:
        function: a module in the mode to be tested, or any function of tensors.
        actions: pairs (act_in, act_out); act_in returns the tuple of moved inputs.
        tolerance: on the difference relative to the largest output.
    """
    with torch.no_grad():
        plain = function(*inputs)
        for number, (act_in, act_out) in enumerate(actions):
            moved = function(*act_in(*inputs))
            assert_close(moved, act_out(plain), tolerance, f"the two sides for action {number}")


def equivariance_error(
    function: Callable[..., Tensor],
    group: str,
    reps_in: Sequence[str | Rep],
    reps_out: str | Rep,
    inputs: Sequence[Tensor],
    *,
    elements: int = 8,
    seed: int = 0,
) -> float:
    """The largest max |f(g x) - g f(x)| / max |f(x)| over random elements g, every second one improper.

    Args:
        function: a module in the mode to be tested, or any function of tensors.
        group: `O(3)`, `SE(2)`, `E(3) x S(n)`, ... (see `eigenzoo.ops.symmetry`).
        reps_in: how each of the inputs changes: `point`, `vector`, `scalar`, `system scalar`, `8x0e+4x1o`, ...
        reps_out: how the output changes.
        inputs: the axes of the nodes of `reps_in` must all have one length.
        elements: how many are drawn.
        seed: of the elements.

    Raises:
        ValueError: an unknown group or representation, unequally many inputs and representations.
    """
    parsed, before, after = parse_group(group), [parse_rep(rep) for rep in reps_in], parse_rep(reps_out)
    if len(before) != len(inputs):
        raise ValueError(f"{len(inputs)} inputs and {len(before)} representations {tuple(reps_in)}")
    nodes = {x.shape[axis] for rep, x in zip(before, inputs, strict=True) for axis in rep.nodes}
    if parsed.permutes and len(nodes) != 1:
        raise ValueError(
            f"the inputs have different numbers of nodes, {sorted(nodes)}; 'system scalar' has none"
        )
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    with torch.no_grad():
        plain = function(*inputs)
        for number in range(elements):
            element = random_element(parsed, min(nodes, default=0), generator, improper=bool(number % 2))
            moved = function(*(act(element, rep, x) for rep, x in zip(before, inputs, strict=True)))
            error = relative_error(moved, act(element, after, plain))
            worst = error if error != error else max(worst, error)  # NaN stays
            if worst != worst:
                break
    return worst


def assert_equivariant(
    module: nn.Module,
    group: str,
    reps_in: Sequence[str | Rep],
    reps_out: str | Rep,
    inputs: Sequence[Tensor] | None = None,
    *,
    double: float = 1e-10,
    single: float = 1e-4,
) -> None:
    """`module(g x) = g module(x)` in float64 to `double` and in float32 to `single`, see `equivariance_error`.

    `inputs` None takes the module's `example_inputs`. The module is tested in eval mode; it stays what it is.
    """
    given: Sequence[Tensor] = module.example_inputs() if inputs is None else inputs  # type: ignore[operator]
    for dtype, allowed in ((torch.float64, double), (torch.float32, single)):
        with _copied(module) as twin:
            cast = [x.to(dtype) if x.is_floating_point() else x for x in given]
            error = equivariance_error(twin.to(dtype), group, reps_in, reps_out, cast)
        assert error <= allowed, (
            f"{group}: the two sides differ by {error:.3g} in {dtype}, allowed {allowed:.3g}"
        )


def _is_called(module: nn.Module) -> bool:
    """Whether it has a forward pass; what only holds tensors has none."""
    return type(module).forward is not nn.Module.forward


@contextmanager
def _copied(module: nn.Module, training: bool = False) -> Iterator[nn.Module]:
    """A copy in the wanted mode, with no gradients yet."""
    twin = copy.deepcopy(module).train(training)
    twin.zero_grad(set_to_none=True)
    yield twin


def _with_disturbance(module: nn.Module, sub: nn.Module, inputs: tuple) -> Tensor:
    def disturb(_module: nn.Module, _inputs: tuple, output: object) -> object:
        if isinstance(output, Tensor) and (output.is_floating_point() or output.is_complex()):
            return output + torch.randn_like(output)
        if isinstance(output, tuple):
            return tuple(disturb(_module, _inputs, part) for part in output)
        return output

    handle = sub.register_forward_hook(disturb)
    try:
        return module(*inputs)
    finally:
        handle.remove()
