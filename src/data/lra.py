"""The bundle of the Long Range Arena, `lra_release.gz`: where its files lie on this machine.

The folder `lra` under `EIGENZOO_DATA` has the bundle's own layout: `listops-1000/basic_{train,val,test}.tsv`,
`tsv_data/new_aan_pairs.{train,eval,test}.tsv`, `pathfinder{32,64,128,256}/curv_contour_length_14/`.
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
