"""The lake as plain files, read through Arrow's file systems: no code shared with the product.

The names in here are written out a second time on purpose: they are a contract with other tools,
and a judge that took them from the product would not see them change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from pyarrow import fs

RECORDS = "_bronze/log"
READERS = 8
"""Files read at the same time; each is small, and most of the time is the way to the store."""

COMMIT_NAME = re.compile(r"(\d{20})\.json")


def bronze_table(topic: str) -> str:
    """The folder of a topic's bronze table."""
    return f"bronze_{topic}"


def dlq_table(topic: str) -> str:
    """The folder of a topic's dead letter table."""
    return f"dlq_bronze_{topic}"


def table_uri(lake_uri: str, table: str) -> str:
    """Where a table lies, for readers that take a URI or a folder."""
    return f"{lake_uri.rstrip('/')}/{table}"


def option(options: Mapping[str, str] | None, name: str) -> str | None:
    """A storage option by its lower-case name, however it is written."""
    wanted = {name, name.removeprefix("aws_")}
    for key, value in (options or {}).items():
        if key.lower() in wanted:
            return value
    return None


def open_lake(lake_uri: str, options: Mapping[str, str] | None = None) -> fs.FileSystem:
    """A file system whose root is the lake.

    Args:
        lake_uri: ``s3://bucket/prefix`` or a folder.
        options: as deltalake takes them; AWS_ENDPOINT_URL and the like.
    """
    if not lake_uri.startswith("s3://"):
        return fs.SubTreeFileSystem(lake_uri.removeprefix("file://"), fs.LocalFileSystem())
    parts = urlsplit(lake_uri)
    endpoint = option(options, "aws_endpoint_url") or ""
    store = fs.S3FileSystem(
        access_key=option(options, "aws_access_key_id"),
        secret_key=option(options, "aws_secret_access_key"),
        region=option(options, "aws_region") or "us-east-1",
        scheme=urlsplit(endpoint).scheme or "https",
        endpoint_override=urlsplit(endpoint).netloc or None,
    )
    return fs.SubTreeFileSystem(f"{parts.netloc}{parts.path}".rstrip("/"), store)


@dataclass(slots=True)
class Kept:
    """What earlier looks have read of files that never change; each look adds what is new.

    records: of the log, also those trimmed meanwhile: commits of long runs are held against them.
    commits: per table; None reads all of them anew at every look.
    files: data files that were found right; None looks at all of them at every look.
    """

    records: dict[int, bytes] = field(default_factory=dict)
    commits: dict[str, dict[int, bytes]] | None = None
    files: set[str] | None = None


def read_numbered(
    lake: fs.FileSystem, folder: str, kept: dict[int, bytes] | None = None
) -> dict[int, bytes]:
    """The content of every ``{number:020d}.json`` in a folder, by number, in order.

    kept: what was read before; it is not read again, and is given also where it was deleted.
    """
    known = {} if kept is None else kept
    new = [number for number in list_numbers(lake, folder) if number not in known]
    known.update(read_numbers(lake, folder, new))
    return dict(sorted(known.items()))


def list_numbers(lake: fs.FileSystem, folder: str) -> list[int]:
    """The numbers of the ``{number:020d}.json`` in a folder, in order; none without folder."""
    found = lake.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    matches = (COMMIT_NAME.fullmatch(info.base_name) for info in found)
    return sorted(int(match[1]) for match in matches if match)


def read_numbers(lake: fs.FileSystem, folder: str, numbers: Iterable[int]) -> dict[int, bytes]:
    """The content of the given numbers; one that vanished meanwhile is left out."""

    def read(number: int) -> tuple[int, bytes | None]:
        try:
            with lake.open_input_stream(f"{folder}/{number:020d}.json") as stream:
                return number, stream.read()
        except FileNotFoundError:
            return number, None

    with ThreadPoolExecutor(READERS) as pool:
        return {number: data for number, data in pool.map(read, numbers) if data is not None}


@dataclass(slots=True)
class Commit:
    """One version of a table, from its JSON."""

    version: int
    adds: list[dict[str, Any]] = field(default_factory=list)
    removes: list[dict[str, Any]] = field(default_factory=list)
    txns: list[tuple[str, int]] = field(default_factory=list)
    protocol: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None

    @property
    def paths(self) -> set[str]:
        """The files it adds, with escapes undone."""
        return {unquote(str(add["path"])) for add in self.adds}


def read_commits(
    lake: fs.FileSystem, table: str, kept: dict[int, bytes] | None = None
) -> list[Commit]:
    """Every commit whose JSON is still there, in order; none when there is no such table.

    kept: as `read_numbered` takes it.
    """
    found = read_numbered(lake, f"{table}/_delta_log", kept)
    return [_commit(number, data) for number, data in found.items()]


def _commit(version: int, data: bytes) -> Commit:
    commit = Commit(version)
    for line in data.splitlines():
        action = json.loads(line)
        if "add" in action:
            commit.adds.append(action["add"])
        elif "remove" in action:
            commit.removes.append(action["remove"])
        elif "txn" in action:
            commit.txns.append((action["txn"]["appId"], int(action["txn"]["version"])))
        elif "protocol" in action:
            commit.protocol = action["protocol"]
        elif "metaData" in action:
            commit.metadata = action["metaData"]
    return commit
