"""Waiting for something to become true, which is how tests here wait instead of sleeping.

A test never sleeps for a guessed time: it names the condition and the longest it may take.
So it goes on as soon as it can, and a failure says what did not happen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_INTERVAL_S = 0.05
"""Short beside every duration that tests care about, long enough not to burn a core."""


def wait_until(
    condition: Callable[[], T],
    timeout_s: float,
    message: str | Callable[[], str],
    poll_interval_s: float = POLL_INTERVAL_S,
) -> T:
    """Call ``condition`` until its answer is true, and return that answer.

    The condition is always called at least once, and once more after the time is up, so that a
    slow condition gets a last look. An exception from it is not swallowed: a condition that may
    fail for a while says so itself by returning something false.

    Args:
        condition: asked again and again; any true value ends the wait.
        timeout_s: the longest wait, in seconds.
        message: what should have become true, in words, or a function that says so when asked.
        poll_interval_s: pause between two questions, in seconds.

    Raises:
        AssertionError: the time is up; the text holds the message and the last answer.
    """
    started_s = time.monotonic()
    while True:
        is_last = time.monotonic() - started_s >= timeout_s
        answer = condition()
        if answer:
            return answer
        if is_last:
            text = message if isinstance(message, str) else message()
            raise AssertionError(
                f"waited {timeout_s:g} s in vain until: {text} (last answer: {answer!r})"
            )
        time.sleep(poll_interval_s)
