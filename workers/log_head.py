"""Pure: what a table's log says beside its files: protocol, metadata, and positions.

They say it in the same form in every version of the Delta protocol, so the table of a newer one is
told by name instead of not being understood.
https://github.com/delta-io/delta/blob/master/PROTOCOL.md#actions has their form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from workers.log_entry import actions_of, unknown_features, whole_number

KINDS = ("protocol", "metaData", "txn")
"""The actions that count here, as entries and checkpoints name them."""


class LogHead:
    """Built up by actions in the order of the log.

    protocol, metadata: the last action of that kind, None before one came.  fields: the table's
    columns in Delta's form.  txns: the last action of each app id.
    """

    def __init__(self) -> None:
        self.protocol: Mapping[str, Any] | None = None
        self.metadata: Mapping[str, Any] | None = None
        self.fields: list[dict[str, Any]] = []
        self.txns: dict[str, Mapping[str, Any]] = {}

    def apply_entry(self, entry: bytes) -> None:
        """Take in the next entry.  Raises ValueError, KeyError, TypeError or AttributeError for
        damage, also in what does not count here: nobody else could read the table any more."""
        for kind, action in actions_of(entry):
            self.apply(kind, action)

    def apply(self, kind: str, action: Mapping[str, Any]) -> None:
        """Take in one action; other kinds than KINDS change nothing.  Raises as above."""
        if kind == "protocol":
            self.protocol = {**action, "minWriterVersion": _number(action, "minWriterVersion")}
        elif kind == "metaData":
            self.metadata, self.fields = action, json.loads(action["schemaString"])["fields"]
        elif kind == "txn":
            self.txns[str(action["appId"])] = {**action, "version": _number(action, "version")}

    def position(self, app_id: str) -> int | None:
        """The version stored under `app_id`."""
        found = self.txns.get(app_id)
        return None if found is None else found["version"]

    @property
    def is_complete(self) -> bool:
        """Whether the log has a beginning."""
        return self.protocol is not None and self.metadata is not None

    @property
    def configuration(self) -> dict[str, str]:
        """The table's properties."""
        found = dict((self.metadata or {}).get("configuration") or {})
        return {str(name): str(value) for name, value in found.items()}

    @property
    def partition_columns(self) -> list[str]:
        """Names of the columns that the table is partitioned by, in order."""
        return [str(name) for name in (self.metadata or {}).get("partitionColumns") or ()]

    def unknown_features(self) -> list[str]:
        """What the table asks of its writers that is not done here."""
        protocol = self.protocol or {}
        return unknown_features(
            protocol.get("minWriterVersion", 0), protocol.get("writerFeatures"),
            (*self.configuration, *_properties(self.fields)))


def _number(action: Mapping[str, Any], name: str) -> int:
    found = whole_number(action[name])
    if found is None:
        raise ValueError(f"{name} is {action[name]!r}")
    return found


def _properties(kind: Any) -> Iterator[str]:
    """Names of the properties of columns and of fields inside them."""
    if isinstance(kind, dict):
        yield from kind.get("metadata") or ()
        for name, part in kind.items():
            if name != "metadata":
                yield from _properties(part)
    elif isinstance(kind, list):
        for part in kind:
            yield from _properties(part)
