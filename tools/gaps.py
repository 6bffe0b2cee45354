"""Which offsets have no row, and why, out of what is recorded.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tools.report import Line, Status
from tools.tiling import Claim

CHECK = "gaps"
LINES_MAX = 100
"""Lost ranges that are listed one by one; the rest is counted."""


def as_lines(claims: Mapping[str, Sequence[Claim]]) -> Iterator[Line]:
    """Per topic: each lost range, then the offsets that were skipped or never delivered."""
    for topic in sorted(claims):
        yield from _topic_lines(topic, claims[topic])


def _topic_lines(topic: str, claims: Sequence[Claim]) -> Iterator[Line]:
    lost = [(claim.record, part.partition, gap) for claim in claims for part in claim.ranges
            for gap in part.lost]
    for record, partition, gap in lost[:LINES_MAX]:
        yield Line(CHECK, topic, Status.WARN,
                   f"partition {partition}: offsets [{gap.start}, {gap.end}) were lost upstream, "
                   f"{gap.end - gap.start:,} of them ({gap.cause}, record {record})",
                   "See OffsetGap in the runbook: what Kafka no longer has, only its source has.")
    if len(lost) > LINES_MAX:
        rest = sum(gap.end - gap.start for _, _, gap in lost[LINES_MAX:])
        yield Line(CHECK, topic, Status.WARN,
                   f"and {len(lost) - LINES_MAX} further ranges of {rest:,} offsets")
    ranges = [part for claim in claims for part in claim.ranges]
    skipped = sum(part.skipped for part in ranges)
    if skipped:
        yield Line(CHECK, topic, Status.WARN,
                   f"{skipped:,} malformed messages were dropped (ON_MALFORMED=skip)",
                   "DLQ_ENABLED=true keeps them.")
    absent = sum(part.absent for part in ranges)
    if absent:
        yield Line(CHECK, topic, Status.OK,
                   f"{absent:,} offsets never held a message that Kafka delivers: control "
                   "records, aborted or compacted messages")
    elif not lost and not skipped:
        yield Line(CHECK, topic, Status.OK, "every offset is a row or a dead letter")
