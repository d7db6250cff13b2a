"""How exactly a model commutes with the group that it claims, as numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..ops.symmetry import parse_group, parse_rep
from ..testing import equivariance_error

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class EquivarianceStudy:
    """The largest max |f(g x) - g f(x)| / max |f(x)| over random group elements, in both precisions.

    Metrics: `error/float64` and `error/float32`. The model is as its constructor makes it, with noise added to every
    parameter: layers that begin near zero would hide their errors.

    Args:
        model: makes the model; its `example_inputs` are what it is asked for.
        group, reps_in, reps_out: see `eigenzoo.testing.equivariance_error`.
        noise: standard deviation of what is added to the parameters.
        batch: systems of the example.
        elements: how many group elements are drawn, half of them improper where the group has such.
        seed: of parameters, inputs and elements.

    Raises:
        ValueError: an unknown group or representation; a model without `example_inputs`.
    """

    model: Callable[[], nn.Module]
    group: str
    reps_in: Sequence[str]
    reps_out: str
    noise: float = 0.1
    batch: int = 8
    elements: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        parse_group(self.group)
        for rep in (*self.reps_in, self.reps_out):
            parse_rep(rep)
        if self.batch < 1 or self.elements < 1:
            raise ValueError(f"batch={self.batch}, elements={self.elements}: each must be at least 1")

    def __call__(self) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self._errors()

    def _errors(self) -> dict[str, float]:
        model = self.model().eval()
        if not hasattr(model, "example_inputs"):
            raise ValueError(f"model: {type(model).__name__} has no example_inputs, so it cannot be asked")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=self.noise)
        inputs = model.example_inputs(self.batch)  # type: ignore[operator]
        found = {}
        for name, dtype in DTYPES.items():
            cast = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
            found[f"error/{name}"] = equivariance_error(
                model.to(dtype), self.group, self.reps_in, self.reps_out, cast,
                elements=self.elements, seed=self.seed,
            )  # fmt: skip
        return found
