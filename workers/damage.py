"""What reading a damaged or odd file of a table raises, made one error with a name.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from shared.errors import TableUnavailable


@contextmanager
def named(file: str) -> Iterator[None]:
    """Raise `TableUnavailable` for damage met in the block; file: what is read there, with its
    table."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableUnavailable(f"{file} cannot be read ({type(error).__name__})") from error
