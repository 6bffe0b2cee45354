"""What the service relies on of an object store: memory, a local folder, a real MinIO."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from obstore.store import LocalStore

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
