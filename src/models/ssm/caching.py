"""What a layer computes from its parameters alone, kept between calls of inference."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class ParameterCache(nn.Module):
    """A module whose kernels or step matrices are kept until a parameter, a buffer or the mode changes.

    Only in eval mode without gradients: otherwise everything is computed anew.
    """

    def __init__(self):
        super().__init__()
        self._cache: dict[str, tuple[tuple, Any]] = {}

    def _cached(self, name: str, key: tuple, compute: Callable[[], Any]) -> Any:
        """`compute()`, or what it gave when it was last asked for with an equal `key`."""
        sources = [*self.parameters(recurse=False), *self.buffers(recurse=False)]
        if (
            self.training
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or any(t.is_meta or t.is_inference() for t in sources)
        ):
            return compute()
        key = (*key, torch.is_inference_mode_enabled())
        key += tuple((t.data_ptr(), t._version, t.dtype, t.device) for t in sources)
        if name not in self._cache or self._cache[name][0] != key:
            self._cache[name] = (key, compute())
        return self._cache[name][1]

    def train(self, mode: bool = True) -> "ParameterCache":
        self._cache.clear()
        return super().train(mode)

    def _apply(self, fn, recurse: bool = True) -> "ParameterCache":
        self._cache.clear()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args) -> None:
        self._cache.clear()
        super()._load_from_state_dict(*args)
