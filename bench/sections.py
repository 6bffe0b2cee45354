"""The parts of docs/benchmarks.md, one a scenario. Pure: numbers in, Markdown out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.commits import quantile
from bench.processes import Role
from bench.scenarios.drain import Drain, idle_share
from bench.scenarios.files import Files
from bench.scenarios.freshness import Freshness
from bench.scenarios.growth import Growth
from bench.scenarios.large import Large
from bench.scenarios.outage import Outage
from bench.scenarios.steady import Steady
from bench.scenarios.topics import Topics
from bench.scenarios.window import Window
from bench.stream import Stream
from bench.tables import by_process, megabytes, table
from bench.watch import total


def _drain(found: Drain) -> str:
    per, peak = 1e6 / found.late, found.memory.peak
    everything = total(found.cpu) + total(found.start_cpu)
    primed = found.rows + found.dead_letters - found.messages
    return (
        f"## Draining {found.messages:,} messages\n\n"
        f"{found.topics} topics of {found.partitions} partitions, JSON values of "
        f"{found.message_bytes:.0f} bytes on average, one in a thousand malformed, a flush every "
        f"{found.interval_s:g} s; {found.checkpoints} checkpoints of bronze tables fell into "
        f"it. In all {found.rows:,} rows and {found.dead_letters:,} dead letters were counted, the "
        f"{primed:,} among them with which the tables were primed before.\n\n"
        + table(["Measure", "Value"], [
            ["Start until READY", f"{found.start_s:.2f} s"],
            ["Read by early workers before READY", f"{found.early:,} messages"],
            ["The others read, from READY", f"{found.read_s:.2f} s"],
            ["Read", f"{found.per_second:,.0f} messages/s"],
            ["Committed, from READY", f"{found.committed_s:.2f} s"],
            ["Mean flush, start to last commit", f"{found.flush_s * 1000:,.0f} ms"],
            ["CPU of the workers, from READY", f"{found.worker_us:.2f} us/message"],
            ["CPU of all processes, from READY", f"{total(found.cpu) * per:.2f} us/message"],
            ["CPU of all processes, start included",
             f"{everything * 1e6 / found.messages:.2f} us/message"],
            ["Peak memory of all processes (PSS)", f"{megabytes(peak)} MB"],
            ["Highest between two looks, estimated",
             f"{megabytes(found.memory.highest_estimate)} MB"],
            ["Mean memory (PSS)", f"{megabytes(found.memory.mean)} MB"],
            ["Idle afterwards: peak memory (PSS)", f"{megabytes(found.idle.memory.peak)} MB"],
            ["Idle afterwards: CPU of all processes",
             f"{100 * idle_share(found.idle):.2f} % of a core"],
            ["Idle afterwards: commits, records, new objects",
             f"{found.idle.commits}, {found.idle.records}, {found.idle.objects_written}"]])
        + "\n## Where the megabytes go\n\nAt the peak of the drain, by process (MB); "
        "`main` is the supervisor, `sidecar` the health page:\n\n"
        + by_process(found.memory.at_peak)
        + "\n## CPU by kind of process (s)\n\n" + table(
            ["Process", "Until READY", "Drain", f"Idle {found.idle.seconds:.0f} s"],
            [[role.value, *(f"{cpu.get(role, 0.0):.2f}" for cpu in (
                found.start_cpu, found.cpu, found.idle.cpu))]
             for role in Role if role in found.cpu]))


def _streams(streams: Mapping[str, Stream]) -> str:
    """A table with a column a stream."""
    def row(name: str, text: Callable[[Stream], str]) -> list[str]:
        return [name, *(text(one) for one in streams.values())]

    def window(one: Stream) -> str:
        if not one.windows_s:
            return "-"
        return ", ".join(f"{1000 * quantile(one.windows_s, share):.0f}"
                         for share in (0.5, 0.99, 1.0)) + f" ms ({len(one.windows_s)})"

    return table(["Measure", *streams], [
        row("Sent", lambda one: f"{one.messages:,} in {one.seconds:.0f} s"),
        row("Interval", lambda one: f"{one.interval_s:g} s"),
        row("CPU of all processes", lambda one: f"{one.cores:.3f} cores"),
        row("CPU per message",
            lambda one: f"{total(one.cpu) * 1e6 / one.messages:.2f} us"),
        row("Mean memory (PSS)", lambda one: f"{megabytes(one.memory.mean)} MB"),
        row("Peak memory (PSS)", lambda one: f"{megabytes(one.memory.peak)} MB"),
        row("Mean commit", lambda one: f"{one.commit_s * 1000:.0f} ms"),
        row("Last commit after the last message", lambda one: f"{one.behind_s:.2f} s"),
        row("Age of rows when visible, p50, p99, highest", lambda one: ", ".join(
            f"{one.age(share):.2f}" for share in (0.5, 0.99, 1.0)) + " s"),
        row("Window, p50, p99, longest (cycles)", window)])


def _steady(found: Steady) -> str:
    return (f"## A steady {found.stream.per_second:,} messages/s\n\n"
            + _streams({"Stream": found.stream}))


def _freshness(found: Freshness) -> str:
    return ("## Freshness at an interval of a second\n\n"
            + _streams({f"{one.per_second:,}/s": one for one in (found.many, found.few)}))


def _window(found: Window) -> str:
    return ("## From the first to the last table of a cycle\n\n"
            + _streams({"Even load": found.even, "90 % in one topic": found.skewed}))


def _files(found: Files) -> str:
    return (
        f"## Tables with {found.files:,} files\n\n"
        f"The same stream into empty tables, and after {found.files:,} files of {found.days} days "
        "had come into each of them. The files are entries of the tables' logs with statistics; "
        "no object lies behind them, for the service reads no data file that is committed.\n\n"
        + _streams({"Empty tables": found.empty, f"{found.files:,} files": found.full}))


def _large(found: Large) -> str:
    return (
        "## Messages of 1 MB\n\n"
        f"{found.large:,} messages of {found.large_bytes:,} bytes in one topic, "
        f"{found.ordinary:,} ordinary ones in seven others, drained in {found.committed_s:.1f} s "
        f"from READY. Peak memory (PSS): {megabytes(found.memory.peak)} MB.\n\n"
        + by_process(found.memory.at_peak))


def _topics(found: Topics) -> str:
    head = ["Topics", "Until READY", "CPU of the workers, start", "CPU of the workers",
            "Peak memory (PSS)", "Idle after it"]
    rows = [[str(one.topics), f"{one.start_s:.1f} s", f"{one.start_cpu_s:.2f} s",
             f"{one.worker_us:.2f} us/message", f"{megabytes(one.memory.peak)} MB",
             f"{megabytes(one.idle.peak)} MB"] for one in found.points]
    return (
        f"## More topics\n\n{found.messages:,} messages of backlog, in all, over more topics of "
        "4 partitions. MEMORY_LIMIT_MB grows with the topics. The CPU per message is without that "
        "of a start that finds nothing to read.\n\n" + table(head, rows)
        + f"\nA further topic costs {megabytes(found.per_topic('memory'))} MB at the peak and "
        f"{megabytes(found.per_topic('idle'))} MB when idle.\n")


def _outage(found: Outage) -> str:
    return (
        "## The store away\n\n"
        f"The store was killed under a steady {found.per_second:,} messages/s and came back after "
        f"{found.back_at - found.away_at:.0f} s; all {found.messages:,} messages were committed "
        f"{found.done_at - found.back_at:.1f} s after that. Peak memory (PSS): "
        f"{megabytes(found.memory.peak)} MB, mean {megabytes(found.memory.mean)} MB.\n\n"
        + by_process(found.memory.at_peak))


def _growth(found: Growth) -> str:
    names = {"cpu_us": ("CPU of all processes per message", 1.0, "us"),
             "commit_s": ("A commit", 1000.0, "ms"), "pss": ("Memory (PSS)", 1e-6, "MB")}
    rows = []
    for name, (title, factor, unit) in names.items():
        line = found.line(name)
        rows.append([title, f"{line.first * factor:.2f} {unit}", f"{line.last * factor:.2f} {unit}",
                     f"{line.growth:+.1%} ± {line.error:.1%}"])
    return (
        f"## {found.points[-1].cycles:,} cycles\n\n"
        f"An interval of {found.interval_s:g} s and {found.per_second:,} messages/s. At its end "
        f"{found.log_objects:,} objects lay in the log of the fullest bronze table. Of a line "
        "fitted to each measure:\n\n"
        + table(["Measure", "Begins at", "Ends at", "Growth, standard error"], rows))


SECTIONS: Mapping[str, Callable[[Any], str]] = {
    "drain": _drain, "steady": _steady, "window": _window, "freshness": _freshness,
    "files": _files, "large": _large, "topics": _topics, "outage": _outage, "growth": _growth,
}
"""Scenario -> the part that shows its numbers."""
