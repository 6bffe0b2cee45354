"""Where a service's own page is: from the environment, or as given.  Pure."""

from __future__ import annotations

import ipaddress
import re
from argparse import ArgumentTypeError
from collections.abc import Mapping
from typing import Any, NamedTuple

from shared.config_parse import Invalid, parse
from shared.config_settings import SETTINGS
from shared.config_types import ConfigError, Fault

HTTP_PORT = 80
_URL = re.compile(r"http://(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})"
                  r"(:(?P<port>[0-9]{1,5}))?/?")


class Address(NamedTuple):
    """Whom to ask; a wildcard to listen on has become loopback."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def address_of(environ: Mapping[str, str]) -> Address:
    """Where the service of this environment shows itself; no other variable needs to be right.

    Raises `ConfigError`, also for port 0, which names no port.
    """
    faults: list[Fault] = []
    host, port = (_value(environ, name, faults) for name in ("HEALTH_HOST", "HEALTH_PORT"))
    if port == 0:
        faults.append(Fault(
            "HEALTH_PORT", "is 0, so the service took any free port",
            "look for health_page_open in its log, or at `ss -ltnp`; give --url http://HOST:PORT"))
    if faults:
        raise ConfigError(faults)
    return Address(_reachable(host), port)


def parse_url(text: str) -> Address:
    """The address in `http://HOST[:PORT]`.  Raises `ArgumentTypeError`, which repeats nothing."""
    if text.startswith("https://"):
        raise ArgumentTypeError("must begin with http://, for the page has no TLS")
    found = _URL.fullmatch(text)
    port = int(found["port"] or HTTP_PORT) if found else 0
    if not found or not 1 <= port <= 65535:
        raise ArgumentTypeError("is not of the form http://HOST:PORT")
    return Address(_reachable(found["host"].strip("[]")), port)


def _value(environ: Mapping[str, str], name: str, faults: list[Fault]) -> Any:
    setting = next(setting for setting in SETTINGS if setting.name == name)
    try:
        return parse(setting, environ.get(name, "").strip() or str(setting.default))
    except Invalid as invalid:
        faults.append(Fault(name, invalid.problem, invalid.remedy))
        return None


def _reachable(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "::1" if address.version == 6 else "127.0.0.1"
