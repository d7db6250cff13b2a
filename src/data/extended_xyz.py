"""A strict reader of extended xyz files with positions, forces and an energy."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from ..errors import DataError

PROPERTIES = "species:S:1:pos:R:3:forces:R:3"
ELEMENTS = """H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y
Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe"""
NUMBERS = {symbol: number for number, symbol in enumerate(ELEMENTS.split(), start=1)}
_ENERGY = re.compile(r'(?:^|\s)energy=(?:"([^"]*)"|(\S+))')
_PROPERTIES = re.compile(r'(?:^|\s)Properties=(?:"([^"]*)"|(\S+))')


@dataclass(frozen=True)
class Frame:
    """Atomic numbers (N,), positions (N, 3), forces (N, 3), in float64 and the file's units, and the energy."""

    z: np.ndarray
    pos: np.ndarray
    forces: np.ndarray
    energy: float


def read_frames(path: Path) -> list[Frame]:
    """All frames of a file: the number of atoms; a line with `Properties=species:S:1:pos:R:3:forces:R:3` and
    `energy=`; a line per atom.

    Raises:
        DataError: anything else; names the file, the line and what is expected there.
    """
    try:
        with path.open(encoding="utf-8") as file:
            frames = list(_frames(file, path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not frames:
        raise DataError(f"{path} holds no frame")
    return frames


def _frames(file: TextIO, path: Path) -> Iterator[Frame]:
    number = 0
    while line := file.readline():
        number += 1
        if not line.strip():
            continue
        if not line.strip().isdecimal() or not int(line):
            raise DataError(f"{path}, line {number}: expected a number of atoms, found {line.strip()!r}")
        energy = _energy(file.readline(), f"{path}, line {number + 1}")
        rows = [
            _atom(file.readline(), f"{path}, line {row}") for row in range(number + 2, number + 2 + int(line))
        ]
        number += 1 + len(rows)
        values = np.array([row[1] for row in rows])
        yield Frame(np.array([row[0] for row in rows]), values[:, :3], values[:, 3:], energy)


def _energy(comment: str, where: str) -> float:
    properties, energy = _PROPERTIES.search(comment), _ENERGY.search(comment)
    if properties is None or (properties[1] or properties[2]) != PROPERTIES:
        found = "none" if properties is None else properties[1] or properties[2]
        raise DataError(f"{where}: expected Properties={PROPERTIES}, found {found}")
    if energy is None:
        raise DataError(f"{where}: there is no energy=")
    return _number(energy[1] or energy[2], where)


def _atom(line: str, where: str) -> tuple[int, list[float]]:
    symbol, *words = line.split() or [""]
    if symbol not in NUMBERS or len(words) != 6:
        raise DataError(
            f"{where}: expected an element, three coordinates and three forces, found {line.strip()!r}"
        )
    return NUMBERS[symbol], [_number(word, where) for word in words]


def _number(word: str, where: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {word!r} is not a finite number")
    return value
