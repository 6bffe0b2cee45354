"""The demo from start to end: cluster, generator, service, view, summary.

Ends with 0 after Ctrl-C or SIGTERM, when the service stopped cleanly; with 1 when the
service ended by itself or had to be killed, or when the demo could not start.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live

from demo import events, health, lake, view
from demo.broker import BrokerError, EmbeddedCluster
from demo.feeder import Feeder
from demo.service import Service, environment, free_port

PARTITIONS = 4
_ROOT = Path(__file__).resolve().parent.parent
_HOST = "127.0.0.1"
_LOCK_NAME = "demo.lock"
_PID_WIDTH = 20
_FRAME_SECONDS = 0.25
_HEALTH_SECONDS = 1.0
_LINE_SECONDS = 3.0
# Longer than a few cycles, because rows land once per cycle.
_RATE_WINDOW_SECONDS = 20.0
_LOG_LINES_SHOWN = 15
# The mock broker hands out its newest messages up to a fetch wait (1 s) late; a real one does not.
_LINGER_SECONDS = 1.5
_EXPLANATION = (
    "The demo's Kafka lives in this process and forgets everything when it ends, so its"
    " offsets begin at 0 each time. Tables of an earlier run would claim those offsets;"
    " that is why every run begins with an empty lake."
)


class DemoError(RuntimeError):
    """The demo cannot run; the message says why and what to do."""


class StopRequest:
    """Counts SIGINT and SIGTERM. The handler only counts, the loop decides."""

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        """Take over both signals of this process."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def is_urgent(self) -> bool:
        """Asked twice: do not wait any longer."""
        return self.count > 1

    def _on_signal(self, _number: int, _frame: object) -> None:
        self.count += 1


class Rates:
    """Rows per second and topic over the last seconds, from readings of the row counters."""

    def __init__(self, window_seconds: float) -> None:
        self._window = window_seconds
        self._readings: deque[tuple[float, Mapping[str, int]]] = deque()

    def add(self, now: float, rows: Mapping[str, int]) -> None:
        """Note the counters at `now`, in seconds of any steady clock."""
        self._readings.append((now, rows))
        while len(self._readings) > 2 and self._readings[1][0] <= now - self._window:
            self._readings.popleft()

    def per_second(self) -> dict[str, float]:
        """Empty until there are two readings."""
        if len(self._readings) < 2:
            return {}
        (first_at, first), (last_at, last) = self._readings[0], self._readings[-1]
        span = last_at - first_at
        return {name: max(0, last[name] - first.get(name, 0)) / span for name in last if span > 0}


def main(argv: Sequence[str] | None = None, service_command: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code. `service_command` replaces the service in tests."""
    options = _options(argv)
    stop = StopRequest()
    stop.install()
    console = Console()
    command = service_command or (sys.executable, "-m", "supervisor")
    try:
        return _run(options, command, stop, console)
    except (DemoError, BrokerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Run the service on an embedded Kafka with a shop's events, and watch it.",
        epilog=_EXPLANATION,
    )
    parser.add_argument("--rate", type=float, default=2000.0, help="messages/s (default 2000)")
    parser.add_argument("--messages", type=int, default=2_000_000,
                        help="stop to generate after so many (default 2000000)")
    parser.add_argument("--seconds", type=float, default=None, help="end by itself after so long")
    parser.add_argument("--seed", type=int, default=1, help="of the generator (default 1)")
    parser.add_argument("--folder", type=Path, default=_ROOT / ".demo",
                        help="for the lake and the log (default .demo)")
    options = parser.parse_args(argv)
    if options.rate <= 0 or options.messages < 0:
        parser.error("--rate must be above 0 and --messages at least 0")
    return options


def _run(
    options: argparse.Namespace, command: Sequence[str], stop: StopRequest, console: Console
) -> int:
    started = time.monotonic()
    folder: Path = options.folder.resolve()
    port = free_port()
    place = view.Place(
        health_url=f"http://{_HOST}:{port}/", lake=folder / "lake",
        log=folder / "service.log", python=Path(sys.executable),
    )
    with ExitStack() as stack:
        lock = _prepare_folder(folder, place.lake)
        stack.callback(os.close, lock)
        cluster = EmbeddedCluster(events.TOPICS, PARTITIONS)
        stack.callback(cluster.close)
        feeder = Feeder(cluster.address, rate=options.rate, total=options.messages,
                        seed=options.seed)
        feeder.start()
        stack.callback(feeder.stop)
        env = environment(os.environ, broker=cluster.address, topics=events.TOPICS,
                          lake=place.lake, port=port)
        service = Service(command, env, cwd=_ROOT, log=place.log, lock=lock)
        stack.callback(service.stop, stop.is_urgent)
        # For the next demo, should this one be killed and leave its service behind.
        os.pwrite(lock, f"{service.pid:<{_PID_WIDTH}}\n".encode(), 0)
        _say(console, [f"Embedded Kafka: {cluster.address}", f"Health page: {place.health_url}",
                       *view.queries(place, "orders"), ""])
        ends = None if options.seconds is None else started + options.seconds
        watch = _Watch(feeder, place, port, started, console)
        died = _watch_until(stop, service, watch, ends)
        feeder.stop()
        if died:
            return _report_death(service, place, console)
        _say(console, ["Stopping: the service finishes its cycle (Ctrl-C again to kill it)"])
        _linger(stop)
        code = service.stop(stop.is_urgent)
        counts = lake.count_rows(place.lake, events.TOPICS)
        _say(console, view.summary(counts, feeder.state(), place))
        if code != 0:
            _say(console, [f"The service did not stop cleanly: exit code {code}, see its log."])
        return 0 if code == 0 else 1


def _linger(stop: StopRequest) -> None:
    """Let the last messages be read, so that the last cycle holds all that was sent."""
    until = time.monotonic() + _LINGER_SECONDS
    while time.monotonic() < until and not stop.is_urgent():
        time.sleep(_FRAME_SECONDS)


class _Watch:
    """What the loop looks at, and the readings that it keeps between frames."""

    def __init__(
        self, feeder: Feeder, place: view.Place, port: int, started: float, console: Console
    ) -> None:
        self.console = console
        self._feeder = feeder
        self._place = place
        self._port = port
        self._started = started
        self._rates = Rates(_RATE_WINDOW_SECONDS)
        self._report = health.Report("starting")
        self._next_reading = started

    def snapshot(self, now: float) -> view.Snapshot:
        """The newest state, reading the health page when a reading is due."""
        if now >= self._next_reading:
            self._next_reading = now + _HEALTH_SECONDS
            self._read(now)
        return view.Snapshot(
            now=datetime.now(UTC), elapsed_seconds=now - self._started, report=self._report,
            rates=self._rates.per_second(), feeder=self._feeder.state(), place=self._place,
        )

    def _read(self, now: float) -> None:
        report = health.fetch(_HOST, self._port)
        if not report.topics and report.status == health.UNREACHABLE:
            # The counters of the last good reading stay on the screen.
            ever_reached = bool(self._report.topics)
            status = health.UNREACHABLE if ever_reached else "starting"
            reasons = report.reasons if ever_reached else ()
            self._report = health.Report(
                status, reasons, self._report.cycle_id, self._report.phase, self._report.topics
            )
            return
        self._report = report
        self._rates.add(now, {name: topic.rows for name, topic in report.topics.items()})
        self._feeder.observe(report.landed(), report.lag())


def _watch_until(
    stop: StopRequest, service: Service, watch: _Watch, ends: float | None
) -> bool:
    """Show frames until a stop is asked for (False) or the service has ended (True)."""
    console = watch.console
    is_live = console.is_terminal and not console.is_dumb_terminal
    frames = Live(console=console, auto_refresh=False, transient=True) if is_live else None
    next_line = time.monotonic()
    with ExitStack() as stack:
        if frames is not None:
            stack.enter_context(frames)
        while stop.count == 0:
            now = time.monotonic()
            if ends is not None and now >= ends:
                return False
            if service.exit_code is not None:
                return True
            snapshot = watch.snapshot(now)
            if frames is not None:
                frames.update(view.live(snapshot, events.TOPICS), refresh=True)
            elif now >= next_line:
                next_line = now + _LINE_SECONDS
                _say(console, [view.line(snapshot)])
            time.sleep(_FRAME_SECONDS)
    return False


def _report_death(service: Service, place: view.Place, console: Console) -> int:
    _say(console, [
        f"The service ended by itself with exit code {service.exit_code}."
        f" The last lines of {place.log}:",
        *(service.log_tail(_LOG_LINES_SHOWN) or ["(it logged nothing)"]),
    ])
    return 1


def _prepare_folder(folder: Path, tables: Path) -> int:
    """Make the folder, with an empty lake; returns the locked file's descriptor.

    The lock is held by this process and by the service it starts, so that a second demo
    cannot empty the lake under either of them.
    """
    lock_file = folder / _LOCK_NAME
    if folder.exists() and not lock_file.exists() and any(folder.iterdir()):
        raise DemoError(
            f"{folder} holds files that no demo has made, and the demo empties its folder's lake:"
            " name a new or empty folder with --folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DemoError(f"cannot use {folder}: {error}; name another with --folder") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, _PID_WIDTH, 0).decode().strip() or "unknown yet"
        os.close(lock)
        raise DemoError(
            f"another demo, or the service it started (process {pid}), still uses {folder}:"
            " stop it, or name another folder with --folder"
        ) from None
    try:
        if tables.exists():
            shutil.rmtree(tables)
        tables.mkdir()
        (folder / ".gitignore").write_text("*\n")
    except OSError as error:
        os.close(lock)
        raise DemoError(f"cannot empty {tables}: {error}; remove it by hand") from error
    return lock


def _say(console: Console, lines: Sequence[str]) -> None:
    """Print lines as they are: not wrapped, not highlighted, so that commands can be pasted."""
    for text in lines:
        console.print(text, soft_wrap=True, markup=False, highlight=False)
