"""The addresses of the health page, as a Flask application.  The one place that imports Flask.

Every answer is made of fixed texts and of what the block holds: nothing of a request is ever
repeated, and a defect is answered with one fixed line while the log gets the traceback.
"""

from __future__ import annotations

import logging

from flask import Flask, Response

from healthcheck import html, page
from healthcheck.exposition import CONTENT_TYPE, Exposition
from healthcheck.headers import SECURITY_HEADERS
from healthcheck.moment import Observer
from healthcheck.verdict import is_live, is_ready
from shared.block import Block
from shared.clock import SystemClock
from shared.logs import RateLimit

ADDRESSES = {
    "/health": "whether messages get to their tables, per topic, and what to do (200 or 503)",
    "/livez": "whether the service's loop runs, whatever Kafka and the lake do (200 or 503)",
    "/readyz": "whether the service has started and takes part (200 or 503)",
    "/metrics": "figures in Prometheus' text format",
}

_METHODS = ["GET", "HEAD"]
_REFUSALS = {400: "bad request", 404: "not found", 405: "method not allowed"}
_LOGGER = logging.getLogger(__name__)


def create_app(
    block: Block, clock: SystemClock | None = None, observer: Observer | None = None
) -> Flask:
    """Make the application that shows `block`; a server passes the observer it shares with it."""
    clock = clock or SystemClock()
    observer = observer or Observer(block, clock)
    app = Flask("healthcheck", static_folder=None, template_folder=None)
    # Werkzeug would answer these with a redirect that repeats the address asked for.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    exposition = Exposition(observer.look)

    def health() -> Response:
        moment = observer.look()
        return Response(
            page.render(moment), moment.health.http_status, mimetype="application/json")

    def livez() -> Response:
        moment = observer.look()
        return _answer(is_live(moment.snapshot, moment.now_ns), "live", "not live")

    def readyz() -> Response:
        return _answer(is_ready(observer.look().snapshot), "ready", "not ready")

    def metrics() -> Response:
        return Response(exposition.render(), content_type=CONTENT_TYPE)

    def index() -> Response:
        moment = observer.look()
        return Response(
            html.render(moment, observer.trends(moment), ADDRESSES), mimetype="text/html")

    views = {"/": index, "/health": health, "/livez": livez, "/readyz": readyz,
             "/metrics": metrics}
    for address, view in views.items():
        app.add_url_rule(
            address, view_func=view, methods=_METHODS, provide_automatic_options=False)
    _guard(app, clock)
    return app


def _answer(is_true: bool, yes: str, no: str) -> Response:
    return Response((yes if is_true else no) + "\n", 200 if is_true else 503,
                    mimetype="text/plain")


def _guard(app: Flask, clock: SystemClock) -> None:
    """Give every answer its headers, and every error a fixed text."""
    repeats = RateLimit()

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(SECURITY_HEADERS)
        return response

    def refuse(status: int) -> Response:
        response = Response(f"{_REFUSALS[status]}\n", status, mimetype="text/plain")
        if status == 405:
            response.headers["Allow"] = ", ".join(_METHODS)
        return response

    for status in _REFUSALS:
        app.register_error_handler(status, lambda _error, status=status: refuse(status))

    @app.errorhandler(Exception)
    def fail(error: Exception) -> Response:
        held_back = repeats.admit(type(error), clock.monotonic())
        if held_back is not None:
            _LOGGER.error("health_page_failed", exc_info=error,
                          extra={"facts": {"held_back": held_back}})
        return Response("internal error\n", 500, mimetype="text/plain")
