"""Readers of molecules, on tiny files of the published layouts: units, references, splits and faults."""

import warnings

import numpy as np
import pytest
import torch

from eigenzoo.data import qm9
from eigenzoo.data.extended_xyz import NUMBERS, read_frames
from eigenzoo.data.molecules import ATOMS_3BPA, MD17, ThreeBPA, convert_energy, read_trajectory
from eigenzoo.errors import DataError

Z = np.array([8, 6, 1], dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path))
    return tmp_path


def trajectory(frames, seed=0):
    rng = np.random.default_rng(seed)
    pos, forces = rng.standard_normal((2, frames, 3, 3))
    return pos, Z, -406737.0 + rng.standard_normal(frames), forces


def write_rmd17(folder, frames=40, **changes):
    pos, z, energy, forces = trajectory(frames)
    arrays = {"coords": pos, "nuclear_charges": z, "energies": energy, "forces": forces} | changes
    for name in ("npz_data", "splits"):
        (folder / "rmd17" / name).mkdir(parents=True, exist_ok=True)
    np.savez(folder / "rmd17/npz_data/rmd17_aspirin.npz", **arrays)
    order = np.random.default_rng(1).permutation(frames)
    for k in (1, 2):
        np.savetxt(folder / f"rmd17/splits/index_train_0{k}.csv", np.roll(order, k)[:10], fmt="%d")
        np.savetxt(folder / f"rmd17/splits/index_test_0{k}.csv", np.roll(order, k)[10:20], fmt="%d")
    return arrays, order


def aspirin(**options):
    return MD17(4, **{"molecule": "aspirin", "samples": (8, 2, 10)} | options)


def loaded(data):
    data.setup()
    return data.splits


def test_units():
    assert convert_energy(1.0, "kcal/mol", "meV") == pytest.approx(43.364)
    assert convert_energy(2.0, "eV", "meV") == 2000
    assert convert_energy(convert_energy(3.0, "eV", "kcal/mol"), "kcal/mol", "eV") == pytest.approx(3)
    with pytest.raises(DataError, match="did you mean 'meV'"):
        convert_energy(1.0, "mev", "eV")


@pytest.mark.parametrize(("unit", "factor"), [("meV", 43.364), ("kcal/mol", 1.0), ("eV", 0.043364)])
def test_revised_md17(folder, unit, factor):
    arrays, order = write_rmd17(folder)
    data = aspirin(split=2, unit=unit)
    splits, rows = loaded(data), np.roll(order, 2)
    for split, index in (("train", rows[:8]), ("val", rows[8:10]), ("test", rows[10:20])):
        np.testing.assert_allclose(splits[split]["pos"], arrays["coords"][index], rtol=1e-6)
        np.testing.assert_allclose(splits[split]["forces"], arrays["forces"][index] * factor, rtol=1e-5)
        energy = splits[split]["energy"].double().numpy() + data.energy_mean
        np.testing.assert_allclose(energy, arrays["energies"][index] * factor, rtol=1e-12, atol=1e-5 * factor)
        assert (splits[split]["z"] == torch.tensor([8, 6, 1])).all() and splits[split][
            "z"
        ].dtype == torch.int64
    assert abs(splits["train"]["energy"].mean()) < 1e-5 * factor
    assert data.provenance[0]["part"] == "aspirin" and len(data.provenance[0]["sha256"]) == 64


def test_md17(folder):
    pos, z, energy, forces = trajectory(30)
    (folder / "md17").mkdir()
    np.savez(folder / "md17/uracil_dft.npz", R=pos, z=z, E=energy[:, None], F=forces)
    options = {"molecule": "uracil", "revised": False, "samples": (20, 0, 10)}
    first, again = loaded(MD17(4, **options)), loaded(MD17(4, **options))
    assert set(first) == {"train", "test"} and torch.equal(first["train"]["pos"], again["train"]["pos"])
    every = torch.cat([first["train"]["pos"], first["test"]["pos"]]).flatten(1)
    wanted = torch.from_numpy(pos).float().flatten(1)
    assert torch.equal(every[every[:, 0].argsort()], wanted[wanted[:, 0].argsort()])
    other = loaded(MD17(4, **options, split=2))
    assert not torch.equal(other["train"]["pos"], first["train"]["pos"])


def test_what_is_missing_is_named(folder):
    with pytest.raises(
        DataError, match=rf"no data for 'rmd17'.*{folder}/rmd17.*holds npz_data/rmd17_aspirin.npz.*by hand"
    ):
        loaded(aspirin())
    with pytest.raises(DataError, match="did you mean 'aspirin'"):
        aspirin(molecule="asprin")
    with pytest.raises(DataError, match="known are meV, kcal/mol, eV"):
        aspirin(unit="Hartree")
    with pytest.raises(ValueError, match="split=6"):
        aspirin(split=6)
    with pytest.raises(ValueError, match="samples"):
        aspirin(samples=(0, 1, 2))
    write_rmd17(folder)
    with pytest.raises(DataError, match="holds splits/index_train_03"):
        loaded(aspirin(split=3))
    with pytest.raises(DataError, match="11 frames for train are asked for, split 1 has 10"):
        loaded(aspirin(samples=(9, 2, 3)))
    (folder / "rmd17/splits/index_test_01.csv").write_text("3\n40\n")
    with pytest.raises(DataError, match=r"numbers of frames in 0 \.\. 39"):
        loaded(aspirin(samples=(8, 2, 2)))


def test_damaged_trajectories(folder):
    pos, _, energy, forces = trajectory(40)
    wrong = forces.copy()
    wrong[7, 1, 2] = np.nan
    for changes, words in (
        ({"forces": wrong}, r"'forces' is NaN or infinite, first at \[7, 1, 2\]"),
        ({"forces": forces[:, :2]}, "found .*'forces': \\(40, 2, 3\\)"),
        ({"energies": energy[:39]}, "found .*'energies': \\(39,\\)"),
        ({"nuclear_charges": np.uint8(8)}, "found .*'nuclear_charges': \\(\\)"),
        ({"nuclear_charges": np.array(["O", "C", "H"])}, "'nuclear_charges' must hold numbers, found <U1"),
    ):
        write_rmd17(folder, **changes)
        with pytest.raises(DataError, match=words):
            loaded(aspirin())
    path = folder / "x.npz"
    np.savez(path, coords=pos)
    with pytest.raises(DataError, match="no array 'nuclear_charges', only coords"):
        read_trajectory(path, ("coords", "nuclear_charges", "energies", "forces"))
    np.savez(path, R=np.array([None, {}], dtype=object), z=Z, E=energy, F=forces)
    with pytest.raises(DataError, match="cannot read"):
        read_trajectory(path, ("R", "z", "E", "F"))
    path.write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(DataError, match="cannot read"):
        read_trajectory(path, ("R", "z", "E", "F"))


def frames_text(frames, seed, symbols=("O", "C", "H")):
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(frames):
        lines += [
            f"{len(symbols)}",
            f'Properties=species:S:1:pos:R:3:forces:R:3 energy={-3085 + rng.random()} pbc="F F F"',
        ]
        lines += [f"{s} " + " ".join(f"{v:.8f}" for v in rng.standard_normal(6)) for s in symbols]
    return "\n".join(lines) + "\n"


def test_3bpa(folder):
    (folder / "3bpa").mkdir()
    for name, frames in (("train_300K", 6), ("test_1200K", 4)):
        (folder / f"3bpa/{name}.xyz").write_text(frames_text(frames, frames))
    data = ThreeBPA(2, test="1200K", val=2, unit="eV")
    splits = loaded(data)
    assert data.counts == {"train": 4, "val": 2, "test": 4} and data.sizes["points"] == 27
    frame = read_frames(folder / "3bpa/train_300K.xyz")[5]
    atoms = sum(ATOMS_3BPA[s] for s in "OCH")
    assert splits["val"]["energy"][1].item() == pytest.approx(frame.energy - atoms, rel=1e-6)
    torch.testing.assert_close(splits["val"]["forces"][1], torch.from_numpy(frame.forces).float())
    np.testing.assert_array_equal(splits["val"]["z"][1], [8, 6, 1])
    # Written once in meV: a thousand times as much.
    torch.testing.assert_close(
        loaded(ThreeBPA(2, test="1200K", val=2))["test"]["energy"], splits["test"]["energy"] * 1000
    )
    with pytest.raises(DataError, match=r"test_600K\.xyz"):
        loaded(ThreeBPA(2, test="600K", val=2))
    with pytest.raises(DataError, match="val=6, but train_300K"):
        loaded(ThreeBPA(2, test="1200K", val=6))
    with pytest.raises(DataError, match="did you mean 'mixedT'"):
        ThreeBPA(2, train="mixed")
    (folder / "3bpa/test_300K.xyz").write_text(frames_text(2, 0, ("F", "C", "H")))
    with pytest.raises(DataError, match="number 9"):
        loaded(ThreeBPA(2, val=2))
    (folder / "3bpa/test_300K.xyz").write_text(frames_text(2, 0) + frames_text(1, 0, ("C", "H")))
    with pytest.raises(DataError, match="frame 2: 2 atoms, the first has 3"):
        loaded(ThreeBPA(2, val=2))


def test_faults_of_extended_xyz_name_the_line(tmp_path):
    path, good = tmp_path / "x.xyz", frames_text(2, 0)
    lines = good.splitlines()
    assert NUMBERS["Xe"] == 54 and NUMBERS["Cl"] == 17
    for number, line, words in (
        (6, "³", "line 6: expected a number of atoms, found '³'"),
        (6, "three", "line 6: expected a number of atoms, found 'three'"),
        (7, "energy=1", "line 7: expected Properties=.*found none"),
        (7, "Properties=species:S:1:pos:R:3 energy=1", "line 7: expected .*found species:S:1:pos:R:3"),
        (7, lines[1].replace("energy", "free_energy"), "line 7: there is no energy="),
        (8, "O 1 2 3 4 5", "line 8: expected an element"),
        (8, "Q 1 2 3 4 5 6", "line 8: expected an element"),
        (9, "C 1 2 x 4 5 6", "line 9: 'x' is not a finite number"),
        (9, "C 1 2 nan 4 5 6", "line 9: 'nan' is not"),
    ):
        path.write_text("\n".join([*lines[: number - 1], line, *lines[number:]]))
        with pytest.raises(DataError, match=words):
            read_frames(path)
    path.write_text("\n".join(lines[:9]))
    with pytest.raises(DataError, match="line 10: expected an element"):
        read_frames(path)
    path.write_text("")
    with pytest.raises(DataError, match="no frame"):
        read_frames(path)


def write_qm9(folder, counts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_geometric.data import Data, InMemoryDataset

        molecules = []
        for number, atoms in enumerate(counts):
            y = number + torch.arange(19.0)[None] / 100
            z = torch.full((atoms,), 6)
            molecules.append(Data(z=z, pos=torch.randn(atoms, 3), y=y, name=f"gdb_{number}", idx=number))
        (folder / "qm9/processed").mkdir(parents=True, exist_ok=True)
        InMemoryDataset.save(molecules, str(folder / "qm9/processed/data_v3.pt"))
    return molecules


@pytest.mark.slow  # the import of torch_geometric
def test_qm9(folder, monkeypatch):
    monkeypatch.setattr(qm9, "MOLECULES", 10)
    monkeypatch.setattr(qm9.QM9, "SPLIT", (6, 2))
    with pytest.raises(DataError, match=r"no data for 'qm9'.*data_v3.pt"):
        loaded(qm9.QM9(2, target="gap"))
    molecules = write_qm9(folder, [5, 29, 3, 1, 2, 7, 8, 9, 10, 4])
    data = qm9.QM9(2, target="gap")
    splits = loaded(data)
    assert data.counts == {"train": 6, "val": 2, "test": 2}
    order = np.random.RandomState(42).permutation(10)
    for split, rows in (("train", order[:6]), ("val", order[6:8]), ("test", order[8:])):
        for place, number in enumerate(rows):
            row, molecule = {k: v[place] for k, v in splits[split].items()}, molecules[number]
            atoms = len(molecule.z)
            assert row["present"].sum() == atoms and row["present"][:atoms].all()
            assert torch.equal(row["pos"][:atoms], molecule.pos) and (row["pos"][atoms:] == 0).all()
            assert (row["z"][:atoms] == 6).all() and (row["z"][atoms:] == 0).all()
            assert row["y"].item() == pytest.approx(1000 * (number + 0.04), rel=1e-6)
    assert loaded(qm9.QM9(2, target="u0", unit="eV"))["test"]["y"][0].item() == pytest.approx(order[8] + 0.12)
    assert loaded(qm9.QM9(2, target="mu"))["test"]["y"][0].item() == pytest.approx(order[8])
    with pytest.raises(DataError, match="did you mean 'lumo'"):
        qm9.QM9(2, target="lum")
    monkeypatch.setattr(qm9, "MOLECULES", 11)
    with pytest.raises(DataError, match="10 molecules, expected 11"):
        loaded(qm9.QM9(2, target="gap"))
    write_qm9(folder, [3, 4])
    path = folder / "qm9/processed/data_v3.pt"
    held, slices, *rest = torch.load(path, weights_only=True)
    torch.save((held, {**slices, "z": slices["z"] - 1}, *rest), path)
    with pytest.raises(DataError, match="slices of z are not those of 2 molecules, 7 atoms"):
        loaded(qm9.QM9(2, target="gap"))
    write_qm9(folder, [3, 30])
    with pytest.raises(DataError, match="molecule 1 has 30 atoms"):
        loaded(qm9.QM9(2, target="gap"))
    torch.save({"pos": 1}, folder / "qm9/processed/data_v3.pt")
    with pytest.raises(DataError, match="cannot read"):
        loaded(qm9.QM9(2, target="gap"))
