"""The object store: the only place that imports obstore.

What the service asks of a store is little: create an object if it is absent, put, read, list and
delete.  Every object is sent whole, in one request, but for the keeper's large ones (`writing`): of
uploads in parts, a killed process leaves behind what no listing shows.  The same promises hold for
S3 and for a local folder; the in-memory twin of the tests passes the same suite.

A folder is written through to the disk (fsync of file and folders) where the protocol relies on
it: object_store itself creates atomically but never syncs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast

import obstore
from obstore import exceptions
from obstore.store import LocalStore, S3Store

from shared.config import LakeConfig
from shared.errors import StorageUnavailable

CAUSE_CHARS_MAX = 300
LIST_CHUNK = 1000
PART_BYTES = 5 * 1024 * 1024
"""Of a large object: the least that S3 takes.  Two of them are in memory while it is written."""

READ_BYTES = 256 * 1024
"""Of an object that is read in parts: what one request asks for."""

_COLOURS = re.compile(r"\x1b\[\d+m")
_STORES_ANSWER = re.compile(
    r"status code[:\s↳]*(\d{3}[^:<\n]*)(?:.*?<Code>([^<]{1,60})</Code>)?", re.DOTALL)
"""The status and S3's own code, which stand behind the paths in the text and would be cut off."""

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing shows it; modified_s: Unix time by the store's clock."""

    path: str
    size: int
    modified_s: float


class ObjectStore(Protocol):
    """Objects by path, relative to the lake.  Every method raises `StorageUnavailable`."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create an object; False when the path is taken.  After an error it may exist."""

    def put(self, path: str, data: Buffer) -> None:
        """Create an object at a path that is the caller's alone.  After an error it may exist."""

    def get(self, path: str) -> bytes | None:
        """An object's bytes, None when there is none."""

    def open(self, path: str) -> BinaryIO | None:
        """An object to be read in parts, from wherever; None when there is none."""

    def size(self, path: str) -> int | None:
        """An object's size in bytes, None when there is none."""

    def list_after(self, prefix: str, after: str = "") -> list[str]:
        """Paths that begin with `prefix` and sort behind `after`, in order."""

    def pages_after(self, prefix: str, after: str = "") -> Iterator[list[str]]:
        """The same paths some at a time, of a listing that may be longer than memory allows; in
        order on a store, in any order on a disk."""

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""


def open_store(lake: LakeConfig) -> Store:
    """The store of the configured lake; makes no request."""
    if lake.is_s3:
        return Store(S3Store.from_url(lake.uri, **lake.object_store_options()))
    root = Path(lake.uri)
    return Store(LocalStore(prefix=root, mkdir=True), root)


class Store:
    """`ObjectStore` on obstore; `root` is the folder of a local lake."""

    def __init__(self, store: Any, root: Path | None = None) -> None:
        self._store = store
        self._root = root

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """See `ObjectStore`."""
        def put() -> bool:
            try:
                obstore.put(self._store, path, data, mode="create", use_multipart=False)
            except exceptions.AlreadyExistsError:
                return False
            self._sync_file(path)
            return True
        return _named("put", path, put)

    def put(self, path: str, data: Buffer) -> None:
        """See `ObjectStore`."""
        def put() -> None:
            obstore.put(self._store, path, data, use_multipart=False)
            self._sync_file(path)
        _named("put", path, put)

    @contextmanager
    def writing(self, path: str) -> Iterator[LargeObject]:
        """Create an object of any size at a path that is the caller's alone.

        It is there when the block has ended, and not at all when something is raised in it.
        """
        def begin() -> Any:
            return obstore.open_writer(
                self._store, path, buffer_size=PART_BYTES, max_concurrency=1)
        large = LargeObject(_named("put", path, begin), path)
        yield large
        large.finish()
        _named("put", path, lambda: self._sync_file(path))

    def get(self, path: str) -> bytes | None:
        """See `ObjectStore`."""
        def get() -> bytes | None:
            try:
                return bytes(obstore.get(self._store, path).bytes())
            except FileNotFoundError:
                return None
        return _named("get", path, get)

    def open(self, path: str) -> BinaryIO | None:
        """See `ObjectStore`."""
        def begin() -> Any:
            try:
                return obstore.open_reader(self._store, path, buffer_size=READ_BYTES)
            except FileNotFoundError:
                return None
        reader = _named("get", path, begin)
        return None if reader is None else cast(BinaryIO, ReadObject(reader, path))

    def size(self, path: str) -> int | None:
        """See `ObjectStore`."""
        def head() -> int | None:
            try:
                return int(obstore.head(self._store, path)["size"])
            except FileNotFoundError:
                return None
        return _named("head", path, head)

    def modified_unix_s(self, path: str) -> float | None:
        """When an object was written, by the store's clock: S3 tells it in whole seconds."""
        def head() -> float | None:
            try:
                return obstore.head(self._store, path)["last_modified"].timestamp()
            except FileNotFoundError:
                return None
        return _named("head", path, head)

    def list_after(self, prefix: str, after: str = "") -> list[str]:
        """See `ObjectStore`."""
        return sorted(path for page in self.pages_after(prefix, after) for path in page)

    def pages_after(self, prefix: str, after: str = "") -> Iterator[list[str]]:
        """See `ObjectStore`."""
        for chunk in self._chunks(prefix, after):
            yield [meta["path"] for meta in chunk]

    def _chunks(self, prefix: str, after: str = "") -> Iterator[Any]:
        chunks = iter(_named("list", prefix, lambda: obstore.list(
            self._store, prefix=prefix, offset=after or None, chunk_size=LIST_CHUNK)))
        while chunk := _named("list", prefix, lambda: next(chunks, None)):
            yield chunk

    def sizes(self, prefix: str) -> dict[str, int]:
        """Path -> bytes of every object below a prefix."""
        return {meta["path"]: int(meta["size"])
                for chunk in self._chunks(prefix) for meta in chunk}

    def folders(self, prefix: str) -> list[str]:
        """The next path segments below a prefix that ends with `/`, in order."""
        def listing() -> list[str]:
            found = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
            return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)
        return _named("list", prefix, listing)

    @property
    def lists_in_order(self) -> bool:
        """Whether a walk meets objects in the order of their names; in a folder it does not."""
        return self._root is None

    def walk(self, prefix: str) -> Iterator[list[StoredObject]]:
        """Every object below a prefix, some at a time."""
        for chunk in self._chunks(prefix):
            yield [StoredObject(meta["path"], int(meta["size"]), meta["last_modified"].timestamp())
                   for meta in chunk]

    def delete_all(self, paths: list[str]) -> None:
        """Remove objects, LIST_CHUNK at most: one request to a store."""
        def delete() -> None:
            try:
                obstore.delete(self._store, paths)
            except FileNotFoundError:
                # Somebody else is at it; on S3 that is no error.
                for path in paths:
                    self.delete(path)
        _named("delete", paths[0], delete)

    def delete(self, path: str) -> None:
        """See `ObjectStore`."""
        def delete() -> None:
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError:
                return
        _named("delete", path, delete)

    def _sync_file(self, path: str) -> None:
        if self._root is None:
            return
        file = self._root / path
        _fsync(file)
        for folder in file.relative_to(self._root).parents:
            _fsync(self._root / folder)


class LargeObject:
    """Bytes on their way into an object, which is not there yet."""

    closed = False

    def __init__(self, writer: Any, path: str) -> None:
        self._writer, self._path, self._size = writer, path, 0

    def write(self, data: Buffer) -> int:
        """Take the next bytes."""
        _named("put", self._path, lambda: self._writer.write(data))
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        """How many there were."""
        return self._size

    def flush(self) -> None:
        """Nothing: parts are sent when they are full."""

    def close(self) -> None:
        """Nothing: whoever has begun the object ends it."""

    def finish(self) -> None:
        """Make it an object."""
        _named("put", self._path, self._writer.close)


class ReadObject:
    """An object that is read in parts, as a file."""

    closed = False

    def __init__(self, reader: Any, path: str) -> None:
        self._reader, self._path = reader, path

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes from where it stands, all of them without it."""
        return _named("get", self._path, lambda: bytes(
            self._reader.readall() if size < 0 else self._reader.read(size)))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Stand elsewhere."""
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        """Where it stands."""
        return int(self._reader.tell())

    def close(self) -> None:
        """Nothing: there is no connection of its own."""


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _named(operation: str, path: str, action: Callable[[], T]) -> T:
    """Run a store operation; whatever it raises becomes `StorageUnavailable`."""
    try:
        return action()
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise StorageUnavailable(operation, path, brief(error)) from error


def brief(error: BaseException) -> str:
    """What the store said, then the first line of the client library's error; no debug dump."""
    text = _COLOURS.sub("", str(error)).strip()
    first = (text.splitlines() or [type(error).__name__])[0]
    answer = _STORES_ANSWER.search(text)
    said = ": ".join(part.strip() for part in answer.groups() if part) if answer else ""
    return (f"{said}; {first}" if said else first)[:CAUSE_CHARS_MAX]
