"""Where sets of molecules come from; rows of the table in `spec.py`. None is fetched: they are downloaded by hand."""

from typing import Any

MOLECULES: tuple[dict[str, Any], ...] = (
    {
        "name": "md17",
        "source": "manual",
        "revision": "<molecule>_dft.npz",
        "sizes": {},
        "licence": "not stated",
        "citation": "Chmiela et al., Machine learning of accurate energy-conserving force fields, Sci. Adv. 2017",
        "url": "http://www.sgdml.org/#datasets",
        "layout": "<molecule>_dft.npz",
        "needs": ("*_dft.npz",),
        "note": "trajectories of small molecules: positions, energies, forces (DFT)",
    },
    {
        "name": "rmd17",
        "source": "manual",
        "revision": "rmd17.tar.bz2",
        "sizes": {},
        "licence": "not stated",
        "citation": "Christensen, von Lilienfeld, On the role of gradients, 2020, arXiv 2007.09593",
        "url": "https://doi.org/10.6084/m9.figshare.12672038",
        "layout": "npz_data/rmd17_<molecule>.npz and splits/index_{train,test}_0{1..5}.csv",
        "needs": ("npz_data/rmd17_*.npz",),
        "note": "MD17 computed anew with tight convergence, 100000 frames, five splits of 1000 and 1000",
    },
    {
        "name": "3bpa",
        "source": "manual",
        "revision": "dataset_3BPA",
        "sizes": {},
        "licence": "not stated",
        "citation": "Kovacs et al., Linear atomic cluster expansion force fields for organic molecules, JCTC 2021",
        "url": "https://github.com/davkovacs/BOTNet-datasets",
        "layout": "train_300K.xyz, train_mixedT.xyz, test_{300K,600K,1200K}.xyz, test_dih_beta{120,150,180}.xyz",
        "needs": ("train_*.xyz", "test_*.xyz"),
        "note": "3-(benzyloxy)pyridin-2-amine at three temperatures: out-of-distribution forces",
    },
    {
        "name": "qm9",
        "source": "manual",
        "revision": "torch_geometric.datasets.QM9",
        "sizes": {"train": 110000, "val": 10000, "test": 10831},
        "licence": "not stated",
        "citation": "Ramakrishnan et al., Properties of 134 kilo molecules, Sci. Data 2014",
        "url": "https://doi.org/10.6084/m9.figshare.c.978904",
        "layout": "processed/data_v3.pt, as torch_geometric.datasets.QM9(<folder>) writes it",
        "needs": ("processed/data_v3.pt",),
        "note": "130831 molecules of up to 29 atoms, 12 properties",
    },
)
