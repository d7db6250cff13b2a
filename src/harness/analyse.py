"""`eigenzoo analyse RUN`: what the weights of a trained model look like, layer by layer, as a table and a figure."""

from pathlib import Path

from ..errors import ConfigError, DataError

FIGURE, TABLE = "spectra.png", "spectra.csv"


def analyse(source: str, *, rule: str = "median", embeddings: bool = False, out: Path | None = None) -> int:
    """Tail exponents of every layer's spectrum (of the full one, and of windows of one aspect ratio: FARMS), spectral
    norm and stable rank; the table goes to the terminal and into `spectra.csv`, the figure beside it.

    Args:
        source: a folder of a finished run, a shipped model or a hub id.
        rule: of the tail, see `eigenzoo.ops.tails`.
        embeddings: whether these are measured too.
        out: folder of the files; None: `figures` of the run, or of the current folder where the run is not one.

    Raises:
        DataError: no such run, or a model without a layer that has a spectrum.
        ConfigError: an unknown rule.
    """
    import csv

    from ..models.compression import Maestro
    from ..tasks.spectra import layer_spectra, spectra_table
    from ..tasks.spectra_figures import draw_layer_spectra
    from . import zoo
    from .folder import storage

    model = zoo.load(source)
    if isinstance(model, Maestro):
        model = model.deploy()  # the layers that its factors stand for
    try:
        found = layer_spectra(model, rule=rule, embeddings=embeddings)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not found:
        raise DataError(f"{source}: the model has no linear layer and no convolution")
    print(spectra_table(found))
    folder = out or (Path(source) / "figures" if Path(source).is_dir() else Path("figures"))
    with storage("the analysis", folder):
        folder.mkdir(parents=True, exist_ok=True)
        draw_layer_spectra(found, folder / FIGURE)
        with open(folder / TABLE, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(found[0].row()))
            writer.writeheader()
            writer.writerows(spectrum.row() for spectrum in found)
    print(f"written: {folder / FIGURE}, {folder / TABLE}")
    return 0
