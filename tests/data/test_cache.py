import logging
import threading

import pytest
import torch

from eigenzoo.data.cache import cache_dir, cached
from eigenzoo.errors import StorageError


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "cache"))


class Maker:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {
            "x": torch.arange(12.0).reshape(3, 4).T,
            "y": torch.tensor([1, 2]),
            "z": torch.tensor(1.5).bfloat16(),
        }


def files():
    return sorted(p.name for p in cache_dir().iterdir() if p.suffix != ".lock")


def test_made_once_and_read_back_bit_for_bit():
    make = Maker()
    first, second = cached({"name": "waves", "n": 3}, make), cached({"n": 3, "name": "waves"}, make)
    assert make.calls == 1
    for name, tensor in make().items():
        assert torch.equal(second[name], tensor) and second[name].dtype == tensor.dtype
        assert torch.equal(first[name], tensor)
    assert len(files()) == 1 and files()[0].startswith("waves-")


@pytest.mark.parametrize("other", [{"name": "waves", "n": 4}, {"name": "waves", "n": 3, "m": 0}])
def test_another_key_is_another_file(other):
    make = Maker()
    cached({"name": "waves", "n": 3}, make)
    cached(other, make)
    assert make.calls == 2 and len(files()) == 2


@pytest.mark.parametrize("spoil", ["cut", "flip", "empty"])
def test_a_damaged_file_is_said_and_made_again(spoil, caplog):
    make = Maker()
    cached({"n": 1}, make)
    path = cache_dir() / files()[0]
    data = bytearray(path.read_bytes())
    if spoil == "flip":
        data[-1] ^= 1
    path.write_bytes({"cut": data[:-5], "flip": data, "empty": b""}[spoil])
    with caplog.at_level(logging.WARNING):
        again = cached({"n": 1}, make)
    assert make.calls == 2 and torch.equal(again["y"], make()["y"])
    assert len(caplog.records) == 1 and str(path) in caplog.text
    assert cached({"n": 1}, make) and make.calls == 3


def test_two_at_once_make_it_once():
    gate, make = threading.Event(), Maker()

    def slow():
        gate.wait(2)
        return make()

    threads = [threading.Thread(target=cached, args=({"n": 2}, slow)) for _ in range(3)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert make.calls == 1


def test_a_failure_leaves_no_file():
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cached({"n": 5}, fail)
    assert files() == []


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EIGENZOO_CACHE", str(tmp_path / "file" / "sub"))
    with pytest.raises(StorageError, match="EIGENZOO_CACHE"):
        cached({"n": 1}, Maker())


def test_default_folder_is_the_user_s_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("EIGENZOO_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "eigenzoo"
