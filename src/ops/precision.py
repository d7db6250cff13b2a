"""Autocast on any device, those included that have none (such as meta)."""

from contextlib import AbstractContextManager, nullcontext

import torch


def autocasts(device: torch.device) -> bool:
    """Whether operations on the device run under autocast at the moment."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which operations on the device keep the precision of their inputs."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()
