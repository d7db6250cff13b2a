"""`eigenzoo analyse RUN`: what a trained model has learned, as tables and figures.

Of every model the spectra of its weights, layer by layer. Of a classifier (a backbone with a class head) the geometry
of its features on the training and the test part too, and on request how well they serve other data (linear transfer).
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError, EigenzooError
from . import zoo
from .folder import storage
from .reopen import Reopened, reopen

if TYPE_CHECKING:
    from torch import nn

FIGURE, TABLE = "spectra.png", "spectra.csv"
FEATURES_FIGURE, FEATURES_TABLE, TRANSFER_TABLE = "features.png", "features.csv", "transfer.csv"
SAMPLES = 10_000


@dataclass(frozen=True)
class FeatureWords:
    """What is asked about features.

    Attributes:
        transfer: a data config on which the features are probed; None: they are not.
        classes: only these labels of it.
        samples: at most so many of each split, drawn at random.
    """

    transfer: str | None = None
    classes: tuple[int, ...] | None = None
    samples: int = SAMPLES

    def __post_init__(self) -> None:
        if self.classes is not None and self.transfer is None:
            raise ConfigError("--classes: say of which data, by --transfer")
        if self.samples < 1:
            raise ConfigError(f"--samples {self.samples}: must be at least 1")


def analyse(
    source: str,
    *,
    rule: str = "median",
    embeddings: bool = False,
    out: Path | None = None,
    words: FeatureWords | None = None,
) -> int:
    """Tail exponents of every layer's spectrum (of the full one, and of windows of one aspect ratio: FARMS), spectral
    norm and stable rank; the table goes to the terminal and into `spectra.csv`, the figure beside it. Of a classifier
    also `features.csv` and `features.png`, and with a `transfer` set `transfer.csv`.

    Args:
        source: a folder of a finished run, a shipped model or a hub id.
        rule: of the tail, see `eigenzoo.ops.tails`.
        embeddings: whether these are measured too.
        out: folder of the files; None: `figures` of the run, or of the current folder where the run is not one.

    Raises:
        DataError: no such run, or a model without a layer that has a spectrum; the transfer set is not there.
        ConfigError: an unknown rule; a transfer set that is unknown or does not fit, or a model without features.
    """
    from ..models.compression import Maestro
    from ..models.heads.classifier import Classifier

    words = words or FeatureWords()
    if words.transfer is not None:
        _transfer_file(words.transfer)  # a wrong name should not be noticed at the end
    model = zoo.load(source)
    if isinstance(model, Maestro):
        model = model.deploy()  # the layers that its factors stand for
    is_classifier = isinstance(model, Classifier)
    if words.transfer is not None and not is_classifier:
        raise ConfigError(
            f"--transfer: {source} is no classifier of a backbone and a head, so it has no features"
        )
    folder = out or (Path(source) / "figures" if Path(source).is_dir() else Path("figures"))
    _spectra(source, model, folder, rule, embeddings, needed=not is_classifier)
    if is_classifier:
        _features(source, folder, words)
    return 0


def _spectra(
    source: str, model: "nn.Module", folder: Path, rule: str, embeddings: bool, *, needed: bool
) -> None:
    from ..tasks.spectra import layer_spectra, spectra_table
    from ..tasks.spectra_figures import draw_layer_spectra

    try:
        found = layer_spectra(model, rule=rule, embeddings=embeddings)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not found and needed:
        raise DataError(f"{source}: the model has no linear layer and no convolution")
    if found:
        print(spectra_table(found))
        with storage("the analysis", folder):
            folder.mkdir(parents=True, exist_ok=True)
            draw_layer_spectra(found, folder / FIGURE)
        _write(folder / TABLE, [spectrum.row() for spectrum in found])
        print(f"written: {folder / FIGURE}, {folder / TABLE}")


def _features(source: str, folder: Path, words: FeatureWords) -> None:
    try:
        run = reopen(source)
    except EigenzooError as error:
        if words.transfer is not None:
            raise
        print(f"features are not measured: {error}")
        return
    _geometry(run, folder, words.samples)
    if words.transfer is not None:
        _transfer(run, folder, words.transfer, words)


def _geometry(run: Reopened, folder: Path, samples: int) -> None:
    """The table of the features on the training and the test part; the figure is of the latter."""
    from ..ops.feature_geometry import class_means
    from ..tasks.feature_figures import draw_features
    from ..tasks.feature_measures import collect, split_row, spread_batches

    splits = [s for s in ("train", "test") if s in run.data.splits] or list(run.data.splits)
    model, rows, reasons = run.model.to(_device()), [], []
    for split in splits:
        features, labels, predicted = collect(model, spread_batches(run.data, split, samples), _device())
        row, undefined = split_row(split, features, labels, predicted, model.head)
        rows.append(row)
        reasons += [f"{split}: no {name}: {reason}" for name, reason in undefined.items()]
    print("\n" + _text(rows))
    print(*reasons, sep="\n", end="\n" if reasons else "")
    present, compact = labels.unique(return_inverse=True)
    with storage("the analysis", folder):
        folder.mkdir(parents=True, exist_ok=True)
        if len(present) > 1:
            means = class_means(features, compact, len(present))
            draw_features(means, present.tolist(), folder / FEATURES_FIGURE)
    _write(folder / FEATURES_TABLE, rows)
    print(
        f"written: {folder / FEATURES_TABLE}" + (f", {folder / FEATURES_FIGURE}" if len(present) > 1 else "")
    )


def _transfer(run: Reopened, folder: Path, name: str, words: FeatureWords) -> None:
    """The table of the probes on the features."""
    from ..tasks.linear_transfer import linear_transfer

    data = _transfer_data(run, name)
    train, test = (
        _part(data, s, words.samples) for s in ("train", "test" if "test" in data.splits else "val")
    )
    _try(run.model, train["x"][:1], name)
    try:
        found = linear_transfer(run.model, _start(run), train, test, classes=words.classes, device=_device())
    except ValueError as error:
        raise ConfigError(f"--transfer {name}: {error}") from error
    rows = [probe.row() for probe in found]
    labels = ", ".join(map(str, words.classes or ()))
    print(f"\nlogistic probes on {name}" + (f", classes {labels}" if labels else ""))
    print(_text(rows))
    _write(folder / TRANSFER_TABLE, rows)
    print(f"written: {folder / TRANSFER_TABLE}")


def _part(data: Any, split: str, samples: int) -> dict[str, Any]:
    import torch

    from ..tasks.feature_measures import spread_batches

    batches = list(spread_batches(data, split, samples))
    return {key: torch.cat([batch[key] for batch in batches]) for key in ("x", "y")}


def _start(run: Reopened) -> Any:
    """The network of the run's config before training, drawn from the run's seed."""
    import torch

    from .build import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(run.config.get("seed") or 0))
        return build(run.config["model"], "model").eval().to(_device())


def _transfer_data(run: Reopened, name: str) -> Any:
    """The data of a config, set up; ConfigError where there are none of this name, or of other channels."""
    from .build import build
    from .paper import read_yaml

    node = read_yaml(_transfer_file(name))
    seed = {} if "seed" in node else {"seed": 0}
    data: Any = build(node, f"data/{name}", allowed=(), **seed)
    mine, theirs = (some.sizes.get("dim_in") for some in (run.data, data))
    if mine != theirs:
        raise ConfigError(f"--transfer {name}: has {theirs} channels, and {run.folder} was trained on {mine}")
    missing = [size for size in run.data.sizes if size not in data.sizes]
    if missing:
        raise ConfigError(
            f"--transfer {name}: data of another kind than {run.folder}'s, without {', '.join(missing)}"
        )
    data.prepare_data()
    data.setup("fit")
    return data


def _transfer_file(name: str) -> Path:
    from .compose import near, options
    from .schema import config_dir

    path = config_dir() / "data" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"--transfer: there are no data '{name}'" + near(name, options("data")))
    return path


def _try(model: Any, x: Any, name: str) -> None:
    """ConfigError where the network cannot take these samples."""
    import torch

    try:
        with torch.no_grad():
            model.features(x.to(_device()))
    except (RuntimeError, ValueError) as error:
        shape = " x ".join(map(str, x.shape[1:]))
        raise ConfigError(
            f"--transfer {name}: the network does not take samples of {shape}: {error}"
        ) from error


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV of rows that may have different columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with storage("the analysis", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in aligned columns, text to the left; numbers with four digits."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    aligned = [[c.rjust(w) for c, w in zip(line, widths, strict=True)] for line in (columns, *cells)]
    return "\n".join("  ".join((line[0].strip().ljust(widths[0]), *line[1:])) for line in aligned)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
