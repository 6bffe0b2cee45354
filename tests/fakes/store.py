"""An object store in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

from shared.errors import StorageUnavailable
from tests.fakes.faults import Faults


def refused(operation: str, path: str) -> StorageUnavailable:
    """What any client error becomes."""
    return StorageUnavailable(operation, path, "the twin was told to fail")


class MemoryStore:
    """`ObjectStore` on a dict.  `objects` is what the lake holds."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults = Faults(refused)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """See `ObjectStore`."""
        with self.faults.around("put", path):
            if path in self.objects:
                return False
            self.objects[path] = bytes(data)
        return True

    def put(self, path: str, data: bytes | bytearray) -> None:
        """See `ObjectStore`."""
        with self.faults.around("send", path):
            self.objects[path] = bytes(data)

    def get(self, path: str) -> bytes | None:
        """See `ObjectStore`."""
        with self.faults.around("get", path):
            return self.objects.get(path)

    def open(self, path: str) -> BinaryIO | None:
        """See `ObjectStore`."""
        with self.faults.around("get", path):
            found = self.objects.get(path)
            return None if found is None else io.BytesIO(found)

    def size(self, path: str) -> int | None:
        """See `ObjectStore`."""
        with self.faults.around("head", path):
            found = self.objects.get(path)
            return None if found is None else len(found)

    def list_after(self, prefix: str, after: str = "") -> list[str]:
        """See `ObjectStore`."""
        with self.faults.around("list", prefix):
            return sorted(p for p in self.objects if p.startswith(prefix) and p > after)

    def pages_after(self, prefix: str, after: str = "") -> Iterator[list[str]]:
        """See `ObjectStore`; pages of two."""
        found = self.list_after(prefix, after)
        yield from (found[start:start + 2] for start in range(0, len(found), 2))

    def delete(self, path: str) -> None:
        """See `ObjectStore`."""
        with self.faults.around("delete", path):
            self.objects.pop(path, None)
