"""The commands of docs/install.md, by section, with the examples' names replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "install.md"

_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections(text: str, own: Mapping[str, str]) -> dict[str, list[str]]:
    """Section -> its blocks of commands for this machine (`sh`; `console` is for others).

    own: what the page shows -> what stands in its place.  Raises ValueError for what the page does
    not show: a reader could not put his own there.
    """
    for shown in own:
        if shown not in text:
            raise ValueError(f"the page does not show {shown}")
    _, *parts = _SECTION.split(text)
    return {title: [_replaced(block, own) for block in _BLOCK.findall(body)]
            for title, body in zip(parts[::2], parts[1::2], strict=True)}


def _replaced(block: str, own: Mapping[str, str]) -> str:
    """Each name once, the longest first: what was put in is not looked at again."""
    if not own:
        return block
    pattern = re.compile("|".join(map(re.escape, sorted(own, key=len, reverse=True))))
    return pattern.sub(lambda match: own[match[0]], block)
