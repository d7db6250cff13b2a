"""Tables that a model does not train."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Constants(nn.Module):
    """Non-trained tensors, exact in every type: cast anew from float64 whenever the module is moved or cast.

    A buffer made in float32 keeps seven digits after `.double()`. Not in the state dict: the tables follow from the
    arguments of whoever makes them.

    Args:
        tables: by the names under which they are found, as attributes.
    """

    def __init__(self, tables: Mapping[str, Tensor]):
        super().__init__()
        self._exact = {name: table.detach().to("cpu", torch.float64) for name, table in tables.items()}
        where = torch.empty(0)  # in the type and on the device in which parameters are made
        for name, table in self._exact.items():
            self.register_buffer(name, table.to(where), persistent=False)

    def table(self, name: str, like: Tensor) -> Tensor:
        """A table in the type of `like`: exact where that is not the module's own."""
        found = self.get_buffer(name)
        return found if found.dtype == like.dtype else self._exact[name].to(like)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Constants":
        super()._apply(fn, recurse)
        for name, table in self._exact.items():
            self._buffers[name] = table.to(self.get_buffer(name))
        return self
