"""How long a table wants things kept, in the words that Delta's properties have for it."""

from __future__ import annotations

import pytest

from keeper.retention import DAY_MS, interval_ms, log_retention_ms, removed_retention_ms


@pytest.mark.parametrize(("text", "days"), [
    ("interval 7 days", 7), ("INTERVAL 1 Day", 1), (" interval  2   weeks ", 14), ("3 weeks", 21),
    ("interval 36 hours", 1.5), ("interval 90 minutes", 1 / 16), ("interval 86400 seconds", 1),
    ("interval 43200000 milliseconds", 0.5), ("interval 1 week 2 days 12 hours", 9.5),
    ("interval 0 days", 0)])
def test_durations_are_what_they_say(text: str, days: float) -> None:
    """In each unit that has a length, in one or in several."""
    assert interval_ms(text) == days * DAY_MS


@pytest.mark.parametrize("text", [
    "", "interval", "interval 1", "interval days", "interval -1 days", "interval 1.5 days",
    "interval 1 month", "interval 2 years", "interval 2 fortnights", "interval 1 day and more",
    "7", "P7D", "interval '7' days", "interval 7days", "interval 1 day2 hours",
    "interval ٣ days", f"interval {10 ** 30} days"])
def test_what_is_not_understood_is_no_duration(text: str) -> None:
    """Nothing is then deleted: a guess would delete too early."""
    assert interval_ms(text) is None
    assert log_retention_ms({"delta.logRetentionDuration": text}) is None
    assert removed_retention_ms({"delta.deletedFileRetentionDuration": text}) is None


def test_a_table_that_says_nothing_has_deltas_defaults() -> None:
    """And one that wants its entries for ever has them."""
    assert (log_retention_ms({}), removed_retention_ms({})) == (30 * DAY_MS, 7 * DAY_MS)
    assert log_retention_ms({"delta.enableExpiredLogCleanup": "false"}) is None
    assert log_retention_ms({"delta.enableExpiredLogCleanup": "TRUE"}) == 30 * DAY_MS


def test_the_longest_duration_is_still_a_time() -> None:
    """Arrow compares it as 64 bits."""
    longest = interval_ms("interval " + " ".join(["999999999 weeks"] * 6))
    assert longest is not None and longest < 2 ** 62
