"""A named error as the shared block holds it, from whoever met it to the health page.  Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from shared.clock import rfc3339
from shared.errors import IngestError

MESSAGE_CHARS_MAX = 500
"""Of an error's message; six bytes a character at worst, so it always fits into the block."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """`at` is RFC 3339 in UTC."""

    at: str
    name: str
    message: str
    what_to_do: str


def trouble_of(error: IngestError, unix_ms: int) -> Trouble:
    """What to tell of an error."""
    return Trouble(
        rfc3339(unix_ms), error.name, str(error)[:MESSAGE_CHARS_MAX], error.what_to_do)


def encode(trouble: Trouble) -> bytes:
    """As a text field of the block holds it."""
    return json.dumps(asdict(trouble), ensure_ascii=False).encode(errors="replace")


def decode(content: bytes | None) -> Trouble | None:
    """What a text field holds; None when it is empty, half-written or not understood."""
    if content is None:
        return None
    try:
        fields = json.loads(content)
        return Trouble(*(str(fields[key]) for key in ("at", "name", "message", "what_to_do")))
    except (ValueError, KeyError, TypeError):
        return None
