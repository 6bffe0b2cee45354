"""Metrics in Prometheus' text format, made from `METRICS` and one moment per scrape.

The one place that imports prometheus_client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.metrics_core import (
    CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric as Family,
)

from healthcheck.metrics import METRICS, Kind, Metric
from healthcheck.moment import Moment
from healthcheck.snapshot import Durations
from shared.layout import BUCKET_BOUNDS_S

__all__ = ["CONTENT_TYPE", "Exposition"]


class Exposition:
    """Renders what `look` sees; a registry of its own, without the library's process metrics."""

    def __init__(self, look: Callable[[], Moment]) -> None:
        self._look = look
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """All metrics of this moment; raises what `look` raises."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        """What prometheus_client asks of a collector; all families from one look."""
        moment = self._look()
        for metric in METRICS:
            yield _family(metric, moment)

    def describe(self) -> Iterator[Family]:
        """Nothing: registering must not look at the block."""
        return iter(())


def _family(metric: Metric, moment: Moment) -> Family:
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in metric.values(moment):
            assert isinstance(value, Durations)
            histogram.add_metric(labels, _cumulative(value), value.sum_seconds)
        return histogram
    make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=metric.labels)
    for labels, value in metric.values(moment):
        assert not isinstance(value, Durations)
        family.add_metric(labels, float(value))
    return family


def _cumulative(durations: Durations) -> list[tuple[str, float]]:
    """(upper bound, observations up to it), the last one for every observation."""
    bounds = [str(bound) for bound in BUCKET_BOUNDS_S] + ["+Inf"]
    return list(zip(bounds, accumulate(durations.counts), strict=True))
