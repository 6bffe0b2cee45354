"""Dead letters as text for people and as JSON for machines.  Pure.

Content and headers are whatever somebody sent: what a terminal would obey is shown in escapes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from shared.text import cut, printable
from tools.dead_letters import Group, Seen, fingerprint, normalised
from tools.words import many

GROUPS_SHOWN_MAX = 100
EXAMPLE_CHARS_MAX = 80
AROUND_BYTES = 30
"""Shown on each side of the place where a value is wrong."""

GROUP_HEADINGS = ("topic", "fingerprint", "class", "open", "all", "first", "last", "example")
STATS_HEADINGS = ("topic", "dead letters", "open", "replayed", "by class", "first", "last")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns below their headings."""
    cells = [headings, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells)


def groups_text(groups: Sequence[tuple[str, str, Group]]) -> str:
    """One line for each group; beyond GROUPS_SHOWN_MAX they are counted."""
    shown = table(GROUP_HEADINGS, [
        (topic, word, group.last.error_class, str(group.open), str(group.count),
         _when(group.first), _when(group.last), cut(group.last.error_message, EXAMPLE_CHARS_MAX))
        for topic, word, group in groups[:GROUPS_SHOWN_MAX]])
    rest = len(groups) - GROUPS_SHOWN_MAX
    return f"{shown}\nand {many(rest, 'further group')}; --json has all" if rest > 0 else shown


def stats_text(groups: Sequence[tuple[str, str, Group]]) -> str:
    """One line for each topic."""
    return table(STATS_HEADINGS, [
        (topic, str(group.count), str(group.open), str(group.count - group.open),
         ", ".join(f"{name} {count}" for name, count in group.classes.most_common()),
         _when(group.first), _when(group.last))
        for topic, _, group in groups])


def _when(seen: Seen) -> str:
    at = seen.at.strftime("%Y-%m-%d %H:%M:%S") if seen.at is not None else "?"
    return f"{at} ({seen.partition}:{seen.offset})"


def group_fact(topic: str, word: str, group: Group) -> Mapping[str, object]:
    """A group for JSON; keys are an interface (docs/tools.md)."""
    return {"topic": topic, "fingerprint": word, "error_class": group.last.error_class,
            "error": normalised(group.last.error_message), "count": group.count,
            "open": group.open, "first": group.first.as_fact, "last": group.last.as_fact,
            "example": group.last.error_message}


def stats_fact(topic: str, group: Group) -> Mapping[str, object]:
    """A topic for JSON; keys are an interface."""
    return {"topic": topic, "count": group.count, "open": group.open,
            "replayed": group.count - group.open, "error_classes": dict(group.classes),
            "first": group.first.as_fact, "last": group.last.as_fact}


def letter_text(topic: str, row: Mapping[str, Any], replay: int | None) -> str:
    """One dead letter whole, a line for each thing, its wrong place marked."""
    told = [
        ("topic", printable(topic)),
        ("partition", str(row["_kafka_partition"])), ("offset", str(row["_kafka_offset"])),
        ("timestamp", _moment(row["_kafka_timestamp"])),
        ("ingested", f"{_moment(row['_ingested_at'])} by {row['service_version']}"),
        ("error", printable(f"{row['error_class']}: {row['error_message']}")),
        ("fingerprint", fingerprint(row["error_class"] or "", row["error_message"] or "")),
        ("replayed", "no" if replay is None else f"yes, by replay {replay}"),
        ("key", as_shown(row["key"])),
        *((f"header {printable(part['key'])}", as_shown(part["value"]))
          for part in row["headers"] or ()),
        ("value", as_shown(row["value"]))]
    if row["error_position"] is not None and row["value"] is not None:
        told.append((f"at byte {row['error_position']}",
                     marked(row["value"], row["error_position"])))
    width = max(len(name) for name, _ in told)
    return "\n".join(f"{name:{width}}  {text}" for name, text in told)


def _moment(at: datetime | None) -> str:
    return "none" if at is None else at.isoformat()


def as_shown(value: bytes | None) -> str:
    """Bytes as text that a terminal only prints: UTF-8 where it is, the rest in escapes."""
    if value is None:
        return "null"
    if not value:
        return "empty"
    return printable(value.decode(errors="backslashreplace"))


def marked(value: bytes, position: int) -> str:
    """What is around a byte of a value, and the byte between marks."""
    at = min(max(position, 0), len(value))
    before, after = value[max(0, at - AROUND_BYTES):at], value[at + 1:at + 1 + AROUND_BYTES]
    here = as_shown(value[at:at + 1]) if at < len(value) else "end"
    return (f"{'…' if at > AROUND_BYTES else ''}{as_shown(before) if before else ''}"
            f" >>>{here}<<< {as_shown(after) if after else ''}"
            f"{'…' if at + 1 + AROUND_BYTES < len(value) else ''}")


def letter_fact(topic: str, row: Mapping[str, Any], replay: int | None) -> Mapping[str, object]:
    """A dead letter for JSON: bytes as base64."""
    return {
        "topic": topic, "partition": row["_kafka_partition"], "offset": row["_kafka_offset"],
        "timestamp": _fact(row["_kafka_timestamp"]), "ingested_at": _fact(row["_ingested_at"]),
        "service_version": row["service_version"], "error_class": row["error_class"],
        "error_message": row["error_message"], "error_position": row["error_position"],
        "fingerprint": fingerprint(row["error_class"] or "", row["error_message"] or ""),
        "replay": replay, "key_base64": _base64(row["key"]),
        "value_base64": _base64(row["value"]),
        "headers": None if row["headers"] is None else [
            {"key": part["key"], "value_base64": _base64(part["value"])}
            for part in row["headers"]]}


def _fact(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
