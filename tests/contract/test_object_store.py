"""What the service relies on of an object store: memory, a local folder, a real MinIO."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from obstore.store import LocalStore

import shared.object_store as module
from shared.errors import StorageUnavailable
from shared.naming import LOG_PREFIX, record_path
from shared.object_store import ObjectStore, Store, open_store
from tests.fakes.config import make_config
from tests.fakes.store import MemoryStore

MIB = 1024 * 1024


@pytest.fixture(params=["memory", "folder", "minio"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """Give an empty store of each kind."""
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "folder":
        yield Store(LocalStore(prefix=tmp_path), tmp_path)
    else:
        minio = request.getfixturevalue("minio")
        environ = minio.environment(request.getfixturevalue("lake_prefix"))
        yield open_store(make_config(environ=environ).lake)


def test_store_creates_an_object_once_and_keeps_the_first(store: ObjectStore) -> None:
    """The decision of a cycle and the fence both rest on this."""
    assert store.put_if_absent("a/b.json", b"first")
    assert not store.put_if_absent("a/b.json", b"second")
    assert store.get("a/b.json") == b"first"
    assert store.size("a/b.json") == 5


def test_store_answers_none_for_what_is_not_there(store: ObjectStore) -> None:
    """Absence is an answer; only a store that does not answer is an error."""
    assert store.get("nothing") is None
    assert store.size("nothing") is None
    assert store.list_after("nothing/") == []


def test_store_reads_an_object_in_parts(store: ObjectStore) -> None:
    """From wherever, in any order, also what is larger than one request asks for."""
    content = bytes(range(256)) * 4096
    store.put("large", content)
    source = store.open("large")
    assert source is not None
    assert source.seek(-8, os.SEEK_END) == len(content) - 8
    assert source.read(100) == content[-8:]
    assert source.seek(1000) == source.tell() == 1000
    assert source.read(300_000) == content[1000:301_000]
    assert source.tell() == 301_000
    assert source.read() == content[301_000:]
    assert source.read(5) == b""
    assert store.open("nothing") is None


def test_store_lists_in_order_and_behind_a_path(store: ObjectStore) -> None:
    """The log is read by listing behind the last known record."""
    for number in (2, 10, 1):
        store.put_if_absent(record_path(number), b"{}")
    store.put_if_absent("_bronze/tables/x.json", b"{}")
    assert store.list_after(LOG_PREFIX) == [record_path(n) for n in (1, 2, 10)]
    assert store.list_after(LOG_PREFIX, record_path(1)) == [record_path(n) for n in (2, 10)]
    assert store.list_after(LOG_PREFIX, record_path(10)) == []


def test_store_deletes_and_a_second_time_is_no_error(store: ObjectStore) -> None:
    """Trimming may be repeated after a lost answer."""
    store.put_if_absent("a", b"x")
    store.delete("a")
    store.delete("a")
    assert store.get("a") is None
    assert store.put_if_absent("a", b"y")


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_store_holds_a_put_object_whole(
    store: ObjectStore, size: int, kind: type[bytes] | type[bytearray]
) -> None:
    """Files are sent in one request, small or large, from the buffer they were encoded into."""
    content = kind(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    store.put("t/part.parquet", content)
    assert store.size("t/part.parquet") == size
    assert store.get("t/part.parquet") == content


@pytest.mark.parametrize("put", [Store.put, Store.put_if_absent])
def test_folder_holds_an_object_on_the_disk_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Callable[[Store, str, bytes], object]
) -> None:
    """Kafka's offsets move next; a power cut must not take a file or a log entry back."""
    synced: list[str] = []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    put(Store(LocalStore(prefix=tmp_path), tmp_path), "t/_delta_log/0.json", b"{}")
    entry = tmp_path / "t" / "_delta_log" / "0.json"
    assert synced == [str(path) for path in (entry, *list(entry.parents)[:3])]


def test_folder_names_the_path_of_a_failed_operation(tmp_path: Path) -> None:
    """An operator must see what could not be done, and where."""
    store = Store(LocalStore(prefix=tmp_path), tmp_path)
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(StorageUnavailable, match="put taken/below: "):
        store.put_if_absent("taken/below", b"x")


@pytest.fixture(params=["folder", "minio"])
def real_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Give an empty one of each kind that the keeper works on."""
    if request.param == "folder":
        return Store(LocalStore(prefix=tmp_path), tmp_path)
    minio = request.getfixturevalue("minio")
    environ = minio.environment(request.getfixturevalue("lake_prefix"))
    return open_store(make_config(environ=environ).lake)


@pytest.mark.parametrize("size", [0, 7, 12 * MIB + 1])
def test_a_large_object_is_there_when_it_is_whole(real_store: Store, size: int) -> None:
    """In parts or not, nobody sees half of it."""
    content = os.urandom(size)
    with real_store.writing("t/large") as sink:
        for start in range(0, size, MIB):
            assert sink.write(content[start:start + MIB])
        assert sink.tell() == size
        assert real_store.size("t/large") is None
    assert real_store.get("t/large") == content


def test_a_large_object_that_failed_is_not_there(real_store: Store) -> None:
    """Whatever was sent of it."""
    with pytest.raises(RuntimeError, match="reading failed"), real_store.writing("t/l") as sink:
        sink.write(os.urandom(12 * MIB))
        raise RuntimeError("reading failed")
    assert real_store.size("t/l") is None
    assert real_store.list_after("t/") == []


def test_folders_are_the_next_segments(real_store: Store) -> None:
    """A table's dates, without its thousands of files."""
    for path in ("t/d=1/a", "t/d=1/b", "t/d=2/c/d", "t/e"):
        real_store.put(path, b"x")
    assert real_store.folders("t/") == ["d=1", "d=2"]
    assert real_store.folders("none/") == []


def test_a_walk_sees_every_object_and_its_age(
    real_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some at a time; in the order of their names where the store says so."""
    monkeypatch.setattr(module, "LIST_CHUNK", 2)
    for name in "cabed":
        real_store.put(f"t/{name}", name.encode() * 3)
    real_store.put("u/f", b"x")
    chunks = list(real_store.walk("t/"))
    assert max(map(len, chunks)) <= 2
    found = [one for chunk in chunks for one in chunk]
    assert sorted((one.path, one.size) for one in found) == [(f"t/{name}", 3) for name in "abcde"]
    if real_store.lists_in_order:
        assert [one.path for one in found] == [f"t/{name}" for name in "abcde"]
    assert all(abs(one.modified_s - time.time()) < 60 for one in found)


def test_many_are_deleted_at_once_and_again_without_error(real_store: Store) -> None:
    """Somebody else may have deleted some of them meanwhile."""
    paths = [f"t/{number}" for number in range(5)]
    for path in paths:
        real_store.put(path, b"x")
    real_store.put("t/stays", b"x")
    real_store.delete(paths[2])
    real_store.delete_all(paths)
    real_store.delete_all(paths)
    assert real_store.list_after("t/") == ["t/stays"]
