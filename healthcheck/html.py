"""The status page as HTML.  The one place that imports Jinja.

Whatever the template shows is made visible and escaped on the way, so no text of the block can
add an element, leave its attribute or reorder the line it stands in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from healthcheck import drawing, figures
from healthcheck.history import KEPT_S
from healthcheck.moment import Moment, Trends
from healthcheck.status import LATE_NAMED_MAX, REASONS_MAX, page_of
from healthcheck.style import STYLE
from shared.clock import rfc3339
from shared.layout import Header
from shared.text import cut, printable

REFRESH_S = 5

_TEMPLATE = Path(__file__).with_name("status.html")


def _visible(value: Any) -> Any:
    return printable(value) if type(value) is str else value


def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_visible, trim_blocks=True,
        lstrip_blocks=True)
    environment.filters |= {
        name: getattr(figures, name)
        for name in ("count", "rate", "duration", "age", "left", "megabytes")}
    environment.filters |= {"printable": printable, "cut": cut, "filled": drawing.filled}
    environment.globals |= {
        "style": Markup(STYLE), "refresh_s": REFRESH_S, "drawing": drawing, "Header": Header,
        "reasons_max": REASONS_MAX, "late_max": LATE_NAMED_MAX, "kept_s": KEPT_S,
    }
    return environment


_PAGE = _environment().from_string(_TEMPLATE.read_text(encoding="utf-8"))


def render(moment: Moment, trends: Trends, addresses: dict[str, str]) -> str:
    """The whole page; `addresses`: path -> what it tells."""
    return _PAGE.render(
        page=page_of(moment, trends), now=rfc3339(moment.now_ms), addresses=addresses)
