"""Turns a measurement into docs/benchmarks.md and a JSON file. Pure: text in, text out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from bench.compare import PeerRun
from bench.facts import Facts
from bench.phases import CpuByRole, Drain, Idle, Steady
from bench.processes import Memory, Role

MB = 1_000_000
TARGET_MB = 256
"""What the whole service is meant to stay below; no promise before a run shows it."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything one run found; `peer` is None when it was left out."""

    facts: Facts
    topics: int
    partitions: int
    message_bytes: float
    interval_s: float
    steady_per_second: int
    drain: Drain
    idle: Idle
    steady: Steady
    rows: int
    dead_letters: int
    peer: PeerRun | None


def total(cpu: CpuByRole) -> float:
    """CPU seconds of all processes."""
    return sum(cpu.values())


def as_json(found: Measurement) -> str:
    """The whole measurement, for comparing runs."""
    return json.dumps(asdict(found), indent=1) + "\n"


def as_markdown(found: Measurement) -> str:
    """The page for readers."""
    parts = [_intro(found), _machine(found.facts), _drain(found),
             _memory(found.drain.memory.at_peak), _cpu(found), _idle_and_steady(found)]
    if found.peer is not None:
        parts.append(_peer(found, found.peer))
    return "\n".join([*parts, _method(found)])


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def megabytes(count: float) -> str:
    """Bytes as MB (10^6), as the table shows them."""
    return f"{count / MB:,.1f}"


def _intro(found: Measurement) -> str:
    return (
        "# Benchmarks\n\n"
        "Written by `make bench`; edit `bench/report.py` instead. Every figure is of one run, "
        f"in which all {found.rows + found.dead_letters:,} messages were found exactly once in "
        f"the tables ({found.rows:,} rows, {found.dead_letters:,} dead letters) before anything "
        "was counted.\n")


def _machine(facts: Facts) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    state = " with uncommitted changes" if facts.is_dirty else ""
    return "## Where\n\n" + table(["", "This run"], [
        ["CPU", f"{facts.cpu}, {facts.cores} cores"], ["Memory", facts.memory],
        ["Kernel", facts.kernel], ["Load average before", f"{facts.load:.2f}"],
        ["Versions", versions], ["Commit", f"`{facts.commit}`{state}"],
        ["Command", f"`{facts.command}`"], ["Date", facts.at]]) + (
        "\nKafka, MinIO and the producer ran on the same cores.\n")


def _drain(found: Measurement) -> str:
    drain, peak = found.drain, found.drain.memory.peak
    per = 1e6 / drain.late
    workers = drain.cpu.get(Role.WORKER, 0.0)
    verdict = "below" if peak <= TARGET_MB * MB else "above"
    return (
        f"## Draining {drain.messages:,} messages\n\n"
        f"{found.topics} topics of {found.partitions} partitions, JSON values of "
        f"{found.message_bytes:.0f} bytes on average, one in a thousand malformed, a flush every "
        f"{found.interval_s:g} s.\n\n" + table(["Measure", "Value"], [
            ["Start until READY", f"{drain.start_s:.2f} s"],
            ["Read by early workers before READY", f"{drain.early:,} messages"],
            ["The others read, from READY", f"{drain.read_s:.2f} s"],
            ["Read", f"{drain.late / max(drain.read_s, 1e-9):,.0f} messages/s"],
            ["Committed, from READY", f"{drain.committed_s:.2f} s"],
            ["Committed", f"{drain.messages / drain.committed_s:,.0f} messages/s"],
            ["Mean flush, start to last commit", f"{drain.flush_s * 1000:,.0f} ms"],
            ["CPU of the workers, from READY",
             f"{workers:.2f} s, {workers * per:.2f} us/message"],
            ["CPU of all processes, from READY",
             f"{total(drain.cpu):.2f} s, {total(drain.cpu) * per:.2f} us/message"],
            ["CPU of all processes until READY", f"{total(drain.start_cpu):.2f} s"],
            ["CPU of all processes, start included",
             f"{(total(drain.cpu) + total(drain.start_cpu)) * 1e6 / drain.messages:.2f} "
             "us/message"],
            ["Peak memory of all processes (PSS)", f"{megabytes(peak)} MB"],
            ["Mean memory (PSS)", f"{megabytes(drain.memory.mean)} MB"],
        ]) + (
        f"\nThe peak is {verdict} the {TARGET_MB} MB that are the aim for the whole service.\n"))


def _memory(processes: list[Memory]) -> str:
    order = list(Role)
    rows = [
        [process.role.value, *(megabytes(value) for value in (
            process.pss, process.anonymous, process.file, process.private))]
        for process in sorted(processes, key=lambda one: (order.index(one.role), -one.pss))]
    sums = [sum(getattr(process, name) for process in processes)
            for name in ("pss", "anonymous", "file", "private")]
    return "## Memory at the peak, by process (MB)\n\n" + table(
        ["Process", "PSS", "of it anonymous", "of it files", "Private"],
        [*rows, ["**all**", *(f"**{megabytes(value)}**" for value in sums)]])


def _cpu(found: Measurement) -> str:
    roles = [role for role in Role if role in found.drain.cpu]
    return "## CPU by kind of process (s)\n\n" + table(
        ["Process", "Until READY", "Drain", f"Idle {found.idle.seconds:.0f} s",
         f"Steady {found.steady.seconds:.0f} s"],
        [[role.value, *(f"{cpu.get(role, 0.0):.2f}" for cpu in (
            found.drain.start_cpu, found.drain.cpu, found.idle.cpu, found.steady.cpu))]
         for role in roles])


def _idle_and_steady(found: Measurement) -> str:
    idle, steady = found.idle, found.steady
    share = 100 * total(idle.cpu) / idle.seconds
    return "## Idle and under a steady stream\n\n" + table(
        ["Measure", "Idle", f"{found.steady_per_second:,} messages/s"], [
            ["Duration", f"{idle.seconds:.1f} s", f"{steady.seconds:.1f} s"],
            ["CPU of all processes", f"{share:.2f} % of a core",
             f"{total(steady.cpu) / steady.seconds:.3f} cores"],
            ["Mean memory (PSS)", f"{megabytes(idle.memory.mean)} MB",
             f"{megabytes(steady.memory.mean)} MB"],
            ["Peak memory (PSS)", f"{megabytes(idle.memory.peak)} MB",
             f"{megabytes(steady.memory.peak)} MB"],
            ["Commits, records, new objects",
             f"{idle.commits}, {idle.records}, {idle.objects_written}", "-"],
            ["Last commit after the last message", "-", f"{steady.behind_s:.2f} s"]])


def _peer(found: Measurement, peer: PeerRun) -> str:
    drain, per = found.drain, 1e6 / peer.messages
    ours_us, theirs_us = total(drain.cpu) * 1e6 / drain.late, peer.cpu_s * per
    rate, peer_rate = drain.messages / drain.committed_s, peer.messages / peer.committed_s
    return (
        "## Beside a simple script\n\n"
        "`bench/peer.py`: one process, `consume` into lists, `write_deltalake` every "
        f"{found.interval_s:g} s. It checks no message, has no dead letters, no flush of all "
        f"topics together and no protection against rows twice. Before the "
        f"service was started it copied the same {peer.messages:,} messages, found once each "
        "by the same count.\n\n" + table(
            ["Measure", "Service", "Script", "Script / service"], [
                ["Committed, messages/s", f"{rate:,.0f}", f"{peer_rate:,.0f}",
                 f"{peer_rate / rate:.2f}"],
                ["CPU, us/message", f"{ours_us:.2f}", f"{theirs_us:.2f}",
                 f"{theirs_us / ours_us:.2f}"],
                ["Peak memory (PSS), MB", megabytes(drain.memory.peak),
                 megabytes(peer.memory.peak),
                 f"{peer.memory.peak / drain.memory.peak:.2f}"]]))


def _method(found: Measurement) -> str:
    watching = 100 * found.drain.memory.watching_cpu_s / (
        found.drain.start_s + found.drain.committed_s)
    return (
        "## How\n\n"
        "- Memory is the PSS of every process of the service, from `/proc/<pid>/smaps_rollup`, "
        "summed every 100 ms (every second while idle); MB are 10^6 bytes.\n"
        "- CPU is user and system time from `/proc/<pid>/stat`, ended children included. Up to "
        "READY it is the cost of starting; the figures per message do not hold it unless they "
        "say so. Kafka, MinIO, the producer and the measuring are not in it; taking the samples "
        f"cost {watching:.1f} % of a core, which the service had to do without.\n"
        "- READY is the message of that name to the service manager. A worker begins to read "
        "when it is ready itself, so some messages are read before that; figures per message "
        "from READY are per message read after it, those with the start included per message of "
        "all.\n"
        "- The time of the last commit is the service's own (`bronze_last_commit_timestamp_"
        f"seconds`). It falls on the end of an interval of {found.interval_s:g} s, so the "
        "committed rate says more about the interval than about speed; the read rate is that of "
        "checking, encoding and uploading. It is looked at every 250 ms.\n"
        "- The metrics are asked for every 250 ms during the drain and not at all while idle; "
        "the sidecar's CPU is part of the sum.\n"
        "- The producer writes uncompressed batches with keys and without headers.\n")
