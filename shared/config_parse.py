"""One raw text of the environment to one value, or to what is wrong with it.

Pure: everything here is a function of its arguments.  `Invalid` messages show a value only where
its setting is not private and the value cannot hold credentials.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from shared.config_settings import Kind, Setting
from shared.config_types import Secret
from shared.naming import LEDGER_TOPIC, NAME_CHARACTERS_MAX

TOPICS_MAX = 64
TOPIC_CHARACTERS_MAX = NAME_CHARACTERS_MAX
SERVERS_MAX = 64
TEXT_CHARACTERS_MAX = 255
URI_CHARACTERS_MAX = 1024
SECRET_BYTES_MAX = 4096
SHOWN_CHARACTERS_MAX = 60

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_SECONDS = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]+")
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9]{1,16})?")
_SERVER = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*):(?P<port>[0-9]{1,5})")
_URL = re.compile(r"https?://(?P<host>\[[^\[\]]*\]|[^:/\[\]]+)(:(?P<port>[0-9]{1,5}))?(/[^?#]*)?")
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_KEY_SEGMENT = re.compile(r"[A-Za-z0-9._=+@,-]+")
_CONTROL = re.compile("[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Invalid(Exception):
    """A value cannot be used: `problem` says why, `remedy` what to write instead."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem, self.remedy = problem, remedy


def shown(text: str) -> str:
    """`text` as a message may show it: one short line of ASCII, and nothing with an @ in it,
    which is where addresses keep their passwords."""
    if "@" in text:
        return "the value"
    quoted = ascii(text[:SHOWN_CHARACTERS_MAX])
    return quoted if len(text) <= SHOWN_CHARACTERS_MAX else f"{quoted}..."


def check_characters(text: str, *, lines: bool = False) -> None:
    """Refuse what no setting may hold: control characters and bytes that are not UTF-8.

    `lines` allows line breaks and tabs, as in a PEM text.  Raises `Invalid`.
    """
    if (_CONTROL_BUT_LINES if lines else _CONTROL).search(text):
        raise Invalid("holds a control character", "remove it; check for a stray line break")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid("holds bytes that are not UTF-8", "write it in UTF-8") from None


def parse(setting: Setting, raw: str) -> Any:
    """The value of `setting` given as `raw`, which is not empty.  Raises `Invalid`."""
    check_characters(raw)
    return _PARSERS[setting.kind](setting, raw)


def secret_from_file(content: bytes) -> Secret:
    """The secret a file holds, without the line break at its end.  Raises `Invalid`."""
    if len(content) > SECRET_BYTES_MAX:
        raise Invalid(f"names a file of more than {SECRET_BYTES_MAX} bytes",
                      "name a file that holds the secret and nothing else")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise Invalid("names a file that is not UTF-8 text", "write the secret in UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise Invalid("names an empty file", "write the secret into it")
    if _CONTROL.search(text):
        raise Invalid("names a file with a line break or control character in the secret",
                      "leave one line, the secret, in it")
    return Secret(text)


def _boolean(_setting: Setting, raw: str) -> bool:
    word = raw.lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise Invalid(f"{shown(raw)} is neither true nor false", "write true or false")


def _choice(setting: Setting, raw: str) -> str:
    for choice in setting.choices:
        if raw.lower() == choice.lower():
            return choice
    raise Invalid(f"{shown(raw)} is not among the choices",
                  f"write {_alternatives(setting.choices)}")


def _integer(setting: Setting, raw: str) -> int:
    if not _INTEGER.fullmatch(raw):
        raise Invalid(f"{shown(raw)} is not a whole number",
                      f"write digits only, {_range(setting)}")
    _check_range(setting, float(raw), raw)
    return int(raw)


def _seconds(setting: Setting, raw: str) -> float:
    if not _SECONDS.fullmatch(raw):
        raise Invalid(f"{shown(raw)} is not a number of seconds",
                      f"write a number such as 10 or 0.5, {_range(setting)}")
    _check_range(setting, float(raw), raw)
    return float(raw)


def _check_range(setting: Setting, value: float, raw: str) -> None:
    if not setting.low <= value <= setting.high:
        side = "too small" if value < setting.low else "too large"
        raise Invalid(f"{shown(raw)} is {side}", f"write a number {_range(setting)}")


def _range(setting: Setting) -> str:
    return f"from {setting.low:.12g} to {setting.high:.12g}"


def _alternatives(choices: tuple[str, ...]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _text(setting: Setting, raw: str) -> str:
    if len(raw) > TEXT_CHARACTERS_MAX:
        raise Invalid(f"is longer than {TEXT_CHARACTERS_MAX} characters", "shorten it")
    return raw


def _identifier(_setting: Setting, raw: str) -> str:
    if not _IDENTIFIER.fullmatch(raw):
        raise Invalid(f"{shown(raw)} is not an identifier",
                      "write 1 to 64 of the letters a-z and A-Z, digits, _ and -")
    return raw


def _servers(_setting: Setting, raw: str) -> str:
    servers = [server.strip() for server in raw.split(",")]
    if len(servers) > SERVERS_MAX:
        raise Invalid(f"names {len(servers)} brokers", f"a few are enough, {SERVERS_MAX} at most")
    for server in servers:
        if not server:
            raise Invalid("has an empty entry", "remove the comma too many")
        if "://" in server:
            raise Invalid(f"{shown(server)} holds a protocol",
                          "write host:port, and the protocol into KAFKA_SECURITY_PROTOCOL")
        match = _SERVER.fullmatch(server)
        if not match or not _is_host(match["host"]) or not 1 <= int(match["port"]) <= 65535:
            raise Invalid(f"{shown(server)} is not host:port",
                          "write for example kafka1:9092,kafka2:9092 or [::1]:9092")
    return ",".join(servers)


def _topics(_setting: Setting, raw: str) -> tuple[str, ...]:
    topics = [topic.strip() for topic in raw.split(",")]
    if len(topics) > TOPICS_MAX:
        raise Invalid(f"names {len(topics)} topics",
                      f"name {TOPICS_MAX} at most; run another service for the rest")
    for topic in topics:
        _check_topic(topic)
    for topic in topics:
        if topics.count(topic) > 1:
            raise Invalid(f"names {shown(topic)} more than once", "name each topic once")
    return tuple(topics)


def _check_topic(topic: str) -> None:
    if not topic:
        raise Invalid("has an empty entry", "remove the comma too many")
    if topic in (".", ".."):
        raise Invalid(f"{shown(topic)} is not a topic's name in Kafka", "name an existing topic")
    if topic == LEDGER_TOPIC:
        raise Invalid(f"{shown(topic)} would have the ledger as its table",
                      "copy the topic to one of another name, and name that one")
    if len(topic) > TOPIC_CHARACTERS_MAX:
        raise Invalid(f"{shown(topic)} is longer than {TOPIC_CHARACTERS_MAX} characters",
                      "its tables could not be made: file systems and MinIO allow 255 "
                      "characters in a name, with `dlq_bronze_` and `.json` around the topic's; "
                      "is a comma missing?")
    if not _TOPIC.fullmatch(topic):
        raise Invalid(f"{shown(topic)} is not a topic's name in Kafka",
                      "use letters a-z and A-Z, digits, '.', '_' and '-' only; no quotes or "
                      "patterns")


def _lake_uri(_setting: Setting, raw: str) -> str:
    if len(raw) > URI_CHARACTERS_MAX:
        raise Invalid(f"is longer than {URI_CHARACTERS_MAX} characters", "shorten it")
    scheme = _SCHEME.match(raw)
    if scheme is None:
        return _folder(raw)
    if raw.startswith("s3://"):
        return _s3_uri(raw)
    if raw.startswith(("file:///", "file://localhost/")):
        if any(mark in raw for mark in "%?#"):
            raise Invalid(f"{shown(raw)} has %, ? or # in it", "write the folder as a plain path")
        return _folder(raw.removeprefix("file://").removeprefix("localhost"))
    remedy = "write s3://bucket/prefix, /path, ./path or file:///path"
    if scheme["scheme"].lower() in ("s3a", "s3n", "s3"):
        remedy = "write s3://bucket/prefix"
    raise Invalid(f"{shown(raw)} is not an address the service can write to", remedy)


def _s3_uri(raw: str) -> str:
    bucket, _slash, prefix = raw.removeprefix("s3://").partition("/")
    if "@" in bucket:
        raise Invalid("holds a user name or password",
                      "put keys into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY_FILE")
    if not _BUCKET.fullmatch(bucket):
        raise Invalid(f"{shown(raw)} has no valid bucket name",
                      "write s3://bucket/prefix; a bucket is 3 to 63 letters, digits, '.', '_' "
                      "and '-'")
    prefix = prefix.removesuffix("/")
    if not prefix:
        return f"s3://{bucket}"
    for segment in prefix.split("/"):
        if not _KEY_SEGMENT.fullmatch(segment) or segment in (".", ".."):
            raise Invalid(f"{shown(raw)} has a part in its prefix that is not safe in a path",
                          "use letters, digits and . _ = + @ , - between single slashes")
    return f"s3://{bucket}/{prefix}"


def _folder(raw: str) -> str:
    if not raw.startswith(("/", "./", "../")):
        raise Invalid(f"{shown(raw)} is neither an s3:// address nor clearly a folder",
                      "write s3://bucket/prefix, /path or ./path")
    if raw.startswith("/") and not raw.strip("/."):
        raise Invalid(f"{shown(raw)} is the root of the file system", "name a folder in it")
    return raw


def _url(_setting: Setting, raw: str) -> str:
    if "@" in raw:
        raise Invalid("holds a user name or password",
                      "put keys into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY_FILE")
    match = _URL.fullmatch(raw)
    if not match or not _is_host(match["host"]) or not 1 <= int(match["port"] or 1) <= 65535:
        raise Invalid(f"{shown(raw)} is not the address of a store",
                      "write http://host:port or https://host:port")
    return raw.rstrip("/")


def _lineage_url(_setting: Setting, raw: str) -> str:
    # Not shown: paths of endpoints hold tokens at times.
    if len(raw) > URI_CHARACTERS_MAX:
        raise Invalid(f"is longer than {URI_CHARACTERS_MAX} characters", "shorten it")
    path = raw.removeprefix("file://")
    if path.startswith("/"):
        if path.endswith("/") or any(mark in path for mark in "%?#"):
            raise Invalid("names a folder, or has %, ? or # in it", "write a file as /path")
        return path
    match = _URL.fullmatch(raw)
    if "@" in raw or not raw.isascii() or " " in raw:
        raise Invalid("holds a user name, a blank or a character that is not ASCII",
                      "put a key into LINEAGE_API_KEY_FILE, and escape the rest with %")
    if not match or not _is_host(match["host"]) or not 1 <= int(match["port"] or 1) <= 65535:
        raise Invalid("is neither the address of an endpoint nor a file",
                      "write https://host:port/api/v1/lineage, /path or file:///path")
    return raw


def is_loopback(url: str) -> bool:
    """Whether an address of the form `_url` takes leads to this very machine."""
    match = _URL.fullmatch(url)
    host = match["host"] if match else ""
    return host in ("localhost", "[::1]") or bool(re.fullmatch(r"127(\.[0-9]{1,3}){3}", host))


def _host(_setting: Setting, raw: str) -> str:
    if _is_host(raw) or _is_ipv6(raw):
        return raw
    raise Invalid(f"{shown(raw)} is neither an IP address nor a host name",
                  "write for example 127.0.0.1, ::1 or 0.0.0.0, without a port")


def _is_host(text: str) -> bool:
    if text.startswith("[") and text.endswith("]"):
        return _is_ipv6(text[1:-1])
    if re.fullmatch(r"[0-9.]+", text):
        parts = text.split(".")
        return len(parts) == 4 and all(part.isdigit() and int(part) <= 255 for part in parts)
    return len(text) <= 253 and _HOST_NAME.fullmatch(text) is not None


def _is_ipv6(text: str) -> bool:
    if not _IPV6.fullmatch(text):
        return False
    from ipaddress import AddressValueError, IPv6Address  # rare, and 10 ms to import

    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


def _ca_location(_setting: Setting, raw: str) -> str:
    if not raw.startswith("/"):
        raise Invalid(f"{shown(raw)} is not an absolute path", "write the path from / on")
    return raw


def _secret(_setting: Setting, raw: str) -> Secret:
    if len(raw.encode()) > SECRET_BYTES_MAX:
        raise Invalid(f"is longer than {SECRET_BYTES_MAX} bytes", "write the secret only")
    return Secret(raw)


def _secret_file(_setting: Setting, raw: str) -> str:
    # Not shown: somebody may have put the secret itself here.
    if not raw.startswith("/"):
        raise Invalid("is not an absolute path",
                      "write the path, from / on, of a file that holds the secret")
    return raw


_PARSERS: dict[Kind, Callable[[Setting, str], Any]] = {
    Kind.BOOLEAN: _boolean,
    Kind.CHOICE: _choice,
    Kind.INTEGER: _integer,
    Kind.SECONDS: _seconds,
    Kind.TEXT: _text,
    Kind.IDENTIFIER: _identifier,
    Kind.SERVERS: _servers,
    Kind.TOPICS: _topics,
    Kind.LAKE_URI: _lake_uri,
    Kind.LINEAGE_URL: _lineage_url,
    Kind.URL: _url,
    Kind.HOST: _host,
    Kind.CA_LOCATION: _ca_location,
    Kind.SECRET: _secret,
    Kind.SECRET_FILE: _secret_file,
}
