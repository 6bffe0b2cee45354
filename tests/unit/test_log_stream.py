"""A log line never makes its writer wait, whatever stands behind standard error."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.log_stream import PatientStream, open_stderr

LINE = '{"event": "something", "text": "' + "x" * 200 + '"}\n'
LINES_MAX = 20_000
"""Far more than any pipe or socket holds."""

Ends = tuple[int, Callable[[int], bytes]]
"""The end a stream writes to, and how to read from the other one."""


def pipe() -> Ends:
    """As a shell gives it."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    return writer, lambda count: os.read(reader, count)


def journal() -> Ends:
    """As the journal gives it: a socket."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return ours.detach(), theirs.recv


@pytest.fixture(params=[pipe, journal])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Give both kinds of standard error that can be full."""
    made: Ends = request.param()
    yield made
    os.close(made[0])


def read_all(read: Callable[[int], bytes]) -> bytes:
    """Everything that waits to be read."""
    found = b""
    while True:
        try:
            found += read(1 << 16)
        except BlockingIOError:
            return found


def test_lines_beyond_what_fits_are_dropped_whole_and_counted(ends: Ends) -> None:
    """Whoever reads later sees good lines only, and how many are missing."""
    writer, read = ends
    stream = PatientStream(writer)
    for _ in range(LINES_MAX):
        stream.write(LINE)
    before = read_all(read)
    stream.write(LINE)
    after = read_all(read)
    lines = (before + after).decode().splitlines()
    events = [json.loads(line) for line in lines]
    dropped = [event["count"] for event in events if event["event"] == "log_lines_dropped"]
    assert len(dropped) == 1
    assert dropped[0] > 0
    assert len(lines) - 1 + dropped[0] == LINES_MAX + 1
    assert lines[-1] == LINE.strip()


def test_the_callers_own_descriptor_keeps_its_mode(ends: Ends) -> None:
    """It is shared with the terminal or the shell that started the service."""
    PatientStream(ends[0]).write(LINE)
    assert os.get_blocking(ends[0])


def test_a_reader_that_is_gone_is_no_error() -> None:
    """A broken pipe must not end a worker."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = PatientStream(writer)
    stream.write(LINE)
    stream.write(LINE)
    os.close(writer)


def test_a_file_gets_every_line(tmp_path: Path) -> None:
    """As with `2>service.log`."""
    with (tmp_path / "log").open("wb") as file:
        stream = PatientStream(file.fileno())
        for _ in range(3):
            stream.write(LINE)
    assert (tmp_path / "log").read_text() == LINE * 3


def test_a_closed_standard_error_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some supervisors start services without one."""
    monkeypatch.setattr("shared.log_stream.STDERR", 987)
    monkeypatch.setattr(PatientStream.__init__, "__defaults__", (987,))
    with open_stderr() as stream:  # type: ignore[union-attr]
        stream.write(LINE)
