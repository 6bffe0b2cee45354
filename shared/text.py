"""Pure: other people's text, made fit for a terminal, a page or a line."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with all that a screen would not show, or would obey, in escapes such as `\\u202e`."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def cut(text: str, chars_max: int) -> str:
    """The beginning of a text that is longer, with a sign that it goes on."""
    return text if len(text) <= chars_max else text[:chars_max - 1] + "…"
