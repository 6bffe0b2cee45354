"""What the probes of `check` make of stores and clients that misbehave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tools.kafka_probe
import tools.store_probe
from shared.errors import StorageUnavailable
from tests.fakes.config import make_config
from tests.fakes.store import MemoryStore
from tools.check import expected
from tools.findings import Clocks, Failure, Finding, Key, Operation
from tools.kafka_probe import KafkaProbe
from tools.store_probe import StoreProbe, is_worth_more


class DatedStore(MemoryStore):
    """Tells when an object was written, as the real one does."""

    def modified_unix_s(self, path: str) -> float | None:
        """Long ago."""
        return 1000.0 if path in self.objects else None


class Careless(DatedStore):
    """Takes every create, as stores do that do not know conditional writes."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Overwrite."""
        self.objects[path] = bytes(data)
        return True


class Forgetful(DatedStore):
    """Holds something else than what it was given."""

    def get(self, path: str) -> bytes | None:
        """An older version."""
        return b"older" if path in self.objects else None


class Broken(DatedStore):
    """Fails as no adapter should."""

    def list_after(self, prefix: str, after: str = "") -> list[str]:
        """Raise."""
        raise ZeroDivisionError("a defect")


def found_in(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[Key, Finding]:
    """Run the probe on a store; the tables are looked for in an empty folder."""
    monkeypatch.setattr(tools.store_probe, "open_store", lambda lake: store)
    findings: dict[Key, Finding] = {}
    config = make_config(environ={"LAKE_URI": str(tmp_path / "lake")})
    StoreProbe(config, findings.__setitem__).look()
    return findings


def test_probe_tries_everything_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line about the store comes from it."""
    store = DatedStore()
    found = found_in(store, tmp_path, monkeypatch)
    kinds = ("store", "clock", "log", "table")
    assert set(found) == {key for key in expected(make_config()) if key.check in kinds}
    assert not [key for key, finding in found.items() if isinstance(finding, Failure)]
    clocks = found[Key("clock")]
    assert isinstance(clocks, Clocks) and clocks.store_s == 1000.0
    assert 1000.0 < clocks.before_s <= clocks.after_s
    assert store.objects == {}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_keeps_what_was_in_it_and_nothing_else(tmp_path: Path) -> None:
    """The folders the probe had to make go with its objects."""
    kept = tmp_path / "lake" / "_bronze" / "check" / "kept"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    findings: dict[Key, Finding] = {}
    StoreProbe(make_config(environ={"LAKE_URI": str(tmp_path / "lake")}),
               findings.__setitem__).look()
    assert findings[Key("store", "delete")] == Operation()
    assert sorted(tmp_path.rglob("*")) == [*reversed(kept.parents[:3]), kept]


@pytest.mark.parametrize(("store", "operation"), [(Careless(), "create"), (Forgetful(), "get")])
def test_a_store_that_breaks_its_word_is_found_out(
    store: DatedStore, operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of 200 is not enough."""
    found = found_in(store, tmp_path, monkeypatch)
    finding = found[Key("store", operation)]
    assert isinstance(finding, Operation) and not finding.works and finding.instead
    assert store.objects == {}


def test_a_defect_is_a_finding_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is listed fails; what is not, is tried all the same."""
    found = found_in(Broken(), tmp_path, monkeypatch)
    assert found[Key("store", "list")] == Failure("ZeroDivisionError", "a defect")
    assert found[Key("store", "put")] == Operation()


def test_a_failed_put_leaves_out_the_clock_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no object whose time could be asked for."""
    class ReadOnly(DatedStore):
        def put(self, path: str, data: Any) -> None:
            raise StorageUnavailable("put", path, "403 Forbidden: AccessDenied")

    found = found_in(ReadOnly(), tmp_path, monkeypatch)
    assert Key("clock") not in found
    assert found[Key("store", "delete")] == Operation()


@pytest.mark.parametrize(("text", "expected"), [
    ("list x: 403 Forbidden: AccessDenied", True),
    ("delete x: DeleteObjects request failed for key x: Access Denied. (code: AccessDenied)", True),
    ("list x: 503 Service Unavailable: SlowDown", True),
    ("list x: 404 Not Found: NoSuchBucket", False),
    ("list x: 403 Forbidden: InvalidAccessKeyId", False),
    ("list x: Generic S3 error: error sending request", False),
    ("list x: Error performing GET http://host:9000/404 Not in 30s: timed out", False),
])
def test_after_a_silent_or_final_answer_nothing_else_is_asked(text: str, expected: bool) -> None:
    """Each further question would take a time-out, or say the same."""
    assert is_worth_more(text) is expected


def test_a_client_that_cannot_be_made_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A property may be one that the client refuses; no question can be asked then."""
    def refuse(properties: dict[str, Any]) -> None:
        raise ValueError("no such property")

    monkeypatch.setattr(tools.kafka_probe, "AdminClient", refuse)
    findings: dict[Key, Finding] = {}
    KafkaProbe(make_config(), findings.__setitem__).look()
    assert findings == {Key("broker"): Failure("ValueError", "no such property")}
