"""The ring of samples and the rates made of it: bounded, right, and unknown where unknown."""

from __future__ import annotations

import pytest

from healthcheck.history import (
    CHART_POINTS_MAX, KEPT, KEPT_S, SAMPLE_INTERVAL_S, SAMPLES_MAX, History, Point, chart, grown,
    rate, rate_window_s, unbroken,
)
from shared.layout import Report
from tests.fakes.snapshots import S_NS, a_topic

MB = 1_000_000


def points(*pairs: tuple[float, int]) -> list[Point]:
    """(seconds, counter) as the ring gives them."""
    return [(int(seconds * S_NS), counter) for seconds, counter in pairs]


def filled(count: int, topics: int = 1, per_s: int = 10) -> History:
    """Give a ring with `count` samples of a steady rate."""
    history = History(topics)
    for step in range(count):
        rows = int(step * SAMPLE_INTERVAL_S * per_s)
        history.add(int(step * SAMPLE_INTERVAL_S * S_NS) + S_NS, [
            a_topic(f"t{index}", report={"ROWS": rows * (index + 1)}) for index in range(topics)])
    return history


def test_the_ring_keeps_the_newest_samples_only() -> None:
    """The page's process has a small share of memory, however long the service runs."""
    history = filled(3 * SAMPLES_MAX + 7)
    series = history.series(0, Report.ROWS)
    assert len(history) == len(series) == SAMPLES_MAX
    newest = (3 * SAMPLES_MAX + 6) * int(SAMPLE_INTERVAL_S)
    assert series[-1] == ((newest + 1) * S_NS, newest * 10)
    assert [new[0] - old[0] for old, new in zip(series, series[1:], strict=False)] == [
        int(SAMPLE_INTERVAL_S) * S_NS] * (SAMPLES_MAX - 1)
    assert history.span_s() == KEPT_S - SAMPLE_INTERVAL_S


def test_the_ring_of_64_topics_stays_below_a_megabyte() -> None:
    """As many as a service may have."""
    history = filled(SAMPLES_MAX, topics=64)
    assert len(history) == SAMPLES_MAX
    assert sum(each.buffer_info()[1] * each.itemsize
               for each in (history._times, history._words)) < MB


def test_looks_between_two_samples_are_not_kept() -> None:
    """Many askers must not push the past out of the ring."""
    history = filled(2)
    for step in range(100):
        history.add(int((6.01 + step / 100) * S_NS), [a_topic(report={"ROWS": 99})])
    assert len(history) == 2


@pytest.mark.parametrize("count", [1, SAMPLES_MAX - 1, SAMPLES_MAX, SAMPLES_MAX + 1])
def test_each_topic_and_word_keeps_its_own_column(count: int) -> None:
    """Columns that changed places would give one topic another one's rate."""
    history = History(2)
    for step in range(count):
        history.add(int(step * SAMPLE_INTERVAL_S * S_NS) + 1, [
            a_topic(name, report={word.name: 1000 * topic + 10 * column + step
                                  for column, word in enumerate(KEPT)})
            for topic, name in enumerate("ab")])
    for topic in range(2):
        for column, word in enumerate(KEPT):
            assert history.series(topic, word)[-1][1] == 1000 * topic + 10 * column + count - 1


def test_a_rate_is_growth_over_time() -> None:
    """Of the window, not of all that is known."""
    steady = points(*((second, second * 7) for second in range(0, 300, 5)))
    assert rate(steady, 60, 10) == 7
    late = points((0, 0), (100, 1000), (130, 1000), (160, 1060))
    assert rate(late, 60, 10) == 1
    assert rate(late, 30, 10) == 2
    assert rate(late, 60, 10, at=1) == 10


@pytest.mark.parametrize("known", [[], points((0, 5)), points((0, 5), (9, 500))])
def test_a_rate_over_too_short_a_time_is_unknown(known: list[Point]) -> None:
    """Rows come in steps: two seconds with a commit in them are no rate."""
    assert rate(known, 60, 10) is None


def test_a_rate_after_a_long_pause_is_the_mean_of_the_pause() -> None:
    """The page's process was frozen; what happened meanwhile happened."""
    assert rate(points((0, 0), (5, 5), (1005, 2005)), 60, 10) == 2


def test_a_counter_that_fell_begins_a_new_series() -> None:
    """No rate is made across the fall, neither a negative nor a huge one."""
    fell = points((0, 10**15), (5, 10**15 + 5), (10, 3), (15, 3), (20, 53))
    assert unbroken(fell) == points((10, 3), (15, 3), (20, 53))
    assert unbroken([]) == []
    history = History(1)
    said = [history.add(second * S_NS, [a_topic(report={"ROWS": rows})])
            for second, rows in ((0, 100), (5, 40), (10, 90), (15, 140))]
    assert said == [[], [("orders", Report.ROWS)], [], []]
    assert history.trend(0, batch_interval_s=10).rows_per_s == 10


def test_rates_take_a_window_of_several_flushes() -> None:
    """Where a flush comes once in five minutes, a minute has none or all of it."""
    assert rate_window_s(0.01) == rate_window_s(10) == 60
    assert rate_window_s(100) == 300
    assert rate_window_s(86_400) == KEPT_S


def test_a_chart_is_the_rate_of_past_moments() -> None:
    """Oldest first, its last point is the rate of now, and not more points than are drawn."""
    drawn = list(chart(filled(SAMPLES_MAX).series(0, Report.ROWS), 60, 10))
    assert len(drawn) <= CHART_POINTS_MAX
    assert drawn[-1] == (0, 10)
    assert {per_s for _age, per_s in drawn} == {10}
    ages = [age_s for age_s, _per_s in drawn]
    assert ages == sorted(ages, reverse=True)
    assert ages[0] > KEPT_S - 60
    rising = points((0, 0), (10, 0), (20, 100))
    assert list(chart(rising, 60, 10)) == [(10, 0), (0, 5)]


def test_classes_that_grew_are_told_the_newest_first() -> None:
    """What has been wrong since before the window is old news."""
    assert list(grown({
        "old": points((0, 50), (5, 50), (10, 50)),
        "first": points((0, 1), (5, 4), (10, 4)),
        "last": points((0, 0), (5, 0), (10, 2)),
        "none": [],
    })) == [("last", 2), ("first", 3)]


def test_a_trend_has_rows_and_dead_letters_of_all_classes() -> None:
    """The rate of dead letters is that of all classes together."""
    history = History(2)
    for step in range(5):
        history.add(step * 5 * S_NS, [a_topic("a"), a_topic("b", report={
            "ROWS": 100 * step, "DEAD_LETTERS_JSON": 10 * step, "DEAD_LETTERS_EMPTY": 5 * step})])
    trend = history.trend(1, batch_interval_s=10)
    assert (trend.rows_per_s, trend.dead_letters_per_s) == (20, 3)
    assert dict(trend.new_dead_letters) == {"json": 40, "empty": 20}
    assert len(trend.chart) == 3
    idle = history.trend(0, batch_interval_s=10)
    assert (idle.rows_per_s, idle.dead_letters_per_s, idle.new_dead_letters) == (0, 0, ())
    begun = History(1).trend(0, batch_interval_s=10)
    assert (begun.rows_per_s, begun.dead_letters_per_s, begun.chart) == (None, None, ())
