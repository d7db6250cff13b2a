"""Low-rank adapters: a frozen network with small trainable changes of its weights."""

from .dora import DoRA
from .files import load, save
from .flora import FLoRA
from .inject import activate, adapted, adapter_layers, find_sites, inject, merge, strip, unload, unmerge
from .layer import Adapted, Adapter, AdapterLayer, Full
from .loftq import LoftQ
from .lora import LoRA
from .model import AdaptedModel, Placement
from .pissa import PiSSA
from .qlora import QLoRA
from .qpissa import QPiSSA
from .quantised import QuantisedLinear
from .site import Site, site_of
from .sorsa import SORSA

__all__ = [
    "SORSA",
    "Adapted",
    "AdaptedModel",
    "Adapter",
    "AdapterLayer",
    "DoRA",
    "FLoRA",
    "Full",
    "LoRA",
    "LoftQ",
    "PiSSA",
    "Placement",
    "QLoRA",
    "QPiSSA",
    "QuantisedLinear",
    "Site",
    "activate",
    "adapted",
    "adapter_layers",
    "find_sites",
    "inject", "load",
    "merge",
    "save", "site_of",
    "strip",
    "unload",
    "unmerge",
]  # fmt: skip
