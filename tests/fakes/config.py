"""A configuration for tests: the real loader's result with some values replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from shared.config import Config, load


def make_config(
    topics: tuple[str, ...] = ("orders",), environ: Mapping[str, str] | None = None,
    **overrides: Any,
) -> Config:
    """A valid configuration of `topics`; names of `Limits` and `Config` may be overridden."""
    config = load({
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "KAFKA_TOPICS": ",".join(topics),
        "LAKE_URI": "/nonexistent/lake", **(environ or {})})
    names = {field.name for field in fields(config.limits)}
    limits = {name: overrides.pop(name) for name in list(overrides) if name in names}
    return replace(config, limits=replace(config.limits, **limits), **overrides)
