"""The last minutes of the counters that the status page shows rates of, in a bounded ring.

Pure: time comes as an argument, CLOCK_MONOTONIC in nanoseconds.  Counters only grow: the block
outlives every worker, and a new service makes a new block.  A smaller one can only come of a
damaged block; it begins a new series, so that no rate is made across the fall, and is named to
whoever adds the sample.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from healthcheck.snapshot import TopicSnapshot
from shared.layout import DEAD_LETTERS, Report

SAMPLE_INTERVAL_S = 5.0
KEPT_S = 900.0
SAMPLES_MAX = int(KEPT_S / SAMPLE_INTERVAL_S)
"""64 topics take 0.5 MB."""
KEPT = (Report.ROWS, *DEAD_LETTERS.values())
"""The words of a topic that a sample holds."""
RATE_WINDOW_S = 60.0
"""Rates are means of this long, or of `INTERVALS` flushes where those are rare."""
INTERVALS = 3
CHART_POINTS_MAX = 60

Point = tuple[int, int]
"""(CLOCK_MONOTONIC ns, counter)."""


@dataclass(frozen=True, slots=True)
class Trend:
    """What a topic's counters did; rates are per second, None while not known.

    chart: (age in seconds, rows per second) of past moments, oldest first.
    new_dead_letters: (error class, how many) of those that grew, the one that grew last first.
    """

    rows_per_s: float | None
    dead_letters_per_s: float | None
    chart: tuple[tuple[float, float], ...]
    new_dead_letters: tuple[tuple[str, int], ...]


class History:
    """Samples of `KEPT` of every topic, the newest `SAMPLES_MAX` of them."""

    def __init__(self, topic_count: int) -> None:
        self._width = topic_count * len(KEPT)
        self._times = array("Q")
        self._words = array("Q")
        self._next = 0

    def __len__(self) -> int:
        return len(self._times)

    def add(self, now_ns: int, topics: Sequence[TopicSnapshot]) -> list[tuple[str, Report]]:
        """Keep a sample when one is due; (topic, word) of counters that have fallen since."""
        if self and now_ns - self._times[self._next - 1] < SAMPLE_INTERVAL_S * 1e9:
            return []
        words = array("Q", [topic.report[word] for topic in topics for word in KEPT])
        before = self._sample(self._next - 1) if self else words
        if len(self) < SAMPLES_MAX:
            self._times.append(now_ns)
            self._words.extend(words)
        else:
            self._times[self._next] = now_ns
            self._words[self._next * self._width:(self._next + 1) * self._width] = words
        self._next = (self._next + 1) % SAMPLES_MAX
        return [(topics[place // len(KEPT)].name, KEPT[place % len(KEPT)])
                for place, (old, new) in enumerate(zip(before, words, strict=True)) if new < old]

    def series(self, topic: int, word: Report) -> list[Point]:
        """One counter of the topic of that index, oldest first, since it last fell."""
        column = topic * len(KEPT) + KEPT.index(word)
        return unbroken([(self._times[index], self._words[index * self._width + column])
                         for index in self._order()])

    def trend(self, topic: int, batch_interval_s: float) -> Trend:
        """What the counters of the topic of that index did."""
        window_s = rate_window_s(batch_interval_s)
        least_s = min(batch_interval_s, window_s / 2)
        rows = self.series(topic, Report.ROWS)
        letters = {name: self.series(topic, word) for name, word in DEAD_LETTERS.items()}
        rates = [rate(points, window_s, least_s) for points in letters.values()]
        known = [each for each in rates if each is not None]
        return Trend(
            rows_per_s=rate(rows, window_s, least_s),
            dead_letters_per_s=sum(known) if len(known) == len(rates) else None,
            chart=tuple(chart(rows, window_s, least_s)),
            new_dead_letters=tuple(grown(letters)))

    def span_s(self) -> float:
        """Seconds between the oldest and the newest sample."""
        times = [self._times[index] for index in self._order()]
        return (times[-1] - times[0]) / 1e9 if times else 0.0

    def _sample(self, index: int) -> array[int]:
        index %= SAMPLES_MAX
        return self._words[index * self._width:(index + 1) * self._width]

    def _order(self) -> Iterator[int]:
        """Indexes of the samples, oldest first."""
        oldest = self._next if len(self) == SAMPLES_MAX else 0
        return ((oldest + step) % SAMPLES_MAX for step in range(len(self)))


def rate_window_s(batch_interval_s: float) -> float:
    """Over how many seconds a rate is taken: rows come in steps, one for each flush."""
    return min(max(RATE_WINDOW_S, INTERVALS * batch_interval_s), KEPT_S)


def unbroken(points: Sequence[Point]) -> list[Point]:
    """The newest points without a fall between them."""
    begin = max(0, len(points) - 1)
    while begin and points[begin - 1][1] <= points[begin][1]:
        begin -= 1
    return list(points[begin:])


def rate(
    points: Sequence[Point], window_s: float, least_s: float, at: int | None = None
) -> float | None:
    """Growth per second over the `window_s` before point `at` (the newest); None while `least_s`
    are not covered.  Where nobody looked for longer, it is the mean since the look before.
    """
    at = len(points) - 1 if at is None else at
    if at < 1:
        return None
    newest_ns, newest = points[at]
    within = bisect_left(points, (newest_ns - int(window_s * 1e9), 0))
    begin_ns, begin = points[min(within, at - 1)]
    covered_s = (newest_ns - begin_ns) / 1e9
    return (newest - begin) / covered_s if covered_s >= least_s else None


def chart(
    points: Sequence[Point], window_s: float, least_s: float
) -> Iterator[tuple[float, float]]:
    """(age in seconds, growth per second then), oldest first, of at most `CHART_POINTS_MAX`."""
    step = max(1, -(-len(points) // CHART_POINTS_MAX))
    for index in range((len(points) - 1) % step, len(points), step):
        then = rate(points, window_s, least_s, index)
        if then is not None:
            yield (points[-1][0] - points[index][0]) / 1e9, then


def grown(series: dict[str, list[Point]]) -> Iterator[tuple[str, int]]:
    """(name, growth) of the counters that grew, the one that grew last first."""
    last_ns = {name: max((new[0] for old, new in zip(points, points[1:], strict=False)
                          if new[1] > old[1]), default=0) for name, points in series.items()}
    for name in sorted(last_ns, key=lambda each: -last_ns[each]):
        if last_ns[name]:
            yield name, series[name][-1][1] - series[name][0][1]
