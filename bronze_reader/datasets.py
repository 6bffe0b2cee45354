"""Delta tables as Arrow datasets, on Arrow's own file systems where that can be.

The one that deltalake brings along calls Python from Arrow's threads.  Up to Python 3.13 one of
these may still be at it when the program ends, which then aborts, its work done: 4 of 40 runs on a
busy machine, none of 120 with these.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import pyarrow.dataset as ds
import pyarrow.fs as fs
from deltalake import DeltaTable

_UNDERSTOOD = frozenset({
    "access_key_id", "secret_access_key", "session_token", "region", "endpoint_url", "allow_http"})


def dataset_of(table: DeltaTable, uri: str, options: Mapping[str, str]) -> ds.Dataset:
    """The table at its version; uri: where it lies; options: as deltalake takes them."""
    return table.to_pyarrow_dataset(filesystem=_file_system(uri, options))


def _file_system(uri: str, options: Mapping[str, str]) -> fs.FileSystem | None:
    """One whose root is the table; None where an option means something to deltalake alone."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return fs.SubTreeFileSystem(uri.removeprefix("file://"), fs.LocalFileSystem())
    given = {name.lower().removeprefix("aws_"): value for name, value in options.items()}
    if parts.scheme != "s3" or not {"access_key_id", "secret_access_key"} <= given.keys() \
            or not given.keys() <= _UNDERSTOOD:
        return None
    endpoint = urlsplit(given.get("endpoint_url", ""))
    store = fs.S3FileSystem(
        access_key=given["access_key_id"], secret_key=given["secret_access_key"],
        session_token=given.get("session_token"), region=given.get("region", "us-east-1"),
        scheme=endpoint.scheme or "https", endpoint_override=endpoint.netloc or None)
    return fs.SubTreeFileSystem(f"{parts.netloc}{parts.path}", store)
