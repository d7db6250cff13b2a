"""The data sets that eigenzoo knows: origin, size, licence, and the digests that they are verified by.

Nothing here imports torch or reads data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import DataError
from .molecule_specs import MOLECULES
from .motion_specs import MOTION

UNALTERED = ""


@dataclass(frozen=True)
class DataSpec:
    """One set.

    Attributes:
        name: of the set, of its folder under `EIGENZOO_DATA` and of `eigenzoo data fetch NAME`.
        source: `hub` (parquet files of a dataset repository), `files` (the original files by URL), `manual`
            (an archive that is too large to be fetched unasked: downloaded by hand), `package` (ships with a
            dependency) or `generated` (made on the machine from a seed).
        hub_id, revision: of the repository, of the package, of the archive or of the generator.
        sizes: samples per split, as far as published.
        digests: part -> {sha256: remark}, every digest of it that is known. The part is a split (`hub`), a
            file (`files`) or `all`. A digest is over the bytes of the part's files in the order of their
            names or, for a re-packed copy, over its content in row order, see `content`. The remark of an
            unaltered copy is empty, that of a variant says what is different and is printed with results.
        content: what a content digest is over: `pixels` (decoded, uint8), `images` (the image files) or
            `text` (UTF-8, each row ended by a zero byte).
        columns: needed in the parquet files.
        urls: path in the set's folder -> address (`source="files"`).
        needs: files that a complete folder has to hold (`source="files"`); of an archive whose parts serve
            different tasks, patterns of which one will do (`source="manual"`).
        tree: pattern of the files of an unpacked archive; they are identified by names and sizes.
        layout: what a folder under `EIGENZOO_DATA` has to hold.
        licence, citation, url, note: for people.
    """

    name: str
    source: str
    revision: str
    sizes: Mapping[str, int]
    licence: str
    citation: str
    url: str
    layout: str
    hub_id: str = ""
    digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    content: str = "pixels"
    columns: tuple[str, ...] = ()
    urls: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    tree: str = ""
    note: str = ""


JPEG_REMARK = "JPEG-recompressed pixels; accuracies comparable only among own runs"
PARQUET = "the parquet files of the hub repository, <split>-*.parquet"


def _bidmc(target: str, record: int) -> DataSpec:
    stem = f"BIDMC32{target}"
    return DataSpec(
        name=f"bidmc_{target.lower()}",
        source="files",
        revision=f"zenodo {record}",
        sizes={},
        licence="CC-BY-4.0",
        citation="Tan, Bergmeir, Petitjean, Webb, Time series extrinsic regression, 2021",
        url=f"https://zenodo.org/record/{record}",
        layout=f"{stem}_TRAIN.ts and {stem}_TEST.ts",
        needs=(f"{stem}_TRAIN.ts", f"{stem}_TEST.ts"),
        urls={
            f"{stem}_{part}.ts": f"https://zenodo.org/record/{record}/files/{stem}_{part}.ts"
            for part in ("TRAIN", "TEST")
        },
        note="PPG and ECG, 2 channels of 4000 steps (32 s at 125 Hz); a regression target per sample",
    )


LRA_LICENCE = "Apache-2.0 (the benchmark's code; its texts keep their own terms)"
LRA_CITATION = "Tay et al., Long Range Arena, ICLR 2021, arXiv 2011.04006"
LRA_URL = "https://github.com/google-research/long-range-arena"
LRA_PARTS = (
    *(f"listops-1000/basic_{split}.tsv" for split in ("train", "val", "test")),
    *(f"tsv_data/new_aan_pairs.{split}.tsv" for split in ("train", "eval", "test")),
    *(f"pathfinder{side}/curv_contour_length_14/metadata/*.npy" for side in (32, 64, 128, 256)),
)


FNO_CITATION = "Li et al., Fourier neural operator, ICLR 2021, arXiv 2010.08895"
FNO_URL = "https://arxiv.org/abs/2010.08895"
MGNO_CITATION = "He, Liu, Xu, MgNO, ICLR 2024, arXiv 2310.19809"
MGNO_URL = "https://arxiv.org/abs/2310.19809"

GCR_CITATION = "Wang, Li, Zhang, Grassmann class representation, ICCV 2023, arXiv 2308.01547"
GCR_URL = "https://arxiv.org/abs/2308.01547"
EBV_CITATION = "Shen, Sun, Wei, Equiangular basis vectors, CVPR 2023, arXiv 2303.11637"
EBV_URL = "https://arxiv.org/abs/2303.11637"

NEURALOP_COMMIT = "93d3f0633e048c915004cd782cb339acf06e1157"
NEURALOP_FILES = {
    "burgers_train_16.pt": "d12335adc0d96357a893dc39d72957fa89fda852b00902d94da95aa06af23fa0",
    "burgers_test_16.pt": "70bb1591e31b254e74ac6097a5520de299da38115cb3f814e8d0f6f19057d201",
    "darcy_train_16.pt": "0be662acdb1dab7dfd1a1da0b140e97f75cc94f98a14edcf768abe6968b3b418",
    "darcy_test_16.pt": "d2b19af9d4a6ae04ba2de54b8ecccc8b89766472faf6ce7f506c0b2a60f69a4c",
    "darcy_test_32.pt": "bcbd10622373e94df84a17fcdb72ac4317d76e024c2499d21fd1fd34d0742cfd",
}


def _generated(name: str, sizes: Mapping[str, int], citation: str, url: str, note: str) -> DataSpec:
    return DataSpec(
        name=name,
        source="generated",
        revision="generated from a seed",
        sizes=sizes,
        licence="free: made on the machine",
        citation=citation,
        url=url,
        layout="none: generated where it is needed",
        note=note,
    )


_TABLE = (
    DataSpec(
        name="digits",
        source="package",
        revision="scikit-learn",
        sizes={"train": 1437, "test": 360},
        licence="CC-BY-4.0",
        citation="Alpaydin, Kaynak, Optical recognition of handwritten digits, UCI 1998",
        url="https://archive.ics.uci.edu/dataset/80",
        layout="none: ships with scikit-learn",
        digests={"all": {"8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3": UNALTERED}},
        note="1797 images of 8x8",
    ),
    DataSpec(
        name="mnist",
        source="hub",
        hub_id="ylecun/mnist",
        revision="77f3279092a1c1579b2250db8eafed0ad422088c",
        sizes={"train": 60000, "test": 10000},
        licence="CC-BY-SA-3.0",
        citation="LeCun, Bottou, Bengio, Haffner, Gradient-based learning, Proc. IEEE 1998",
        url="https://huggingface.co/datasets/ylecun/mnist",
        layout=PARQUET,
        digests={
            "train": {
                "f2c01285a9f89399335b00ee4e8d499dc4e46db5e39c74903ce5618d895eb3bf": UNALTERED,
                # The same pixels, encoded and packed again.
                "b4f35dbf6e01d28d5c15996125cdac687cd73570eecdccbfa48e149106163de1": UNALTERED,
                "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757": UNALTERED,
            },
            "test": {
                "d49fcf556ce25b002b302e318ce4a11098bbfe5d4499c3f35d7c72297c52374b": UNALTERED,
                "1d14bd6e6420cf4c21034bca4547042d94b3bb7b3c85f3ab63f64f199a67dc62": UNALTERED,
                "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161": UNALTERED,
            },
        },
        columns=("image", "label"),
        note="grey, 28x28",
    ),
    DataSpec(
        name="cifar10",
        source="hub",
        hub_id="uoft-cs/cifar10",
        revision="0b2714987fa478483af9968de7c934580d0bb9a2",
        sizes={"train": 50000, "test": 10000},
        licence="free for research, with citation",
        citation="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
        url="https://huggingface.co/datasets/uoft-cs/cifar10",
        layout=PARQUET,
        content="images",
        digests={
            "train": {
                "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883": UNALTERED,
                "e23a5e8eea9f9dd102e4eec4980e13b0695329cbb2817b5c36a3f348bb38c6a9": JPEG_REMARK,
                "e88678367f5af1161c9ee360dc684dbd5c4dbc001d3745c3398b4ed2b3769c87": JPEG_REMARK,
            },
            "test": {
                "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de": UNALTERED,
                "e98fc442e71c5c459f893aa5bd9a995703721ce683c1aeb186d3afd34bdc4bab": JPEG_REMARK,
                "ff06663bf9bea872b36759de020bc3648f3b2d270b2af789728c820daf2748aa": JPEG_REMARK,
            },
        },
        columns=("img", "label"),
        note="RGB, 32x32",
    ),
    DataSpec(
        name="cifar100",
        source="hub",
        hub_id="uoft-cs/cifar100",
        revision="aadb3af77e9048adbea6b47c21a81e47dd092ae5",
        sizes={"train": 50000, "test": 10000},
        licence="free for research, with citation",
        citation="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
        url="https://huggingface.co/datasets/uoft-cs/cifar100",
        layout=PARQUET,
        content="images",
        digests={
            "train": {"694865d6b990e234804f01268586c41e88bcbbb75e20858432c05ad4081aca23": UNALTERED},
            "test": {"98776c529bb146a9c791229df74a5cf076be9b43d82dbbd334b6a7788d73dc68": UNALTERED},
        },
        columns=("img", "fine_label"),
        note="RGB, 32x32, a hundred classes",
    ),
    DataSpec(
        name="imagenet",
        source="hub",
        hub_id="ILSVRC/imagenet-1k",
        revision="49e2ee26f3810fb5a7536bbf732a7b07389a47b5",
        sizes={"train": 1281167, "validation": 50000},
        licence="ImageNet's terms: research and education only",
        citation="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015",
        url="https://huggingface.co/datasets/ILSVRC/imagenet-1k",
        layout=f"{PARQUET} (the set is gated: accept its terms on its page, https://huggingface.co/datasets/"
        "ILSVRC/imagenet-1k, and log in with: hf auth login, or set HF_TOKEN)",
        content="images",
        columns=("image", "label"),
        note="photographs of all sizes, 1000 classes; 150 GB, and as much again for the copy that is read",
    ),
    DataSpec(
        name="speech_commands",
        source="files",
        hub_id="google/speech_commands",
        revision="v0.02",
        sizes={"train": 84843, "val": 9981, "test": 11005},
        licence="CC-BY-4.0",
        citation="Warden, Speech Commands, arXiv 1804.03209",
        url="https://huggingface.co/datasets/google/speech_commands",
        layout="the unpacked archive v0.02: <word>/*.wav, validation_list.txt, testing_list.txt",
        needs=("validation_list.txt", "testing_list.txt"),
        tree="*/*.wav",
        digests={
            "speech_commands_v0.02.tar.gz": {
                "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58": UNALTERED
            }
        },
        urls={
            "speech_commands_v0.02.tar.gz": "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
        },
        note="35 words, 16 kHz; the hub's own test split is another one (4890 clips, unknown words pooled), "
        "the official lists are in the archive only",
    ),
    _bidmc("HR", 4001456),
    _bidmc("RR", 4001463),
    _bidmc("SpO2", 4001464),
    DataSpec(
        name="imdb",
        source="hub",
        hub_id="stanfordnlp/imdb",
        revision="e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
        sizes={"train": 25000, "test": 25000},
        licence="not stated (the hub says: other)",
        citation="Maas et al., Learning word vectors for sentiment analysis, ACL 2011",
        url="https://huggingface.co/datasets/stanfordnlp/imdb",
        layout=PARQUET,
        content="text",
        digests={
            "train": {"db47d16b5c297cc0dd625e519c81319c24c9149e70e8496de5475f6fa928342c": UNALTERED},
            "test": {"b52e26e2f872d282ffac460bf9770b25ac6f102cda0e6ca7158df98c94e8b3da": UNALTERED},
        },
        columns=("text", "label"),
        note="film reviews, negative or positive; read as characters: the Text task of the Long Range Arena",
    ),
    DataSpec(
        name="stdlib-text",
        source="package",
        revision="the Python that runs",
        sizes={},
        licence="PSF-2.0",
        citation="Python Software Foundation, the standard library and the help on the language",
        url="https://docs.python.org/3/",
        layout="none: comes with Python",
        note="characters; source of the library (4.7 million in 3.11) or help texts (0.46 million); other in every "
        "version of Python: the digest is in the record",
    ),
    DataSpec(
        name="lra",
        source="manual",
        revision="lra_release.gz",
        sizes={},
        licence=LRA_LICENCE,
        citation=LRA_CITATION,
        url=LRA_URL,
        layout="the folders listops-1000, tsv_data and pathfinder{32,64,128,256} of the archive, or those of "
        "them that are needed",
        needs=LRA_PARTS,
        note="the bundle of the Long Range Arena, several GB: ListOps, Retrieval (AAN), Pathfinder, Path-X",
    ),
    _generated(
        "listops",
        {"train": 96000, "val": 2000, "test": 2000},
        LRA_CITATION,
        LRA_URL,
        "nested list operations, digits as classes; 500 to 2000 tokens",
    ),
    _generated(
        "pathfinder",
        {"train": 160000, "val": 20000, "test": 20000},
        LRA_CITATION,
        LRA_URL,
        "do two circles lie on one dashed path? 32x32 (1024 steps) to 128x128 (Path-X, 16384 steps)",
    ),
    DataSpec(
        name="neuralop-pde",
        source="files",
        revision=f"neuraloperator {NEURALOP_COMMIT[:7]}",
        sizes={},
        licence="MIT",
        citation="NeuralOperator developers, neuraloperator, 2023",
        url="https://github.com/neuraloperator/neuraloperator",
        layout=f"the files {', '.join(NEURALOP_FILES)}",
        needs=tuple(NEURALOP_FILES),
        digests={file: {digest: UNALTERED} for file, digest in NEURALOP_FILES.items()},
        urls={
            file: f"https://raw.githubusercontent.com/neuraloperator/neuraloperator/{NEURALOP_COMMIT}"
            f"/neuralop/data/datasets/data/{file}"
            for file in NEURALOP_FILES
        },
        note="Darcy flow, 1000 + 50 samples of 16x16, the 50 at 32x32 too; Burgers' equation, 800 + 400 of 17x16",
    ),
    _generated(
        "burgers",
        {"train": 1000, "test": 200},
        FNO_CITATION,
        FNO_URL,
        "Burgers' equation, initial to final state; 8192 points",
    ),
    _generated(
        "darcy",
        {"train": 1000, "test": 200},
        FNO_CITATION,
        FNO_URL,
        "Darcy flow, coefficient to pressure; 421x421 points",
    ),
    _generated(
        "navier_stokes",
        {"train": 1000, "test": 200},
        FNO_CITATION,
        FNO_URL,
        "vorticity of a forced flow on the torus, ten past states to later ones; 64x64 points",
    ),
    _generated(
        "union_of_subspaces",
        {"train": 5000, "test": 2000},
        GCR_CITATION,
        GCR_URL,
        "ten subspaces of four dimensions in 64",
    ),
    _generated(
        "prototypes",
        {"train": 16000, "test": 8000},
        EBV_CITATION,
        EBV_URL,
        "2000 classes about Gaussian prototypes in 32 dimensions",
    ),
    _generated(
        "helmholtz",
        {"train": 4000, "val": 200, "test": 200},
        MGNO_CITATION,
        MGNO_URL,
        "Helmholtz' equation, wave speed to field; 101x101 points",
    ),
    *(DataSpec(**row) for row in (*MOTION, *MOLECULES)),
)

SPECS: Mapping[str, DataSpec] = {spec.name: spec for spec in _TABLE}


def get_spec(name: str) -> DataSpec:
    """The spec of a set; DataError with the known names otherwise."""
    if name not in SPECS:
        raise DataError(f"no data set is called {name!r}; known: {', '.join(SPECS)}")
    return SPECS[name]
