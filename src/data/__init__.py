"""Data modules, and the sets that they read. Loaded on first use: `data.spec` needs no torch."""

from importlib import import_module
from typing import Any

_HOMES = {
    "TensorData": "module",
    "TensorLoader": "loader",
    "Digits": "digits",
    "SequentialMNIST": "images",
    "SequentialCIFAR10": "images",
    "SpeechCommands": "speech",
    "BIDMC": "bidmc",
    "GeneratedData": "generated",
    "GeneratedLoader": "generated",
    "Delay": "signals",
    "Reconstruct": "signals",
    "Copying": "signals",
    "Sinusoid": "signals",
    "CharacterIMDb": "text",
    "StdlibText": "stdlib_text",
    "TextFiles": "text_windows",
    "CausalText": "hub_text",
    "Instructions": "instructions",
    "SequenceClassification": "labelled_text",
    "LengthLoader": "length_loader",
    "TextSource": "text_files",
    "TokenizerSpec": "tokens",
    "load_tokenizer": "tokens",
    "CIFAR10Images": "image_sets",
    "MNISTImages": "image_sets",
    "AANRetrieval": "retrieval",
    "ListOps": "listops_set",
    "Pathfinder": "pathfinder_set",
    "PathfinderSpec": "pathfinder_spec",
    "ListOpsSpec": "listops_generator",
    "FieldData": "pde.base",
    "Burgers": "pde.burgers",
    "BurgersProblem": "pde.burgers",
    "BurgersSpaceTime": "pde.burgers",
    "Darcy": "pde.darcy_set",
    "DarcyProblem": "pde.darcy_set",
    "TwoPhase": "pde.coefficients",
    "Lognormal": "pde.coefficients",
    "Trigonometric": "pde.coefficients",
    "NavierStokes": "pde.navier_stokes_set",
    "ForcedNavierStokes": "pde.navier_stokes_set",
    "DecayingVorticity": "pde.navier_stokes_set",
    "ForcedVorticity": "pde.navier_stokes_set",
    "Helmholtz": "pde.helmholtz_set",
    "HelmholtzProblem": "pde.helmholtz_set",
    "NeuralOpDarcy": "pde.bundle",
    "NeuralOpBurgers": "pde.bundle",
    "NBody": "nbody",
    "NBodyTrajectories": "nbody",
    "SpringTrajectories": "nbody",
    "ChargedParticles": "nbody_simulator",
    "Springs": "nbody_simulator",
    "Pedestrians": "eth_ucy",
    "Tetris": "tetris",
    "Surfaces": "surfaces",
    "RandomRotations": "rotations",
    "RigidClouds": "poses",
    "SkeletonPoses": "poses",
    "MD17": "molecules",
    "ThreeBPA": "molecules",
    "QM9": "qm9",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
