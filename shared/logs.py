"""Log lines: one event per line on stderr, JSON for the journal, text for a terminal.

An event is a stable name (`cycle_committed`) with facts beside it.  Nothing is logged per message.
`RateLimit` keeps what repeats in a loop to one line per interval.
"""

from __future__ import annotations

import logging
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from shared.clock import rfc3339
from shared.log_stream import open_stderr

FACT_CHARS_MAX = 500
REPEAT_INTERVAL_S = 30.0


def configure(level: str, log_format: str) -> None:
    """Send the root logger's events to stderr; `log_format` is `json` or `text`."""
    handler = logging.StreamHandler(open_stderr())
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A full disk behind stderr must not stop ingestion.
    logging.raiseExceptions = False


def log_event(logger: logging.Logger, level: int, event: str, **facts: Any) -> None:
    """Log `event` with `facts`; values are shown by str() and cut to a bounded length."""
    if logger.isEnabledFor(level):
        shown = {name: _bounded(value) for name, value in facts.items() if value is not None}
        logger.log(level, event, extra={"facts": shown})


def _bounded(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _bounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_bounded(item) for item in value]
    text = " ".join(str(value).split())
    printable = "".join(char if char.isprintable() else "?" for char in text)
    return printable if len(printable) <= FACT_CHARS_MAX else printable[:FACT_CHARS_MAX] + "…"


class _Json(JsonFormatter):
    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        facts = log_data.pop("facts", {})
        return {**log_data, **facts}

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        log_data["ts"] = rfc3339(int(record.created * 1000))
        log_data["level"] = record.levelname.lower()
        log_data["event"] = record.getMessage()
        log_data["logger"] = record.name
        log_data["pid"] = record.process
        log_data["facts"] = getattr(record, "facts", {})
        if record.exc_info:
            log_data["traceback"] = self.formatException(record.exc_info)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        pairs = " ".join(f"{name}={_quoted(value)}" for name, value in facts.items())
        moment = rfc3339(int(record.created * 1000))[11:23]
        line = f"{moment} {record.levelname.lower():7} {record.getMessage()} {pairs}".rstrip()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _quoted(value: Any) -> str:
    text = str(value)
    return f'"{text}"' if " " in text else text


class RateLimit:
    """Lets one line per key and interval through, and tells how many it held back."""

    def __init__(self, interval_s: float = REPEAT_INTERVAL_S, keys_max: int = 1000) -> None:
        self._interval_s = interval_s
        self._keys_max = keys_max
        self._seen: dict[object, tuple[float, int]] = {}

    def admit(self, key: object, now: float) -> int | None:
        """None: hold the line back.  Else: log it; the number says how many were held back."""
        last, held = self._seen.get(key, (None, 0))
        if last is not None and now - last < self._interval_s:
            self._seen[key] = (last, held + 1)
            return None
        if len(self._seen) >= self._keys_max:
            self._seen.clear()
        self._seen[key] = (now, 0)
        return held
