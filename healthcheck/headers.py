"""The headers that every answer carries, whoever makes it: a view, an error, or the server."""

from __future__ import annotations

from healthcheck.style import STYLE_HASH

SECURITY_HEADERS = {
    "Content-Security-Policy":
        f"default-src 'none'; style-src '{STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""The page is for machines and for eyes: nothing on it may run, be framed, guessed or kept, and
nothing but the one style that the project ships may dress it."""
