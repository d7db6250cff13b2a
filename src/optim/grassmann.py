"""Riemannian SGD on the Grassmannian, alone and beside SGD or AdamW.

For the class heads of Wang, Li and Zhang (ICCV 2023, arXiv 2308.01547): a parameter S of shape (classes, k, n) holds a
subspace per class as k orthonormal rows, and with its gradient D one step is

    M <- momentum P(M) + (1 - dampening) g,    S <- geodesic from S along M for t = -lr * lr_factor,

where `P(X) = X - (X S^T) S` and `g = P(D)` (see `ops.grassmann`, which has no SVD in it); the first step sets M to g.
Every `reorthonormalise_every` steps the rows are made orthonormal again, in the frame that M refers to.

What differs from the reference code: the state (momentum and count of steps) is per parameter and in the state dict,
and the options are per group, where that code has globals shared by all optimisers and leaves the state of the mixed
ones out of checkpoints; the momentum is `project`ed as in the paper's picture, where that code keeps it in ambient
space (`transport="ambient"`), normal parts of old gradients included; QR there may flip rows against the momentum.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.grassmann import TRANSPORTS, descend_, orthonormality_error
from .groups import AdamW, Groups, ModuleOptimizer, _near, parameter_groups, tags_of

TAG = "grassmann"
TOLERANCE = 1e-2
DEFAULTS: dict[str, Any] = {
    "momentum": 0.9,
    "dampening": 0.0,
    "lr_factor": 1.0,
    "reorthonormalise_every": 5,
    "transport": "project",
}


class RiemannianSGD(torch.optim.Optimizer):
    """Riemannian SGD for parameters of shape (classes, k, n) with orthonormal rows; see the module.

    There is no weight decay: the gradient of ||S||^2 is normal to the manifold and moves nothing.

    Args:
        params: as in torch's optimisers; a group may have its own `lr` and other options.
        lr_factor: on top of `lr`, so that schedulers of a recipe for other parameters can be used.
        reorthonormalise_every: in steps; 0 is never.
        transport: of the momentum, `project` or `ambient`.
        nesterov: is refused, as nobody has said what it would be here.

    Raises:
        ValueError: an option out of range, `nesterov` or a weight decay, a parameter of another shape or whose rows
            are further than 0.01 from orthonormal.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.9,
        dampening: float = 0.0,
        lr_factor: float = 1.0,
        reorthonormalise_every: int = 5,
        transport: str = "project",
        nesterov: bool = False,
    ):
        options = {
            "momentum": momentum,
            "dampening": dampening,
            "lr_factor": lr_factor,
            "reorthonormalise_every": reorthonormalise_every,
            "transport": transport,
        }
        super().__init__(params, {"lr": lr, **options, "nesterov": nesterov})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group with its own options, checked like those of the constructor."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["nesterov"]:
            raise ValueError("nesterov=True: Riemannian SGD has no Nesterov momentum")
        if group.get("weight_decay"):
            raise ValueError(f"weight_decay={group['weight_decay']}: subspaces have no length to decay")
        _check_options(group)
        number = len(self.param_groups) - 1
        names = group.get("param_names") or [f"{i} of group {number}" for i in range(len(group["params"]))]
        for name, parameter in zip(names, group["params"], strict=True):
            _check_frames(name, parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step for every parameter that has a gradient; gives the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            _descend(group, self.state)
        return loss


class _Mixed(torch.optim.Optimizer):
    """Moves the groups marked `grassmann` by Riemannian SGD, and the others by the optimiser it is mixed into."""

    def _set_apart(
        self, model: nn.Module, grassmann: Mapping[str, Any] | None, groups: Groups | None
    ) -> None:
        """Splits the parameters tagged `grassmann` off their groups, into groups at the end; the rate stays."""
        options = _options(grassmann)
        if (groups or {}).get(TAG, {}).get("weight_decay"):
            raise ValueError(f"groups.{TAG}.weight_decay: subspaces have no length to decay; leave it out")
        tagged = _tagged(model)
        rest, apart = [], []
        for group in self.param_groups:
            inside = [p for p in group["params"] if id(p) in tagged]
            outside = [p for p in group["params"] if id(p) not in tagged]
            if inside:
                own = {**options, "weight_decay": 0.0, "nesterov": False, TAG: True}
                apart.append({**group, **own, "params": inside})
            if outside:
                rest.append({**group, "params": outside})
        if apart:
            self.param_groups = rest + apart
            self._step_supports_amp_scaling = False  # a fused step would divide the other gradients alone

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of all parameters that have a gradient; gives the closure's loss."""
        whole = self.param_groups
        rest = [group for group in whole if TAG not in group]
        if len(rest) == len(whole):
            return super().step(closure)  # type: ignore[arg-type]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in whole:
            if TAG in group:
                _descend(group, self.state)
        self.param_groups = rest
        try:
            super().step()  # type: ignore[call-arg]
        finally:
            self.param_groups = whole
        return loss


class GrassmannSGD(_Mixed, torch.optim.SGD, ModuleOptimizer):
    """SGD over a module whose parameters tagged `grassmann` move by Riemannian SGD with the same scheduled rate.

    Without such parameters it is `torch.optim.SGD`, bit for bit.

    Args:
        momentum, weight_decay, nesterov: of the other parameters; weight decay never reaches a subspace.
        grassmann: options of `RiemannianSGD` for the tagged ones (momentum, dampening, lr_factor,
            reorthonormalise_every, transport), with its defaults.
        groups: rate and weight decay by tag, as in `AdamW`.

    Raises:
        ValueError: an unknown option or tag, an option out of range, a tagged parameter that is no stack of
            orthonormal frames.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        grassmann: Mapping[str, Any] | None = None,
        groups: dict[str, dict[str, float]] | None = None,
    ):
        super().__init__(
            parameter_groups(model, groups),
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )
        self._set_apart(model, grassmann, groups)


class GrassmannAdamW(_Mixed, AdamW):
    """`AdamW` over a module whose parameters tagged `grassmann` move by Riemannian SGD, at `lr * lr_factor`.

    Without such parameters it is `AdamW`, bit for bit. The paper has an effective rate of 0.1 for the subspaces: with
    lr 1e-3, an `lr_factor` of 100.

    Args:
        weight_decay, betas: of the other parameters; weight decay never reaches a subspace.
        grassmann: options of `RiemannianSGD` for the tagged ones, as in `GrassmannSGD`.
        groups: rate and weight decay by tag, as in `AdamW`.

    Raises:
        ValueError: as `GrassmannSGD`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        betas: Sequence[float] = (0.9, 0.999),
        grassmann: Mapping[str, Any] | None = None,
        groups: dict[str, dict[str, float]] | None = None,
    ):
        super().__init__(model, lr=lr, weight_decay=weight_decay, betas=betas, groups=groups)
        self._set_apart(model, grassmann, groups)


def check_moved(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """ValueError where an optimiser moves parameters tagged `grassmann` as if they were points of a plain space."""
    if isinstance(optimiser, (_Mixed, RiemannianSGD)):
        return
    moved = {id(p) for group in optimiser.param_groups for p in group["params"]}
    tags = tags_of(model)
    for name, parameter in model.named_parameters():
        if TAG in tags.get(name, ()) and id(parameter) in moved:
            raise ValueError(
                f"{type(optimiser).__name__} would take the subspaces '{name}' off the Grassmannian: take "
                "GrassmannSGD or GrassmannAdamW (optim=grassmann_sgd, optim=grassmann_adamw)"
            )


def _descend(group: Mapping[str, Any], states: Mapping[Any, dict[str, Any]]) -> None:
    """One step of the parameters of a group; `states` makes what it lacks."""
    every = group["reorthonormalise_every"]
    for parameter in group["params"]:
        if parameter.grad is None:
            continue
        state = states[parameter]
        count = state["step"] = int(state.get("step", 0)) + 1  # on loading, AdamW makes a tensor of it
        dampening = group["dampening"]
        if group["momentum"] and "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
            dampening = 0.0
        descend_(
            parameter,
            parameter.grad,
            state["momentum_buffer"] if group["momentum"] else None,
            rate=float(group["lr"]) * group["lr_factor"],
            momentum=float(group["momentum"]),
            dampening=float(dampening),
            transport=group["transport"],
            orthonormal=every > 0 and count % every == 0,
        )


def _options(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The defaults with what is given."""
    for word in given or {}:
        if word not in DEFAULTS:
            raise ValueError(f"grassmann.{word}: is not an option; {_near(word, DEFAULTS, 'options')}")
    options = DEFAULTS | dict(given or {})
    _check_options(options, "grassmann.")
    return options


def _check_options(options: Mapping[str, Any], prefix: str = "") -> None:
    """ValueError naming the first option that is out of range."""
    lr, every, transport = options.get("lr", 0), options["reorthonormalise_every"], options["transport"]
    if not 0 <= lr < math.inf:
        raise ValueError(f"{prefix}lr={lr}: must not be negative, and finite")
    if not 0 <= options["momentum"] < 1:
        raise ValueError(f"{prefix}momentum={options['momentum']}: must be in [0, 1)")
    if not 0 <= options["dampening"] < 1:
        raise ValueError(f"{prefix}dampening={options['dampening']}: must be in [0, 1)")
    if not 0 < options["lr_factor"] < math.inf:
        raise ValueError(f"{prefix}lr_factor={options['lr_factor']}: must be positive and finite")
    if every != int(every) or every < 0:
        raise ValueError(f"{prefix}reorthonormalise_every={every}: must be a number of steps, or 0 for never")
    if transport not in TRANSPORTS:
        known = _near(str(transport), TRANSPORTS, "transports")
        raise ValueError(f"{prefix}transport={transport!r}: is not known; {known}")


def _tagged(model: nn.Module) -> set[int]:
    """Identities of the trainable parameters tagged `grassmann`, each of them checked."""
    tags, found = tags_of(model), set()
    for name, parameter in model.named_parameters():
        if TAG in tags.get(name, ()) and parameter.requires_grad:
            _check_frames(name, parameter)
            found.add(id(parameter))
    return found


def _check_frames(name: str, parameter: Tensor) -> None:
    """ValueError unless it is a (classes, k, n) stack of nearly orthonormal rows."""
    shape = tuple(parameter.shape)
    if parameter.ndim != 3 or not 1 <= shape[1] <= shape[2] or not shape[0]:
        raise ValueError(
            f"parameter {name}: has shape {shape}, and a stack of subspaces is (classes, k, n), k <= n"
        )
    if parameter.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"parameter {name}: is {parameter.dtype}; subspaces are kept in float32 or float64")
    if not parameter.is_meta:
        error = float(orthonormality_error(parameter.detach()).max())
        if not error <= TOLERANCE:
            raise ValueError(
                f"parameter {name}: its rows are not orthonormal, max |S S^T - 1| is {error:.3g}, allowed {TOLERANCE:g}"
            )
