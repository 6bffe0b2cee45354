"""Two readers of a Delta table that share no code: deltalake, and DuckDB's delta extension.

Each gives the schema as it sees it and the rows as Arrow batches of a bounded size, of one
version of the table.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Iterator, Mapping
from typing import Protocol
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from tests.rig.lake import option

BATCH_ROWS = 50_000
DUCKDB_MEMORY = "1GB"
DUCKDB_THREADS = 2


class TableMissing(Exception):
    """There is no table at this place."""


class Reader(Protocol):
    """One way of reading tables."""

    name: str

    def schema(self, uri: str) -> dict[str, str]:
        """Column name to type, in the table's order; raises TableMissing.

        Types are in Delta's words: ``array<struct<key:string,value:binary>>``.
        """

    def batches(self, uri: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """All rows with the given columns, in that order."""


def reader_named(name: str, options: Mapping[str, str] | None) -> Reader:
    """The reader called "deltalake" or "duckdb"."""
    if name == DeltalakeReader.name:
        return DeltalakeReader(options)
    if name == DuckdbReader.name:
        return DuckdbReader(options)
    raise ValueError(f"there is no reader {name!r}")


class DeltalakeReader:
    """The library that the product writes with."""

    name = "deltalake"

    def __init__(self, options: Mapping[str, str] | None) -> None:
        self._options = dict(options or {})
        self._tables: dict[str, DeltaTable] = {}

    def table(self, uri: str) -> DeltaTable:
        """The table at the version that it had when it was first asked for."""
        if uri not in self._tables:
            try:
                self._tables[uri] = DeltaTable(uri, storage_options=self._options)
            except TableNotFoundError as error:
                raise TableMissing(uri) from error
        return self._tables[uri]

    def schema(self, uri: str) -> dict[str, str]:
        fields = json.loads(self.table(uri).schema().to_json())["fields"]
        return {field["name"]: _delta_type(field["type"]) for field in fields}

    def batches(self, uri: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        dataset = self.table(uri).to_pyarrow_dataset()
        yield from dataset.to_batches(columns=columns, batch_size=BATCH_ROWS)


class DuckdbReader:
    """DuckDB with its delta extension, which is built on another implementation of Delta."""

    name = "duckdb"

    def __init__(self, options: Mapping[str, str] | None) -> None:
        self._connection = _duckdb().cursor()
        self._connection.execute("set timezone = 'UTC'")
        endpoint = option(options, "aws_endpoint_url")
        if endpoint:
            parts = urlsplit(endpoint)
            self._connection.execute(
                "create or replace secret lake (type s3, key_id $key, secret $secret, "
                "region $region, endpoint $endpoint, url_style 'path', use_ssl $ssl)",
                {
                    "key": option(options, "aws_access_key_id"),
                    "secret": option(options, "aws_secret_access_key"),
                    "region": option(options, "aws_region") or "us-east-1",
                    "endpoint": parts.netloc,
                    "ssl": parts.scheme == "https",
                },
            )

    def schema(self, uri: str) -> dict[str, str]:
        try:
            rows = self._connection.execute("describe from delta_scan($uri)", {"uri": uri})
        except duckdb.IOException as error:
            raise TableMissing(f"{uri}: {error}") from error
        return {row[0]: DUCKDB_TYPES.get(row[1], row[1]) for row in rows.fetchall()}

    def batches(self, uri: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        names = ", ".join(f'"{column}"' for column in columns)
        result = self._connection.execute(
            f"select {names} from delta_scan($uri)", {"uri": uri}
        )
        yield from result.to_arrow_reader(BATCH_ROWS)


@functools.cache
def _duckdb() -> duckdb.DuckDBPyConnection:
    """DuckDB with its extensions, loaded once: that takes most of a second.

    Without its cache of files, so that each look is a look at the store.
    """
    connection = duckdb.connect(
        config={
            "memory_limit": DUCKDB_MEMORY,
            "threads": DUCKDB_THREADS,
            "enable_external_file_cache": False,
        }
    )
    for extension in ("httpfs", "delta"):
        connection.execute(f"load '{_extension_file(extension)}'")
    return connection


DUCKDB_TYPES = {
    "BLOB": "binary",
    "VARCHAR": "string",
    "INTEGER": "integer",
    "BIGINT": "long",
    "DATE": "date",
    "TIMESTAMP WITH TIME ZONE": "timestamp",
    'STRUCT("key" VARCHAR, "value" BLOB)[]': "array<struct<key:string,value:binary>>",
}


def _delta_type(value: object) -> str:
    """A type of Delta's JSON schema as one string."""
    if isinstance(value, str):
        return value
    assert isinstance(value, dict)
    if value["type"] == "array":
        return f"array<{_delta_type(value['elementType'])}>"
    if value["type"] == "struct":
        fields = value["fields"]
        inner = (f"{field['name']}:{_delta_type(field['type'])}" for field in fields)
        return f"struct<{','.join(inner)}>"
    return json.dumps(value)


def _extension_file(name: str) -> str:
    """The extension's library in its wheel, for the version of DuckDB that is installed."""
    folder = importlib.resources.files(f"duckdb_extension_{name}").joinpath("extensions")
    return str(folder.joinpath(f"v{duckdb.__version__}", f"{name}.duckdb_extension"))
