"""Energies and forces of molecules: MD17, revised MD17 and 3BPA.

Batches hold `pos` (B, N, 3) in Angstrom, `z` (B, N) int64 atomic numbers, `energy` (B,) in `unit` and `forces`
(B, N, 3) in `unit` per Angstrom. An energy is relative to a reference that is subtracted in float64 (single precision
would lose it), see each set. 1 kcal/mol = 43.364 meV.
"""

import difflib
import zipfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .extended_xyz import NUMBERS, read_frames
from .hub import absent, data_folders, files_digest
from .module import Splits, TensorData, check_samples, check_whole
from .spec import get_spec

UNITS = {"meV": 1.0, "kcal/mol": 43.364, "eV": 1000.0}  # in meV
MD17_MOLECULES = (
    "aspirin",
    "benzene2017",
    "ethanol",
    "malonaldehyde",
    "naphthalene",
    "salicylic",
    "toluene",
    "uracil",
)
RMD17_MOLECULES = (
    "aspirin", "azobenzene", "benzene", "ethanol", "malonaldehyde", "naphthalene", "paracetamol", "salicylic",
    "toluene", "uracil",
)  # fmt: skip
# Of isolated atoms, in eV; the constants released with the Gaunt tensor product.
ATOMS_3BPA = {
    "H": -13.587222780835477,
    "C": -1029.4889999855063,
    "N": -1484.9814568572233,
    "O": -2041.9816003861047,
}
TRAIN_3BPA = ("300K", "mixedT")
TEST_3BPA = ("300K", "600K", "1200K", "dih_beta120", "dih_beta150", "dih_beta180")


def convert_energy(value: Any, source: str, target: str) -> Any:
    """A number or tensor in another unit of energy: meV, kcal/mol or eV. DataError: an unknown unit."""
    return value * (_factor(source) / _factor(target))


def _factor(unit: str) -> float:
    check_known("unit", unit, tuple(UNITS))
    return UNITS[unit]


def check_known(argument: str, value: str, known: Sequence[str]) -> None:
    """DataError naming the argument, the known values and the nearest, unless it is one of them."""
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{argument} is {value!r}, known are {', '.join(known)}{hint}")


def find_file(name: str, file: str) -> Path:
    """A file of the set, looked for in the folders of `hub.data_folders`.

    Raises:
        DataError: it is in none of them; names the file, the folders and where the set comes from.
    """
    for folder in data_folders(name):
        if (folder / file).is_file():
            return folder / file
    raise DataError(absent(get_spec(name), f", none of which holds {file}"))


class _Molecule(TensorData):
    """Frames of one molecule. A subclass says what `frames` of the splits are, in the unit `source_unit`."""

    source_unit: str

    def __init__(self, batch_size: int, *, seed: int, unit: str, atoms: int | None):
        super().__init__(batch_size, seed=seed)
        check_known("unit", unit, tuple(UNITS))
        self.unit, self._atoms = unit, atoms

    @property
    def sizes(self) -> dict[str, Any]:
        """One energy; the number of atoms is `points` where it is known before the files are read."""
        return {"dim_out": 1} | ({"points": self._atoms} if self._atoms else {})

    @abstractmethod
    def frames(self) -> dict[str, dict[str, np.ndarray]]:
        """split -> {"pos", "z", "energy", "forces"} in float64, the energy relative to its reference."""

    def load(self) -> Splits:
        """Reads the files and converts units."""
        return {split: self._tensors(frames) for split, frames in self.frames().items()}

    def _tensors(self, frames: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        factor = convert_energy(1.0, self.source_unit, self.unit)
        z = torch.from_numpy(np.array(np.broadcast_to(frames["z"], frames["pos"].shape[:2]))).long()
        found = {
            "pos": frames["pos"],
            "energy": frames["energy"] * factor,
            "forces": frames["forces"] * factor,
        }
        return {name: torch.from_numpy(array).float() for name, array in found.items()} | {"z": z}

    def note_file(self, path: Path, part: str) -> None:
        """The file and its digest for the record."""
        remark = "no digest is known beforehand: recorded, not verified"
        source = {"name": self.name, "part": part, "revision": get_spec(self.name).revision}
        self.note_source(source | {"sha256": files_digest([path]), "remark": remark})


class MD17(_Molecule):
    """A molecule of MD17, or of revised MD17 with its published splits; files in kcal/mol.

    Energies are relative to `energy_mean`, the mean of the training frames in `unit`. Frames of a training and a
    validation split are the first and the next ones of the published training list, those of the test the first of the
    published test list; without published lists (the original set) they are three parts of one permutation,
    `numpy.random.RandomState(split)`.

    Args:
        batch_size: samples of a training batch.
        molecule: of `RMD17_MOLECULES`, or `MD17_MOLECULES` where not `revised`.
        revised: read `rmd17` and not `md17`.
        split: which of the five published ones, 1 .. 5.
        samples: frames of train, val and test.
        unit: of the energies: meV, kcal/mol or eV.
        seed: of the order of the training batches.

    Raises:
        DataError: an unknown molecule or unit; in `setup`, a file that is absent or not as it should be.
    """

    source_unit = "kcal/mol"

    def __init__(
        self,
        batch_size: int,
        *,
        molecule: str,
        revised: bool = True,
        split: int = 1,
        samples: Sequence[int] = (950, 50, 1000),
        unit: str = "meV",
        seed: int = 0,
    ):
        super().__init__(batch_size, seed=seed, unit=unit, atoms=None)
        check_known("molecule", molecule, RMD17_MOLECULES if revised else MD17_MOLECULES)
        check_whole("split", split, 1)
        if split > 5:
            raise ValueError(f"split={split}: must be 1 .. 5")
        check_samples(samples)
        self.name = "rmd17" if revised else "md17"
        self.molecule, self.split, self.samples = molecule, split, tuple(samples)
        self.energy_mean = 0.0

    def frames(self) -> dict[str, dict[str, np.ndarray]]:
        revised = self.name == "rmd17"
        file = f"npz_data/rmd17_{self.molecule}.npz" if revised else f"{self.molecule}_dft.npz"
        path = find_file(self.name, file)
        names = ("coords", "nuclear_charges", "energies", "forces") if revised else ("R", "z", "E", "F")
        pos, z, energy, forces = read_trajectory(path, names)
        self.note_file(path, self.molecule)
        lists = self._published(len(pos)) if revised else self._permuted(len(pos), path)
        mean = energy[lists["train"]].mean()
        self.energy_mean = float(convert_energy(mean, self.source_unit, self.unit))
        return {
            split: {"pos": pos[rows], "z": z, "energy": energy[rows] - mean, "forces": forces[rows]}
            for split, rows in lists.items()
            if len(rows)
        }

    def _published(self, frames: int) -> dict[str, np.ndarray]:
        train, val, test = self.samples
        first, second = (self._list(part, frames) for part in ("train", "test"))
        for part, rows, wanted in (("train", first, train + val), ("test", second, test)):
            if len(rows) < wanted:
                raise DataError(
                    f"'rmd17': {wanted} frames for {part} are asked for, split {self.split} has {len(rows)}"
                )
        return {"train": first[:train], "val": first[train : train + val], "test": second[:test]}

    def _list(self, part: str, frames: int) -> np.ndarray:
        path = find_file(self.name, f"splits/index_{part}_0{self.split}.csv")
        try:
            rows = np.array([int(word) for word in path.read_text().split()])
        except ValueError as error:
            raise DataError(f"'rmd17': {path} must hold one whole number per line: {error}") from error
        if not len(rows) or rows.min() < 0 or rows.max() >= frames:
            raise DataError(f"'rmd17': {path} must hold numbers of frames in 0 .. {frames - 1}")
        return rows

    def _permuted(self, frames: int, path: Path) -> dict[str, np.ndarray]:
        if frames < sum(self.samples):
            raise DataError(f"'md17': {sum(self.samples)} frames are asked for, {path} has {frames}")
        order = np.random.RandomState(self.split).permutation(frames)
        ends = np.cumsum(self.samples)
        return dict(zip(("train", "val", "test"), np.split(order[: ends[-1]], ends[:-1]), strict=True))


def read_trajectory(
    path: Path, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions (T, N, 3), atomic numbers (N,), energies (T,) and forces (T, N, 3) of an npz file, float64.

    Args:
        names: of the four arrays in the file.

    Raises:
        DataError: no such file, arrays missing, of shapes that do not belong together, or not finite.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            if lacking := [name for name in names if name not in held]:
                raise DataError(f"{path} has no array {lacking[0]!r}, only {', '.join(held)}")
            pos, z, energy, forces = (np.asarray(held[name]) for name in names)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    shapes = {name: array.shape for name, array in zip(names, (pos, z, energy, forces), strict=True)}
    energy = energy.reshape(-1)
    if z.ndim != 1 or pos.shape != forces.shape or pos.shape != (len(energy), len(z), 3):
        raise DataError(f"{path}: the arrays must be (T, N, 3), (N,), (T,), (T, N, 3), found {shapes}")
    for name, array in zip(names, (pos, z, energy, forces), strict=True):
        if array.dtype.kind not in "iuf":
            raise DataError(f"{path}: {name!r} must hold numbers, found {array.dtype}")
        if not np.isfinite(array).all():
            at = np.argwhere(~np.isfinite(array))[0].tolist()
            raise DataError(f"{path}: {name!r} is NaN or infinite, first at {at}")
    return pos.astype(np.float64), z.astype(np.int64), energy.astype(np.float64), forces.astype(np.float64)


class ThreeBPA(_Molecule):
    """3-(benzyloxy)pyridin-2-amine, 27 atoms; files in eV. Energies are relative to the isolated atoms (`ATOMS_3BPA`).

    Args:
        batch_size: samples of a training batch.
        train: `300K` or `mixedT`; its last `val` frames are for validation.
        test: the file of the test, `300K`, `600K`, `1200K` or a slice over a dihedral angle, `dih_beta120`, ...
        val: how many.
        unit: of the energies: meV, kcal/mol or eV.
        seed: of the order of the training batches.

    Raises:
        DataError: an unknown file or unit; in `setup`, a file that is absent or not as it should be.
    """

    name, source_unit = "3bpa", "eV"

    def __init__(
        self,
        batch_size: int,
        *,
        train: str = "300K",
        test: str = "300K",
        val: int = 50,
        unit: str = "meV",
        seed: int = 0,
    ):
        super().__init__(batch_size, seed=seed, unit=unit, atoms=27)
        check_known("train", train, TRAIN_3BPA)
        check_known("test", test, TEST_3BPA)
        check_whole("val", val, 0)
        self.train, self.test, self.val = train, test, val

    def frames(self) -> dict[str, dict[str, np.ndarray]]:
        train, test = self._read(f"train_{self.train}.xyz"), self._read(f"test_{self.test}.xyz")
        kept = len(train["pos"]) - self.val
        if kept < 1:
            raise DataError(
                f"'3bpa': val={self.val}, but train_{self.train}.xyz has {kept + self.val} frames"
            )
        found = {"train": {k: v[:kept] for k, v in train.items()}, "test": test}
        return found | ({"val": {k: v[kept:] for k, v in train.items()}} if self.val else {})

    def _read(self, file: str) -> dict[str, np.ndarray]:
        path = find_file(self.name, file)
        frames = read_frames(path)
        self.note_file(path, file)
        for number, frame in enumerate(frames):
            if len(frame.z) != len(frames[0].z):
                raise DataError(
                    f"{path}, frame {number}: {len(frame.z)} atoms, the first has {len(frames[0].z)}"
                )
        atoms = {NUMBERS[symbol]: energy for symbol, energy in ATOMS_3BPA.items()}
        if unknown := set(np.concatenate([frame.z for frame in frames]).tolist()) - set(atoms):
            raise DataError(
                f"{path}: the element with the number {min(unknown)} is not one of {', '.join(ATOMS_3BPA)}"
            )
        energy = [frame.energy - sum(atoms[number] for number in frame.z.tolist()) for frame in frames]
        arrays = {name: np.stack([getattr(f, name) for f in frames]) for name in ("pos", "z", "forces")}
        return arrays | {"energy": np.array(energy)}
