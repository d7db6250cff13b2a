"""QM9: properties of 130831 small molecules, from the file that torch_geometric makes of them.

Ramakrishnan, Dral, Rupp, von Lilienfeld, "Quantum chemistry structures and properties of 134 kilo molecules",
Scientific Data 1, 2014; the inconsistent 3054 of 133885 are left out.
"""

import pickle
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .hub import files_digest
from .module import Splits, TensorData
from .molecules import check_known, convert_energy, find_file
from .spec import get_spec

ATOMS = 29  # at most, of one molecule
MOLECULES = 130831
# Name: column in the file, and unit there; those of energies are converted. U0 to G are atomisation energies.
TARGETS = {
    "mu": (0, "D"),
    "alpha": (1, "a0^3"),
    "homo": (2, "eV"),
    "lumo": (3, "eV"),
    "gap": (4, "eV"),
    "r2": (5, "a0^2"),
    "zpve": (6, "eV"),
    "u0": (12, "eV"),
    "u": (13, "eV"),
    "h": (14, "eV"),
    "g": (15, "eV"),
    "cv": (11, "cal/mol/K"),
}


class QM9(TensorData):
    """Molecules padded to 29 atoms: `pos` (B, 29, 3) in Angstrom, `z` (B, 29) int64 (0: padding), `present` (B, 29)
    bool, and the target `y` (B, 1).

    The split is that of DimeNet: `numpy.random.RandomState(42).permutation(130831)`, cut into 110000, 10000 and the
    rest. Energies are in `unit`, the others in D, a0^3, a0^2 and cal/mol/K; U0, U, H and G are without the energies of
    the atoms.

    Args:
        batch_size: molecules of a training batch.
        target: mu, alpha, homo, lumo, gap, r2, zpve, u0, u, h, g or cv.
        unit: of energies: meV, kcal/mol or eV.
        seed: of the order of the training batches.

    Raises:
        DataError: an unknown target or unit; in `setup`, a file that is absent or not as it should be.
    """

    name = "qm9"
    SPLIT = (110000, 10000)

    def __init__(self, batch_size: int, *, target: str, unit: str = "meV", seed: int = 0):
        super().__init__(batch_size, seed=seed)
        check_known("target", target, tuple(TARGETS))
        convert_energy(1.0, "eV", unit)
        self.target, self.unit = target, unit

    @property
    def sizes(self) -> dict[str, Any]:
        return {"dim_out": 1, "points": ATOMS}

    def load(self) -> Splits:
        """Reads the file and pads the molecules."""
        path = find_file(self.name, "processed/data_v3.pt")
        held, slices = _read(str(path))
        self.note_source(
            {"name": self.name, "revision": get_spec(self.name).revision, "sha256": files_digest([path])}
        )
        column, source = TARGETS[self.target]
        y = held["y"][:, column : column + 1].double()
        tensors = _padded(held["pos"], held["z"], slices["z"])
        tensors["y"] = (convert_energy(y, source, self.unit) if source == "eV" else y).float()
        order = torch.from_numpy(np.random.RandomState(42).permutation(len(y)))
        rows = order.tensor_split(torch.tensor(self.SPLIT).cumsum(0))
        if len(y) != MOLECULES:
            raise DataError(f"'qm9': {path} has {len(y)} molecules, expected {MOLECULES}")
        parts = zip(("train", "val", "test"), rows, strict=True)
        return {split: {name: t[index] for name, t in tensors.items()} for split, index in parts}


def _read(path: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The concatenated tensors of all molecules, and where each begins."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch_geometric.data  # noqa: F401  # tells torch which classes the file may hold
    except ImportError as error:
        raise DataError("'qm9' needs torch_geometric: pip install eigenzoo[graphs]") from error
    try:
        held, slices, *_ = torch.load(path, map_location="cpu", weights_only=True)
        for name in ("pos", "z", "y"):
            if not isinstance(held[name], Tensor) or not isinstance(slices[name], Tensor):
                raise ValueError(f"{name!r} is not a tensor")
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        raise DataError(f"'qm9': cannot read {path}: {str(error).partition(chr(10))[0]}") from error
    atoms = (len(held["y"]), len(held["z"]))  # molecules, and where the last of them ends
    if held["y"].ndim != 2 or held["y"].shape[1] < 16 or held["pos"].shape != (atoms[1], 3):
        raise DataError(f"'qm9': {path} must hold y (molecules, 19), z (atoms,) and pos (atoms, 3)")
    if len(slices["z"]) != atoms[0] + 1 or int(slices["z"][-1]) != atoms[1]:
        raise DataError(
            f"'qm9': {path}: the slices of z are not those of {atoms[0]} molecules, {atoms[1]} atoms"
        )
    return held, slices


def _padded(pos: Tensor, z: Tensor, starts: Tensor) -> dict[str, Tensor]:
    counts = starts.diff()
    if len(counts) and int(counts.max()) > ATOMS:
        raise DataError(
            f"'qm9': molecule {int(counts.argmax())} has {int(counts.max())} atoms, at most {ATOMS} are known"
        )
    present = torch.arange(ATOMS) < counts.unsqueeze(1)
    padded_pos, padded_z = (
        torch.zeros(len(counts), ATOMS, 3),
        torch.zeros(len(counts), ATOMS, dtype=torch.int64),
    )
    padded_pos[present], padded_z[present] = pos.float(), z.long()
    return {"pos": padded_pos, "z": padded_z, "present": present}
