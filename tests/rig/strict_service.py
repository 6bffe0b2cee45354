"""The service as an older release might have been: it refuses some values that today's takes.

    python -m tests.rig.strict_service --workers 2

Run with `Service(environ, module="tests.rig.strict_service")`.  Its dead letters with MARK in them
are well formed by the checks of the present release.
"""

from __future__ import annotations

import sys

import msgspec

from supervisor.__main__ import main
from workers import decoder

MARK = b'"refused once"'
MESSAGE = "refused by an older check (byte 7)"


class StrictJson:
    """The decoder's, and one rule more."""

    def __init__(self) -> None:
        self._today = msgspec.json.Decoder(msgspec.Raw)

    def decode(self, value: bytes) -> object:
        """See `msgspec.json.Decoder`."""
        if value is not None and MARK in value:
            raise msgspec.DecodeError(MESSAGE)
        return self._today.decode(value)


if __name__ == "__main__":
    # Before anything is forked: every worker inherits it.
    decoder._json = StrictJson()  # type: ignore[assignment]
    sys.exit(main())
