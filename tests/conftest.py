"""Fixtures that give a test its real services, and the last word about tests that got none.

A test asks for ``kafka`` or ``minio`` (shared by the session; take your own topics and prefix)
or for ``own_kafka`` or ``own_minio`` (its alone, to be killed at will). Whatever has to be
downloaded or built for them is prepared after collection, outside the time limit of any test.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.rig.evidence import Evidence, keep
from tests.services import (
    Browser, KafkaService, MinioService, ServiceProvider, ServiceUnavailable,
)
from tests.services.install import REQUIRE_REAL

KAFKA_FIXTURES = frozenset({"kafka", "own_kafka"})
MINIO_FIXTURES = frozenset({"minio", "own_minio", "lake_prefix"})
SERVICE_FIXTURES = KAFKA_FIXTURES | MINIO_FIXTURES | {"browser", "promtool", "service_provider"}

T = TypeVar("T")

TopicNames = Callable[..., list[str]]
"""``topic_names(count, label="events")`` returns that many new names of topics."""

# On a fresh checkout Hypothesis first builds its tables of Unicode, inside the first draw.
settings.register_profile("tests", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

_provider = pytest.StashKey[ServiceProvider]()
_report = pytest.StashKey[pytest.TestReport]()
_not_run = pytest.StashKey[dict[str, list[str]]]()
"""Why a service could not be had, and the tests that wanted it."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the session's provider, which starts nothing before it is asked."""

    def progress(line: str) -> None:
        # Past pytest's capturing: a person waits for minutes while something is built.
        capture = config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"[services] {line}", file=sys.stderr, flush=True)

    config.stash[_provider] = ServiceProvider(progress)
    config.stash[_not_run] = {}


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove every service of the session."""
    config.stash[_provider].close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the services they ask for, before ``-m`` selects among them."""
    for item in items:
        if SERVICE_FIXTURES.intersection(_fixtures_of(item)):
            item.add_marker(pytest.mark.real)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install what the selected tests need, now that no test's clock is running."""
    if session.config.option.collectonly:
        return
    provider = session.config.stash[_provider]
    asked: set[str] = set()
    for item in session.items:
        asked.update(_fixtures_of(item))
    needs_kafka = "own_kafka" in asked or ("kafka" in asked and not provider.has_given_kafka())
    wants_minio = "minio" in asked or "lake_prefix" in asked
    needs_minio = "own_minio" in asked or (wants_minio and not provider.has_given_minio())
    for is_needed, prepare in (
        (needs_kafka, provider.prepare_kafka),
        (needs_minio, provider.prepare_minio),
        ("promtool" in asked, provider.promtool),
        ("browser" in asked, provider.prepare_browser),
    ):
        if is_needed:
            try:
                prepare()
            except ServiceUnavailable:
                pass  # Asked again, and then reported, by each test that wants it.


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session over tests not run, where real services are required."""
    is_required = os.environ.get(REQUIRE_REAL) == "1"
    if is_required and session.config.stash[_not_run]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say loudly, and last, which tests did not run and why."""
    not_run = config.stash[_not_run]
    if not not_run:
        return
    count = sum(len(names) for names in not_run.values())
    is_required = os.environ.get(REQUIRE_REAL) == "1"
    title = f"NOT RUN, FOR WANT OF REAL SERVICES: {count}"
    terminalreporter.section(title, bold=True, red=is_required, yellow=not is_required)
    for reason, names in not_run.items():
        terminalreporter.line(reason)
        for name in names:
            terminalreporter.line(f"    {name}")
    terminalreporter.line("")
    terminalreporter.line(
        "To run them: start a container engine, or install Java 17+, Maven and Go 1.21+, or set "
        "TEST_KAFKA_BOOTSTRAP_SERVERS and TEST_S3_ENDPOINT_URL; for the page, install Chromium."
    )
    if is_required:
        terminalreporter.line(f"{REQUIRE_REAL}=1 makes this a failure.", red=True)


@pytest.fixture(scope="session")
def service_provider(pytestconfig: pytest.Config) -> ServiceProvider:
    """Give what starts services, for fixtures of a test's own with another scope."""
    return pytestconfig.stash[_provider]


@pytest.fixture
def kafka(request: pytest.FixtureRequest, service_provider: ServiceProvider) -> KafkaService:
    """Give the broker that the session shares; started with the first test that asks."""
    return _or_skip(request, "Kafka", service_provider.kafka)


@pytest.fixture
def minio(request: pytest.FixtureRequest, service_provider: ServiceProvider) -> MinioService:
    """Give the store that the session shares; started with the first test that asks."""
    return _or_skip(request, "MinIO", service_provider.minio)


@pytest.fixture
def own_kafka(
    request: pytest.FixtureRequest, service_provider: ServiceProvider
) -> Iterator[KafkaService]:
    """Give a broker of the test's own, which it may stop, kill and start again."""
    service = _or_skip(request, "Kafka", service_provider.own_kafka)
    yield service
    service.close()


@pytest.fixture
def own_minio(
    request: pytest.FixtureRequest, service_provider: ServiceProvider
) -> Iterator[MinioService]:
    """Give a store of the test's own, which it may stop, kill and start again."""
    service = _or_skip(request, "MinIO", service_provider.own_minio)
    yield service
    service.close()


@pytest.fixture
def promtool(request: pytest.FixtureRequest, service_provider: ServiceProvider) -> Path:
    """Give Prometheus' own checker of rules and metrics."""
    return _or_skip(request, "promtool", service_provider.promtool)


@pytest.fixture
def browser(request: pytest.FixtureRequest, service_provider: ServiceProvider) -> Browser:
    """Give the browser that the session shares; started with the first test that asks."""
    return _or_skip(request, "Chromium", service_provider.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the report of the test's own part, for the `evidence` fixture to look at."""
    report = yield
    if report.when == "call":
        item.stash[_report] = report
    return report


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Iterator[Evidence]:
    """Give what a test of faults tells of its strikes, and keep it with the test's outcome."""
    made = Evidence()
    yield made
    rows = tuple(row for mark in request.node.iter_markers("fault") for row in mark.args)
    report = request.node.stash.get(_report, None)
    outcome, seconds = (report.outcome, report.duration) if report else ("failed", 0.0)
    keep(made.line(request.node.nodeid, rows, outcome, seconds))


@pytest.fixture
def topic_names(request: pytest.FixtureRequest) -> TopicNames:
    """Give a maker of names for topics that no other test has."""
    base = _unique_name(request.node.name)

    def make(count: int = 1, label: str = "events") -> list[str]:
        return [f"{base}-{label}-{number}" for number in range(count)]

    return make


@pytest.fixture
def lake_prefix(request: pytest.FixtureRequest) -> str:
    """Give a prefix in the bucket that no other test has."""
    return _unique_name(request.node.name)


def _unique_name(test_name: str) -> str:
    """Return a short name, legal for topics and keys, that tells which test made it."""
    slug = re.sub(r"[^a-z0-9]+", "-", test_name.lower().removeprefix("test_")).strip("-")
    return f"{slug[:40].strip('-')}-{uuid.uuid4().hex[:8]}"


def _fixtures_of(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def _or_skip(request: pytest.FixtureRequest, what: str, start: Callable[[], T]) -> T:
    """Return a started service, or skip the test and keep why for the end of the session."""
    try:
        return start()
    except ServiceUnavailable as error:
        reason = f"No real {what}: {error}."
        names = request.config.stash[_not_run].setdefault(reason, [])
        names.append(request.node.nodeid)
        pytest.skip(reason)
