"""State dicts into models, with the faults in words."""

from collections.abc import Mapping

from torch import Tensor, nn

SHOWN = 3


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """A state dict into a model, in its dtype.

    Raises:
        ValueError: it belongs to another model; names the first of what is missing, extra or of another shape.
    """
    own = model.state_dict()
    faults = [f"'{n}' is missing" for n in own if n not in weights]
    faults += [f"'{n}' is not a part of the model" for n in weights if n not in own]
    faults += [
        f"'{n}' is {tuple(weights[n].shape)}, the model's is {tuple(t.shape)}"
        for n, t in own.items()
        if n in weights and weights[n].shape != t.shape
    ]
    if faults:
        more = f" (and {len(faults) - SHOWN} more)" if len(faults) > SHOWN else ""
        raise ValueError(f"the weights are those of another model: {'; '.join(faults[:SHOWN])}{more}")
    model.load_state_dict(weights)
