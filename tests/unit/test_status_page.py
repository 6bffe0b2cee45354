"""The status page: what it says of each state, legible for everybody, and hostile texts on it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from healthcheck import figures, html
from healthcheck.app import ADDRESSES, create_app
from healthcheck.drawing import BAR_WIDTH, SPARK_WIDTH, filled, segments, spark
from healthcheck.headers import SECURITY_HEADERS
from healthcheck.history import KEPT_S, Trend
from healthcheck.html import render
from healthcheck.moment import Moment, Observer, Trends
from healthcheck.snapshot import ServiceSnapshot
from healthcheck.status import REASONS_MAX, Group, grouped, page_of
from healthcheck.style import STYLE
from healthcheck.verdict import NOTHING_WAITS, Code, Reason, Waiting, judge, loss_is_near
from shared.block import Block
from shared.layout import Paused, Report, Retention
from shared.protocol import Phase, Standing
from shared.text import printable
from shared.trouble import Trouble
from tests.fakes.clock import FakeClock
from tests.fakes.snapshots import DEADLINE_S, INTERVAL_S, NOW_MS, NOW_NS, S_NS, a_service, a_topic

QUIET = Trend(0.0, 0.0, (), ())
NAMED = Trouble("2027-01-15T07:58:00.000Z", "StorageUnavailable", "put bronze_orders: 403",
                "Check the rights.")
ABOUT = {"topics": ["orders"], "instance": "0", "service_version": "1", "lake": "l",
         "batch_interval_seconds": 10, "cycle_deadline_seconds": 30,
         "heartbeat_limit_seconds": 60, "memory_limit_mb": 256, "loan_budget_bytes": 0}
VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = (
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "' onload='x", "{{ 7*7 }}",
    "&lt;already&gt;", "\u202eevil\u2066", "line\nbreak\ttab\x00\x1b[31m", "zero\u200bwidth",
    "</title></style></table>", "\ud800", "x" * 4000, "\u0301" * 40,
)


class Reader(HTMLParser):
    """Reads a page as a browser does: elements with their attributes, texts, and whether it nests.

    texts: (path of open elements, text); of `style` nothing.
    """

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and "style" not in self._open:
            self.texts.append((tuple(self._open), " ".join(data.split())))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a kind."""
        return [attributes for found, attributes in self.elements if found == tag]

    @property
    def text(self) -> str:
        """All that is shown, titles of drawings included."""
        return " ".join(text for _path, text in self.texts)


def moment_of(service: ServiceSnapshot, waiting: Waiting = NOTHING_WAITS) -> Moment:
    """A look at a service now."""
    return Moment(service, NOW_NS, NOW_MS, judge(service, NOW_NS, NOW_MS, waiting), waiting)


def shown(service: ServiceSnapshot, *trends: Trend, waiting: Waiting = NOTHING_WAITS) -> Reader:
    """The page of a service."""
    of_topics = trends or (QUIET,) * len(service.topics)
    return Reader(render(moment_of(service, waiting), Trends(900.0, of_topics), ADDRESSES))


# --- what it says


def test_a_healthy_service_says_so_and_that_nothing_is_late() -> None:
    """The two questions of whoever looks."""
    page = shown(a_service(a_topic("orders"), a_topic("payments")))
    for words in ("healthy", "Messages get to their tables.", "Nothing is late.", "orders",
                  "payments", "active"):
        assert words in page.text
    assert page.texts[0][1].startswith("healthy")


@pytest.mark.parametrize(("changes", "word"), [
    ({}, "healthy"), ({"phase": Phase.STOPPING}, "stopping"), ({"READY": 0}, "starting"),
    ({"phase": Phase.HALTED}, "unhealthy"), ({"HEARTBEAT_NS": 1}, "unhealthy"),
])
def test_each_status_has_its_word(changes: dict[str, Any], word: str) -> None:
    """Never by colour alone; it is the first thing in the verdict."""
    texts = shown(a_service(**changes)).texts
    verdict = [text for path, text in texts if path[-4:] == ("main", "section", "div", "p")]
    assert verdict[0] == word


def test_reasons_say_what_to_do_and_are_told_once_for_all_their_topics() -> None:
    """Eight lines that say the same hide the ninth that does not."""
    topics = [a_topic(name, error=NAMED, report={"ERROR_ACTIVE": 1}) for name in "abcdefgh"]
    page = shown(a_service(*topics))
    assert [text for path, text in page.texts if path[-1] == "code"] == ["failing"]
    assert "unhealthy" in page.text
    assert "put bronze_orders: 403; what to do: Check the rights." in page.text
    assert list(grouped([
        Reason(Code.FAILING, "one", "a"), Reason(Code.HALTED, "two"),
        Reason(Code.FAILING, "one", "b"), Reason(Code.HELD, "one", "c"),
    ])) == [Group(("a", "b"), "failing", "one"), Group((), "halted", "two"),
            Group(("c",), "held", "one")]


def test_more_reasons_than_fit_are_counted() -> None:
    """What is left out is said, and where it is."""
    topics = [a_topic(f"topic{index}", error=replace(NAMED, message=f"table {index}"),
                      report={"ERROR_ACTIVE": 1}) for index in range(REASONS_MAX + 3)]
    page = shown(a_service(*topics))
    assert f"table {REASONS_MAX - 1};" in page.text
    assert f"table {REASONS_MAX};" not in page.text
    assert "and 3 more, all of them in" in page.text


def test_what_waits_longer_than_a_cycle_may_take_is_late() -> None:
    """By the time of the messages, or by that of the last commit while some wait."""
    limit_ms = int((INTERVAL_S + DEADLINE_S) * 1e3)
    topics = [a_topic(name, report={"VALID_THROUGH_MS": NOW_MS - behind_ms})
              for name, behind_ms in (("punctual", limit_ms), ("behind", limit_ms + 60_000))]
    waiting = Waiting({"held": (5, NOW_NS - 50 * S_NS)})
    page = page_of(moment_of(a_service(*topics, a_topic("held")), waiting),
                   Trends(0, (QUIET,) * 3))
    assert page.late == (("behind", 100.0), ("held", 50.0))
    assert [row.is_late for row in page.rows] == [False, True, True]
    told = shown(a_service(*topics, a_topic("held")), waiting=waiting).text
    assert "Late: behind (100 s), held (50 s)" in told
    assert "Nothing is late" not in told


def test_a_topic_shows_its_figures() -> None:
    """The columns, each from its own word."""
    topic = a_topic(
        "orders", paused=Paused.CYCLE_FULL, error=NAMED, standing=Standing.BEHIND,
        report={"LAG": 1234567, "VALID_THROUGH_MS": NOW_MS - 17_000, "BORROWED": 3_200_000,
                "LAST_COMMIT_AT_MS": NOW_MS - 240_000, "DEAD_LETTERS_JSON": 40,
                "DEAD_LETTERS_HEADERS": 2})
    trend = Trend(1234.4, 0.25, ((10.0, 0.0), (0.0, 1234.4)), (("json", 12), ("headers", 1)))
    page = shown(a_service(topic), trend)
    row = " ".join(text for path, text in page.texts if "tbody" in path)
    for words in ("orders", "behind", "cycle full", "1,234", "1,234,567", "17 s", "4 min", "42",
                  "json +12, headers +1", "0.25", "3.2 MB", "StorageUnavailable , over",
                  "(2 min ago)", "put bronze_orders: 403"):
        assert words in row
    assert any("from 0 to 1,234" in (each.get("aria-label") or "") for each in page.all("svg"))


def test_what_is_not_known_is_no_number() -> None:
    """0 would be an answer."""
    unknown = Trend(None, None, (), ())
    page = shown(a_service(a_topic(report={"LAG_KNOWN": 0}), STARTED_AT_MS=0), unknown)
    row = [text for path, text in page.texts if "tbody" in path and path[-1] == "td"]
    assert row == ["active", "-", "-", "-", "-", "unknown", "-", "0", "-", "0.0 MB"]
    assert "No cycle has committed yet." in page.text


@pytest.mark.parametrize(("kind", "left_s", "words", "is_bad"), [
    (Retention.TIME, 7 * 86_400, ["7 d 0 h"], False),
    (Retention.TIME, 3_599, ["60 min loss is near", "loss is near"], True),
    (Retention.TIME, 0, ["0 s loss is near", "loss is near"], True),
    (Retention.TIME_OR_SIZE, 86_400, ["24 h 0 min or by size", "or by size"], False),
    (Retention.SIZE, 86_400, ["unknown or by size", "or by size"], False),
    (Retention.FOREVER, 0, ["never"], False), (Retention.UNKNOWN, 0, ["unknown"], False),
])
def test_time_to_loss_stands_beside_the_lag(
    kind: Retention, left_s: int, words: list[str], is_bad: bool
) -> None:
    """In words where it is no number; in red only where somebody must act."""
    kept_ms = 8 * 86_400_000
    content = render(moment_of(a_service(a_topic(report={
        "RETENTION": kind, "RETENTION_MS": kept_ms,
        "COMMITTED_THROUGH_MS": NOW_MS - kept_ms + 1000 * left_s}))),
        Trends(900.0, (QUIET,)), ADDRESSES)
    cell = re.search(r'<td[^>]*data-label="Time to loss">(.*?)</td>', content, re.DOTALL)
    assert cell is not None
    assert " ".join(re.sub(r"<[^>]*>", "", cell[1]).split()) == words[0]
    assert ("loss is near" in cell[1]) is is_bad
    assert ('"number bad" data-label="Time to loss"' in content) is is_bad


def test_a_short_retention_is_no_alarm_while_messages_get_to_their_tables() -> None:
    """Who keeps messages for ten minutes has them lost within the hour, on purpose."""
    for age_s, is_near in ((100, False), (130, True)):
        topic = a_topic(report={"RETENTION": Retention.TIME, "RETENTION_MS": 600_000,
                                "COMMITTED_THROUGH_MS": NOW_MS - 1000 * age_s})
        assert loss_is_near(a_service(topic), topic, NOW_MS) is is_near


def test_an_error_that_is_over_looks_and_reads_otherwise_than_one_of_now() -> None:
    """What happened in the night is no reason to act in the morning."""
    over = shown(a_service(a_topic(error=NAMED)))
    now = shown(a_service(a_topic(error=NAMED, report={"ERROR_ACTIVE": 1})))
    assert ", over" in over.text and ", now" not in over.text
    assert ", now" in now.text and ", over" not in now.text


@pytest.mark.parametrize("at", ["", "yesterday", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00"])
def test_an_error_with_a_strange_date_does_not_break_the_page(at: str) -> None:
    """The text is a worker's; this page must work when something else does not."""
    assert "StorageUnavailable" in shown(a_service(a_topic(error=replace(NAMED, at=at)))).text


def test_the_cycle_shows_its_phases_with_their_durations() -> None:
    """And how cycles ended."""
    page = shown(a_service(
        LAST_CONSUMING_US=9_800_000, LAST_FLUSHING_US=120_000, LAST_DECIDING_US=15_000,
        LAST_COMMITTING_US=45_000, LAST_COMPLETED_AT_MS=NOW_MS - 4_000, LAST_CYCLE_US=180_000,
        CYCLES_COMPLETED=1234, CYCLES_ABORTED=5, CYCLES_EMPTY=67))
    for words in ("Cycle 12, consuming", "reading 9.8 s", "flushing 120 ms", "deciding 15 ms",
                  "committing 45 ms", "last one complete 4 s ago, took 180 ms",
                  "1,234 committed, 67 empty, 5 aborted"):
        assert words in page.text


def test_memory_and_service_are_named() -> None:
    """What is borrowed of what, and who is asked."""
    topics = [a_topic("a", report={"BORROWED": 2_000_000}),
              a_topic("b", report={"BORROWED": 4_500_000})]
    page = shown(a_service(*topics))
    for words in ("6.5 MB of 26.0 MB", "MEMORY_LIMIT_MB 256", "version 1.0.0", "running for 60 min",
                  "lake s3://lake", "instance 0"):
        assert words in page.text
    assert {link["href"] for link in page.all("a")} == set(ADDRESSES)


# --- for everybody


def test_the_page_is_built_for_screen_readers() -> None:
    """Landmarks, one heading above all others, a table that says what its cells are."""
    drawn = replace(QUIET, chart=((5.0, 1.0), (0.0, 2.0)))
    page = shown(a_service(a_topic("a"), a_topic("b"), LAST_CONSUMING_US=1), drawn, drawn)
    assert len(page.all("polyline")) == 2
    count = Counter(tag for tag, _attributes in page.elements)
    for once in ("h1", "main", "header", "footer", "nav", "table", "caption"):
        assert count[once] == 1
    assert page.all("html") == [{"lang": "en"}]
    assert {each.get("scope") for each in page.all("th")} == {"col", "row"}
    assert len([each for each in page.all("th") if each["scope"] == "row"]) == 2
    for drawing in page.all("svg"):
        assert drawing.get("aria-hidden") == "true" or (
            drawing["role"] == "img" and drawing["aria-label"])
    ids = [attributes["id"] for _tag, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    labelled = {attributes["aria-labelledby"] for _tag, attributes in page.elements
                if "aria-labelledby" in attributes}
    assert labelled == set(ids)


def test_nothing_runs_and_nothing_comes_from_elsewhere() -> None:
    """No script, no style in attributes, no address but ours; the style is the one allowed."""
    text = render(moment_of(a_service()), Trends(0, (QUIET,)), ADDRESSES)
    page = Reader(text)
    assert not {"script", "link", "img", "iframe", "form"} & {tag for tag, _ in page.elements}
    for _tag, attributes in page.elements:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        assert "://" not in (attributes.get("href") or "") + (attributes.get("src") or "")
    (style,) = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert f"style-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "url(" not in style and "@import" not in style and style == STYLE
    assert page.all("meta")[2] == {"http-equiv": "refresh", "content": "5"}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    digits = colour * 2 if len(colour) == 3 else colour
    parts = [int(digits[at:at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
              for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21."""
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast_enough_on_light_and_dark(scheme: int) -> None:
    """WCAG AA: 4.5 for text, 3 for what is drawn."""
    roots = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    colours = {name: "".join(digit * 2 for digit in value) if len(value) == 3 else value
               for name, value in re.findall(r"--(\w+): #(\w+);", roots[scheme])}
    for text in ("text", "soft", "well", "wait", "bad", "link"):
        assert contrast(colours[text], colours["ground"]) >= 4.5, text
    for filled_with in ("well", "wait", "bad"):
        assert contrast(colours["on"], colours[filled_with]) >= 4.5, filled_with
    for drawn in ("flushing", "deciding", "committing"):
        assert contrast(colours[drawn], colours["ground"]) >= 3, drawn


# --- hostile texts


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
@pytest.mark.parametrize(
    "place", ["topic", "lake", "instance", "version", "name", "message", "todo"])
def test_no_text_of_the_block_changes_the_page(place: str, text: str) -> None:
    """Not its elements, not its attributes, not the order in which a line is read."""

    def of(value: str) -> Reader:
        trouble = Trouble("", value if place == "name" else "n",
                          value if place == "message" else "m", value if place == "todo" else "t")
        service = a_service(a_topic(value if place == "topic" else "orders", error=trouble,
                                    report={"ERROR_ACTIVE": 1}))
        about = replace(service.about, **{
            "lake": {"lake": value}, "instance": {"instance": value},
            "version": {"service_version": value}}.get(place, {}))
        return shown(replace(service, about=about))

    hostile, tame = of(text), of("tame")
    bare = [(tag, attributes.keys() - {"title"}) for tag, attributes in hostile.elements]
    assert bare == [(tag, attributes.keys() - {"title"}) for tag, attributes in tame.elements]
    everything = hostile.text + "".join(
        value or "" for _tag, attributes in hostile.elements for value in attributes.values())
    assert everything.isprintable()
    assert printable(text)[:20].split()[0] in hostile.text


def test_a_long_text_is_cut_and_there_in_full_for_who_asks() -> None:
    """One name of 249 letters must not push the others off the screen, however they are shown."""
    name = "orders-" + "x" * 242
    page = shown(a_service(a_topic(name)))
    assert name in {each.get("title") for each in page.all("bdi")}
    assert all(len(text) < 100 for _path, text in page.texts)
    page = shown(a_service(a_topic("\x00" * 36)))
    assert all(len(text) < 100 for _path, text in page.texts)


def test_what_a_template_forgets_is_made_harmless_all_the_same() -> None:
    """The next one who adds a text to the page need not think of it."""
    template = html._PAGE.environment.from_string("<p title='{{ text }}'>{{ text }}</p>")
    assert template.render(text="<\u202e'>") == (
        "<p title='&lt;\\u202e&#39;&gt;'>&lt;\\u202e&#39;&gt;</p>")


def test_the_page_of_a_hostile_block_is_served_through_the_application(tmp_path: Path) -> None:
    """The same from the block's bytes to the answer's."""
    about = {**ABOUT, "topics": [HOSTILE[0]], "instance": HOSTILE[1],
             "service_version": HOSTILE[5], "lake": HOSTILE[8]}
    block = Block.create(tmp_path / "block", 1, json.dumps(about).encode())
    block.slot(0).error.write(json.dumps(dict.fromkeys(
        ("at", "name", "message", "what_to_do"), HOSTILE[9])).encode())
    answer = create_app(block).test_client().get("/")
    assert (answer.status_code, answer.content_type) == (200, "text/html; charset=utf-8")
    page = Reader(answer.get_data(as_text=True))
    assert HOSTILE[0] in page.text
    assert page.all("script") == []
    assert "\\ud800" in page.text
    assert "\\u202e" in page.text


# --- figures and drawings


@pytest.mark.parametrize(("make", "value", "text"), [
    (figures.count, None, "-"), (figures.count, 0, "0"), (figures.count, 1234567, "1,234,567"),
    (figures.rate, None, "-"), (figures.rate, 0.0, "0"), (figures.rate, 0.0123, "0.012"),
    (figures.rate, 12.34, "12.3"), (figures.rate, 12345.6, "12,346"),
    (figures.duration, None, "-"), (figures.duration, 0.0124, "12 ms"),
    (figures.duration, 3.44, "3.4 s"), (figures.duration, 119, "119 s"),
    (figures.duration, 700, "12 min"), (figures.duration, 18_725, "5 h 12 min"),
    (figures.duration, 273_600, "3 d 4 h"),
    (figures.age, None, "-"), (figures.age, 0.4, "0 s"), (figures.age, 61, "61 s"),
    (figures.megabytes, 12_345_678, "12.3 MB"),
])
def test_figures_are_short(make: Callable[[Any], str], value: Any, text: str) -> None:
    """A unit always, and no more digits than somebody reads."""
    assert make(value) == text


def test_a_spark_ends_now_and_begins_where_its_time_is() -> None:
    """All charts share one scale of time, so that what happened together stands together."""
    line = spark([(KEPT_S / 2, 0.0), (KEPT_S / 4, 50.0), (0.0, 25.0)])
    assert line is not None
    xs = [float(point.split(",")[0]) for point in line.points.split()]
    ys = [float(point.split(",")[1]) for point in line.points.split()]
    assert xs == [SPARK_WIDTH / 2, SPARK_WIDTH * 3 / 4, SPARK_WIDTH]
    assert ys[0] > ys[2] > ys[1]
    assert (line.lowest, line.highest) == (0, 50)
    assert spark([(0.0, 1.0)]) is None
    flat = spark([(5.0, 0.0), (0.0, 0.0)])
    assert flat is not None and len({point.split(",")[1] for point in flat.points.split()}) == 1


def test_segments_fill_the_bar_and_none_is_too_thin_to_be_seen() -> None:
    """In their order, and nothing of what never happened."""
    parts = list(segments([("reading", 10.0), ("flushing", 0.0), ("committing", 5.0)]))
    assert [part.name for part in parts] == ["reading", "flushing", "committing"]
    assert parts[0].left == 0
    assert sum(part.width for part in parts) == pytest.approx(BAR_WIDTH)
    assert parts[1].left == pytest.approx(parts[0].width)
    assert 1 < parts[1].width < 10
    assert list(segments([("reading", 0.0), ("flushing", 0.0)])) == []
    assert (filled(13, 26), filled(99, 26), filled(1, 0)) == (BAR_WIDTH / 2, BAR_WIDTH, 0)


# --- the observer's memory


def test_looking_now_and_then_is_enough_to_know_rates(tmp_path: Path) -> None:
    """The server looks by itself; who comes first sees what happened before."""
    block = Block.create(tmp_path / "block", 1, json.dumps(ABOUT).encode())
    clock = FakeClock()
    observer = Observer(block, clock)
    for _ in range(10):
        moment = observer.look()
        clock.advance(3)
        block.slot(0).count(Report.ROWS, 30)
    trends = observer.trends(moment)
    assert trends.topics[0].rows_per_s == pytest.approx(10)
    assert trends.span_s == 24


def test_a_counter_that_falls_is_logged_and_makes_no_rate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only a damaged block can do that."""
    block = Block.create(tmp_path / "block", 1, json.dumps(ABOUT).encode())
    clock = FakeClock()
    observer = Observer(block, clock)
    for rows in (1000, 2000, 5, 7):
        block.slot(0).set_report(Report.ROWS, rows)
        moment = observer.look()
        clock.advance(10)
    assert [record.getMessage() for record in caplog.records] == ["counter_fell"]
    assert observer.trends(moment).topics[0].rows_per_s == 0.2
