"""``wait_until``: what every test that waits relies on."""

from __future__ import annotations

import time

import pytest

from tests.waiting import wait_until


def test_wait_until_returns_the_first_true_answer() -> None:
    """The answer is often what the test goes on with."""
    answers = iter([None, 0, "", "found", "later"])

    assert wait_until(lambda: next(answers), 5, "an answer", poll_interval_s=0) == "found"


def test_wait_until_fails_with_message_and_last_answer_when_time_is_up() -> None:
    """A wait that ends in silence would pass a test whose condition never held."""
    started_s = time.monotonic()

    with pytest.raises(AssertionError, match=r"0\.1 s .* until: rows land \(last answer: 0\)"):
        wait_until(lambda: 0, 0.1, lambda: "rows land", poll_interval_s=0.01)

    assert time.monotonic() - started_s >= 0.1


def test_wait_until_asks_once_even_without_time() -> None:
    """A condition that already holds is no failure, whatever the time left."""
    assert wait_until(lambda: True, 0, "it holds") is True


def test_wait_until_lets_errors_of_the_condition_through() -> None:
    """An error is news of its own, and must not turn into a time-out."""

    def condition() -> bool:
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError):
        wait_until(condition, 5, "never")
