import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eigenzoo.data import hub, spec
from eigenzoo.data.parquet import load_images
from eigenzoo.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write_parquet(path, images, labels=LABELS, columns=("image", "label")):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pa.array(
        [{"bytes": data, "path": None} for data in images],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    )
    pq.write_table(pa.table(dict(zip(columns, [image, pa.array(labels, pa.int64())], strict=True))), path)


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A hub set of six images, known by its pixels."""
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))
    digest = sha(PIXELS.tobytes())
    made = spec.DataSpec(
        name="tiny", source="hub", hub_id="nobody/tiny", revision="r1", sizes={"train": 6}, licence="none",
        citation="", url="", layout=spec.PARQUET, columns=("image", "label"), digests={"train": {digest: ""}},
    )  # fmt: skip
    monkeypatch.setitem(spec.SPECS, "tiny", made)
    path = tmp_path / "data" / "tiny" / "train-00000-of-00001.parquet"
    write_parquet(path, [png(p) for p in PIXELS])
    return path


def digests_of(monkeypatch, known):
    import dataclasses

    monkeypatch.setitem(spec.SPECS, "tiny", dataclasses.replace(spec.SPECS["tiny"], digests={"train": known}))


def test_reads_images_in_row_order_and_says_what_it_read(tiny):
    pixels, labels, source = load_images("tiny", "train")
    assert np.array_equal(pixels.squeeze(-1).numpy(), PIXELS)
    assert labels.tolist() == LABELS
    assert source == {"name": "tiny", "part": "train", "revision": "r1", "sha256": sha(PIXELS.tobytes())}
    assert hub.verify("tiny") == [source]


def test_a_limit_reads_the_first_rows(tiny):
    assert np.array_equal(load_images("tiny", "train", 4)[0].squeeze(-1).numpy(), PIXELS[:4])
    with pytest.raises(DataError, match=r"6 rows .*, wanted 7"):
        load_images("tiny", "train", 7)


def test_digest_of_the_file_itself_is_known_too(tiny, monkeypatch):
    digests_of(monkeypatch, {sha(tiny.read_bytes()): ""})
    assert load_images("tiny", "train")[2]["sha256"] == sha(tiny.read_bytes())


def test_a_variant_carries_its_remark(tiny, monkeypatch):
    digests_of(monkeypatch, {sha(PIXELS.tobytes()): "other pixels"})
    source = load_images("tiny", "train")[2]
    assert (source["revision"], source["remark"]) == ("variant", "other pixels")


def test_unknown_digest_names_file_expected_and_found(tiny):
    altered = PIXELS.copy()
    altered[3, 0, 0] ^= 1
    write_parquet(tiny, [png(p) for p in altered])
    with pytest.raises(DataError) as caught:
        load_images("tiny", "train")
    for part in (str(tiny), sha(altered.tobytes()), sha(PIXELS.tobytes())):
        assert part in str(caught.value)


def test_without_a_known_digest_the_found_one_is_recorded_with_a_remark(tiny, monkeypatch):
    digests_of(monkeypatch, {})
    assert "not verified" in hub.verify("tiny")[0]["remark"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:200]), "cannot read"),
        (lambda p: p.write_bytes(b""), "cannot read"),
        (
            lambda p: write_parquet(p, [png(x) for x in PIXELS], columns=("picture", "label")),
            "no column 'image'",
        ),
        (lambda p: write_parquet(p, [], []), "it has no rows"),
        (lambda p: write_parquet(p, [b"no image", *(png(x) for x in PIXELS[1:])]), "row 0: not an image"),
        (
            lambda p: write_parquet(p, [png(PIXELS[0]), png(PIXELS[1][:3])], [0, 1]),
            r"row 1: image of \(3, 4\)",
        ),
    ],
)
def test_damage_is_a_clear_sentence(tiny, monkeypatch, spoil, message):
    digests_of(monkeypatch, {})
    spoil(tiny)
    with pytest.raises(DataError, match=message) as caught:
        load_images("tiny", "train")
    assert "tiny" in str(caught.value) and "\n" not in str(caught.value)


def test_absent_set_names_id_folders_and_command_and_is_quick(tmp_path, monkeypatch):
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path))
    monkeypatch.delenv("EIGENZOO_DATA", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://no-such-host.invalid")
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        load_images("cifar10", "train")
    assert time.monotonic() - start < 10
    for part in (
        "uoft-cs/cifar10",
        str(tmp_path / "data" / "cifar10"),
        "not set",
        "eigenzoo data fetch cifar10",
    ):
        assert part in str(caught.value)
    monkeypatch.setenv("EIGENZOO_DATA", "/no/such/place")
    with pytest.raises(DataError, match="EIGENZOO_DATA is /no/such/place"):
        hub.require("bidmc_hr")
    with pytest.raises(DataError, match="fetch it with"):
        hub.verify("mnist")


def test_a_server_that_never_answers_is_given_up():
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        assert hub.unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.3)
        assert time.monotonic() - start < 2


def test_a_server_that_answers_is_reachable(server):
    assert hub.unreachable(server[1]) == ""
    assert hub.unreachable(f"{server[1]}/no-such-file") == ""


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(DataError, match="known: digits, mnist, cifar10"):
        hub.locate("imagenette")
    with pytest.raises(DataError, match="needs no download"):
        hub.fetch("digits")


@pytest.fixture
def server(tmp_path):
    """A web server over the folder `web`."""
    root = tmp_path / "web"
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        threading.Thread(target=site.serve_forever, args=(0.01,), daemon=True).start()
        yield root, f"http://127.0.0.1:{site.server_address[1]}"
        site.shutdown()


def archive_spec(url, digest):
    return spec.DataSpec(
        name="pack", source="files", revision="1", sizes={}, licence="none", citation="", url=url,
        layout="list.txt", needs=("list.txt",), tree="*/*.wav", urls={"pack.tar.gz": f"{url}/pack.tar.gz"},
        digests={"pack.tar.gz": {digest: ""}},
    )  # fmt: skip


def test_fetch_downloads_verifies_and_unpacks(tmp_path, monkeypatch, server):
    root, url = server
    with tarfile.open(root / "pack.tar.gz", "w:gz") as archive:
        for name, data in (("list.txt", b"a/1.wav"), ("a/1.wav", b"sound")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    digest = sha((root / "pack.tar.gz").read_bytes())
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(spec.SPECS, "pack", archive_spec(url, "0" * 64))
    with pytest.raises(DataError, match="not a known copy"):
        hub.fetch("pack")
    (tmp_path / "data" / "pack" / "pack.tar.gz").unlink()
    monkeypatch.setitem(spec.SPECS, "pack", archive_spec(url, digest))
    folder = hub.fetch("pack")
    assert folder == tmp_path / "data" / "pack" == hub.locate("pack")
    assert (folder / "a" / "1.wav").read_bytes() == b"sound"
    before = hub.verify("pack")[0]["sha256"]
    (folder / "a" / "1.wav").write_bytes(b"longer sound")
    assert hub.verify("pack")[0]["sha256"] != before


def test_a_failed_download_is_said_and_leaves_nothing(tmp_path, monkeypatch, server):
    monkeypatch.setenv("EIGENZOO_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(spec.SPECS, "pack", archive_spec(server[1], "0" * 64))
    with pytest.raises(DataError, match=r"downloading .*pack\.tar\.gz failed: .*404"):
        hub.fetch("pack")
    assert not list((tmp_path / "data" / "pack").iterdir())


def test_every_spec_is_complete():
    for name, known in spec.SPECS.items():
        assert known.name == name and known.licence and known.citation and known.url and known.revision
        assert known.source in ("hub", "files", "manual", "package", "generated")
        assert (known.source == "hub") == bool(known.columns)
        assert set(known.digests) <= {*known.sizes, *known.urls, *known.needs, "all"}
        assert all(len(d) == 64 for part in known.digests.values() for d in part)


@pytest.mark.process
def test_listing_imports_neither_torch_nor_datasets():
    code = (
        "import sys; from eigenzoo.data.hub import list_sets; rows = list_sets();"
        "print(len(rows), [m for m in ('torch', 'datasets', 'lightning') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split(maxsplit=1) == [str(len(spec.SPECS)), "[]\n"]
