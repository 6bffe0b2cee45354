"""Pure: for how long a table wants its entries and removed files kept, in milliseconds."""

from __future__ import annotations

import re
from collections.abc import Mapping

DAY_MS = 86_400_000
LOG_RETENTION_DAYS = 30
"""Delta's default."""
REMOVED_RETENTION_DAYS = 7
"""Delta's default for files that a table no longer has: readers of older versions need them."""

_UNITS_MS = {"week": 7 * DAY_MS, "day": DAY_MS, "hour": 3_600_000, "minute": 60_000,
             "second": 1000, "millisecond": 1}
_PART = re.compile(rf"([0-9]{{1,9}})\s+({'|'.join(_UNITS_MS)})s?", re.IGNORECASE)
_INTERVAL = re.compile(
    rf"\s*(?:interval\s+)?{_PART.pattern}(?:\s+{_PART.pattern}){{0,5}}\s*", re.IGNORECASE)


def log_retention_ms(configuration: Mapping[str, str]) -> int | None:
    """How long entries are kept; None where the table says never, or what we do not understand."""
    if configuration.get("delta.enableExpiredLogCleanup", "true").lower() != "true":
        return None
    return _asked_ms(configuration, "delta.logRetentionDuration", LOG_RETENTION_DAYS)


def removed_retention_ms(configuration: Mapping[str, str]) -> int | None:
    """How long removed files are kept; None where the table says what we do not understand."""
    return _asked_ms(configuration, "delta.deletedFileRetentionDuration", REMOVED_RETENTION_DAYS)


def _asked_ms(configuration: Mapping[str, str], name: str, default_days: int) -> int | None:
    asked = configuration.get(name)
    return default_days * DAY_MS if asked is None else interval_ms(asked)


def interval_ms(text: str) -> int | None:
    """A duration as Delta's properties have it: `interval 1 week 12 hours`, also without the first
    word; None for everything else.  Months and years have no length."""
    if not _INTERVAL.fullmatch(text):
        return None
    return sum(int(count) * _UNITS_MS[unit.lower()] for count, unit in _PART.findall(text))
