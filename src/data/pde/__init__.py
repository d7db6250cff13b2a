"""Partial differential equations: random fields, solvers in float64, and the sets made with them.

The sets and their problems are names of `eigenzoo.data`; here are the solvers and the random fields, for use on their
own. Loaded on first use.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "periodic_field": "fields",
    "neumann_field": "fields",
    "solve_burgers": "burgers_solver",
    "solve_darcy": "darcy",
    "assemble_darcy": "darcy",
    "solve_vorticity": "navier_stokes",
    "velocity": "navier_stokes",
    "solve_helmholtz": "helmholtz",
    "assemble_helmholtz": "helmholtz",
    "assemble_driven": "helmholtz",
    "solve_sequence": "recycling",
    "order_problems": "ordering",
    "gmres": "krylov",
    "cg": "krylov",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
