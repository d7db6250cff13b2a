"""Tables that a model does not train."""

from collections.abc import Callable, Mapping, Sequence
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
        """A table in the type of `like`: from float64 where that is finer than the module's own."""
        found = self.get_buffer(name)
        if torch.promote_types(found.dtype, like.dtype) == found.dtype:
            return found.to(like.dtype)  # on the device already: no copy from the host in a forward pass
        return self._exact[name].to(like)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Constants":
        super()._apply(fn, recurse)
        for name, table in self._exact.items():
            self._buffers[name] = table.to(self.get_buffer(name))
        return self


class Places(nn.Module):
    """x[places] along axis 0, with the places on the device: a list of numbers would be copied to it in every call.

    Not in the state dict.

    Args:
        places: rows of x, any of them any number of times.
    """

    places: Tensor

    def __init__(self, places: Sequence[int]):
        super().__init__()
        self._given = tuple(places)
        where = torch.empty(0).device  # on the device on which parameters are made
        self.register_buffer("places", torch.tensor(self._given, device=where), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The rows of x (n, ...), (places, ...)."""
        return x[self.places]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Places":
        super()._apply(fn, recurse)
        if not self.places.is_meta:  # memory that was not filled is, too
            self.places = torch.tensor(self._given, device=self.places.device)
        return self
