"""The object store: the only place that imports obstore.

What the service asks of a store is little: create an object if it is absent, put, read, list and
delete.  Every object is sent whole, in one request: there are no uploads in parts, which a killed
process would leave behind where no listing shows them.  The same promises hold for S3 and for a
local folder; the in-memory twin of the tests passes the same suite.

A folder is written through to the disk (fsync of file and folders) where the protocol relies on
it: object_store itself creates atomically but never syncs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import obstore
from obstore import exceptions
from obstore.store import LocalStore, S3Store

from shared.config import LakeConfig
from shared.errors import StorageUnavailable

CAUSE_CHARS_MAX = 300
LIST_CHUNK = 1000

_COLOURS = re.compile(r"\x1b\[\d+m")
_STORES_ANSWER = re.compile(
    r"status code[:\s↳]*(\d{3}[^:<\n]*)(?:.*?<Code>([^<]{1,60})</Code>)?", re.DOTALL)
"""The status and S3's own code, which stand behind the paths in the text and would be cut off."""

T = TypeVar("T")
Buffer = bytes | bytearray


class ObjectStore(Protocol):
    """Objects by path, relative to the lake.  Every method raises `StorageUnavailable`."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create an object; False when the path is taken.  After an error it may exist."""

    def put(self, path: str, data: Buffer) -> None:
        """Create an object at a path that is the caller's alone.  After an error it may exist."""

    def get(self, path: str) -> bytes | None:
        """An object's bytes, None when there is none."""

    def size(self, path: str) -> int | None:
        """An object's size in bytes, None when there is none."""

    def list_after(self, prefix: str, after: str = "") -> list[str]:
        """Paths that begin with `prefix` and sort behind `after`, in order."""

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

    def get(self, path: str) -> bytes | None:
        """See `ObjectStore`."""
        def get() -> bytes | None:
            try:
                return bytes(obstore.get(self._store, path).bytes())
            except FileNotFoundError:
                return None
        return _named("get", path, get)

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
        def listing() -> list[str]:
            chunks = obstore.list(
                self._store, prefix=prefix, offset=after or None, chunk_size=LIST_CHUNK)
            return sorted(meta["path"] for chunk in chunks for meta in chunk)
        return _named("list", prefix, listing)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Path -> bytes of every object below a prefix."""
        def listing() -> dict[str, int]:
            chunks = obstore.list(self._store, prefix=prefix, chunk_size=LIST_CHUNK)
            return {meta["path"]: int(meta["size"]) for chunk in chunks for meta in chunk}
        return _named("list", prefix, listing)

    def oldest(self, prefix: str, limit: int) -> dict[str, float]:
        """Path -> when it was written, in Unix seconds by the store's clock, of the first `limit`
        objects below a prefix in the order of their names.  S3 answers with one request."""
        def listing() -> dict[str, float]:
            chunks = obstore.list(self._store, prefix=prefix, chunk_size=limit)
            first = next(iter(chunks), []) if self._root is None else [
                meta for chunk in chunks for meta in chunk]
            found = {meta["path"]: meta["last_modified"].timestamp() for meta in first}
            return dict(sorted(found.items())[:limit])
        return _named("list", prefix, listing)

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
