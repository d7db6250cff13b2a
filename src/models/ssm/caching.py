"""What the layers share: how parameters are stored, and what is computed from them alone and kept in inference."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .initialisation import like_default


class ParameterCache(nn.Module):
    """A module whose kernels or step matrices are kept until a parameter, a buffer or the mode changes.

    Only in eval mode without gradients: otherwise everything is computed anew. The output map is called `C`.
    """

    C: Tensor

    def __init__(self):
        super().__init__()
        self._cache: dict[str, tuple[tuple, Any]] = {}

    def _store(self, name: str, value: Tensor | None, trainable: bool) -> None:
        """Register a value, in the default type on the default device, as a parameter or as a buffer."""
        value = None if value is None else like_default(value)
        if trainable:
            self.register_parameter(name, None if value is None else nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    @property
    def _dtype(self) -> torch.dtype:
        """Type of kernel and state: never below single precision, whatever the parameters' type."""
        return torch.float64 if self.C.dtype == torch.float64 else torch.float32

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
