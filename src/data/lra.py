"""The Long Range Arena: six classification tasks of 1 k to 16 k tokens, and where its bundle lies on this machine.

Tay, Dehghani, Abnar, Shen, Bahri, Pham, Rao, Yang, Ruder, Metzler, "Long Range Arena: A Benchmark for Efficient
Transformers", ICLR 2021, arXiv 2011.04006. The metric is test accuracy; a model that stays at chance is a fail.

| task | length | input | classes | here |
|---|---|---|---|---|
| ListOps | 500-2000 | nested operators on digits | 10 | `data.ListOps`: generated from the grammar, or the bundle |
| Text | 4096 | characters of film reviews | 2 | `data.CharacterIMDb`: hub `stanfordnlp/imdb` |
| Retrieval | 2 x 4000 | characters of two papers | 2 | `data.AANRetrieval`: the bundle |
| Image | 1024 | grey CIFAR-10, pixel by pixel | 10 | `data.SequentialCIFAR10(grey=True)` |
| Pathfinder | 1024 | picture of 32x32, pixel by pixel | 2 | `data.Pathfinder`: drawn here, or the bundle |
| Path-X | 16384 | the same at 128x128 | 2 | the same, `size=128` |

Two averages are in use: the benchmark's own leaves Path-X out; the papers of the S4 family count a fail as 50.
They do not compare. Nor do validation on the test set (the published Text runs) and a held-out part, one best
seed and a mean, or colour and grey images. Generated sets have other samples than the bundle's, of the same
distribution.

The bundle is `lra_release.gz`. The folder `lra` under `EIGENZOO_DATA` has its layout:
`listops-1000/basic_{train,val,test}.tsv`, `tsv_data/new_aan_pairs.{train,eval,test}.tsv`,
`pathfinder{32,64,128,256}/curv_contour_length_14/`.
"""

from pathlib import Path

from ..errors import DataError
from .hub import absent, data_folders
from .spec import get_spec

NAME = "lra"


def lra_path(*parts: str, needs: str) -> Path:
    """A file or folder of the bundle, e.g. `lra_path("listops-1000", "basic_train.tsv", needs="ListOps")`.

    Args:
        parts: of its path inside the folder `lra`.
        needs: what it is needed for, as it is said in an error.

    Raises:
        DataError: it is not there; names the set, the folders tried, what is missing and where to get it.
    """
    return lra_files("/".join(parts), needs=needs)[0]


def lra_files(*names: str, needs: str) -> list[Path]:
    """Files or folders of the bundle, all of them from the first folder that has them all.

    Args:
        names: paths inside the folder `lra`, with slashes.
        needs: what they are needed for, as it is said in an error.

    Raises:
        DataError: some are not there; names the set, the folders tried, what is missing in the folder that
            has most of them, and where to get it.
    """
    folders = data_folders(NAME)
    missing = [[name for name in names if not (folder / name).exists()] for folder in folders]
    fewest = min(missing, key=len)
    folder = folders[missing.index(fewest)]
    if fewest:
        reason = f": {needs} needs {', '.join(str(folder / name) for name in fewest)}, which is not there"
        raise DataError(absent(get_spec(NAME), reason))
    return [folder / name for name in names]
