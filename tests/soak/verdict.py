"""The end of a soak: all is judged in fresh processes, told in one line, and kept if wrong."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pyarrow import fs

from tests.rig.checker import check, check_log, group_offsets_equal_txn
from tests.rig.cycles_checker import check_cycles
from tests.rig.evidence import Evidence, Strike, commit
from tests.rig.lake import Kept, open_lake
from tests.rig.ledger import Ledger
from tests.rig.record_log import parse_records
from tests.rig.report import Report
from tests.rig.scene import Scene
from tests.rig.service import Service
from tests.services import KafkaService
from tests.soak.plan import Fault
from tests.soak.run import Course, log_lines
from tests.soak.strikes import World

READERS = ("deltalake", "duckdb")
JUDGES = 2
"""Processes that judge at once: the ledger is copied into each."""
STOP_S = 60
BAD_EXITS = frozenset({0, 76, 78})
"""Ends that nobody asked for and that a restart must not be needed for."""
STRAYS_KEPT = 20


@dataclass(slots=True)
class Verdict:
    """What is wrong, in words; nothing at all is a pass."""

    wrong: list[str] = field(default_factory=list)
    report: Report = field(default_factory=Report)
    cycles: int = 0
    judge_s: float = 0.0

    @property
    def outcome(self) -> str:
        """As an evidence line has it."""
        return "failed" if self.wrong else "passed"


def judge(
    scene: Scene, kafka: KafkaService, service: Service, world: World, course: Course
) -> Verdict:
    """Stop the service, hold everything against the ledger, and see that every fault struck."""
    verdict = Verdict()
    started_s = time.monotonic()
    for step in (
        lambda: _stop(service, verdict),
        lambda: _judge_lake(scene, kafka, course, verdict),
    ):
        try:
            step()
        except Exception as error:
            verdict.wrong.append(f"{type(error).__name__}: {error}")
    verdict.judge_s = time.monotonic() - started_s
    never = [str(fault) for fault in Fault if not world.struck[fault]]
    if never:
        verdict.wrong.append(f"void, never struck: {', '.join(never)}")
    bad = {code: count for code, count in world.exits.items() if code in BAD_EXITS}
    if bad:
        verdict.wrong.append(f"ended by itself, exit code -> how often: {bad}")
    return verdict


def _stop(service: Service, verdict: Verdict) -> None:
    if service.is_running():
        code = service.terminate(STOP_S)
        if code != 0:
            verdict.wrong.append(f"the last SIGTERM was answered by exit code {code}")
    else:
        verdict.wrong.append(f"the service had ended: {service.exit_code}")


def _judge_lake(scene: Scene, kafka: KafkaService, course: Course, verdict: Verdict) -> None:
    report = verdict.report
    # Only what was trimmed is taken from earlier looks; all that is there is read anew.
    kept = Kept(records=dict(course.kept.records))
    # In new processes, so that nothing this one has opened or cached can speak for the lake.
    with ProcessPoolExecutor(max_workers=JUDGES, mp_context=get_context("spawn")) as judges:
        where = (scene.lake_uri, scene.options, scene.topics)
        rows = [judges.submit(check, scene.ledger, *where, (reader,)) for reader in READERS]
        log = judges.submit(_judge_log, *where, scene.ledger, kept)
        for answer in rows:
            report.merge(answer.result())
        found, verdict.cycles = log.result()
        report.merge(found)
    for topic in scene.topics:
        kafka.committed_offsets(scene.group, topic)
    report.merge(group_offsets_equal_txn(
        kafka.bootstrap, scene.group, scene.lake_uri, scene.options,
        dict.fromkeys(scene.topics, scene.partitions),
    ))
    report.merge(check_cycles(scene.lake_uri, scene.options, caught_up=False))
    count = scene.ledger.rows()
    for reader in READERS:
        if not count or report.checked[f"rows by {reader}"] != count:
            verdict.wrong.append(f"{reader} saw {report.checked[f'rows by {reader}']} of {count}")
    if report.checked["group offsets"] != len(scene.topics) * scene.partitions:
        verdict.wrong.append("not every group offset was looked at")
    if not report.checked["ledger rows judged"]:
        verdict.wrong.append("no row of bronze_cycles was looked at")
    if not report.ok:
        verdict.wrong.append(str(report))


def _judge_log(
    lake_uri: str, options: Mapping[str, str], topics: Sequence[str], ledger: Ledger, kept: Kept
) -> tuple[Report, int]:
    """What is wrong with the logs of tables and records, and how many cycles were decided."""
    report = check_log(lake_uri, options, topics, ledger=ledger, kept=kept)
    records = parse_records(Report(), kept.records)
    return report, sum(record.kind == "cycle" for record in records)


def line_of(
    verdict: Verdict, scene: Scene, world: World, course: Course, service: Service,
    notes: dict[str, Any], seconds: float,
) -> str:
    """The line of evidence."""
    evidence = Evidence(notes=notes)
    for (kind, what), count in sorted(world.fired.items()):
        evidence.struck(kind, what, count)
    evidence.recoveries_s = course.recoveries_s
    if not verdict.wrong:
        evidence.judged(scene.ledger.rows(), verdict.cycles)
    lines, strays = log_lines(service)
    kinds = {kind: sum(n for (k, _), n in world.fired.items() if k is kind) for kind in Strike}
    notes |= {
        "topics": len(scene.topics), "partitions": scene.partitions,
        "hours": round(seconds / 3600, 3), "periods": course.periods, "quiet": course.quiet,
        "strikes": {kind.value: count for kind, count in kinds.items()},
        "faults": {str(fault): world.struck[fault] for fault in Fault},
        "written": scene.ledger.rows(), "looked_at": dict(verdict.report.checked),
        "looks_on_the_way": course.looks, "judge_seconds": round(verdict.judge_s, 1),
        "exits_nobody_asked_for": {str(code): n for code, n in sorted(world.exits.items())},
        "memory_bytes_max": max((most for _, most in course.memory), default=0),
        "memory_samples": course.memory,
        "log_lines_per_s": round(lines / seconds, 2), "log_lines_not_json": len(strays),
        "log_strays": strays[:STRAYS_KEPT], "wrong": verdict.wrong,
    }
    return evidence.line("tests/soak", (), verdict.outcome, seconds)


def write_line(line: str, folder: Path) -> Path:
    """Add the line to the file of the day and commit; give its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y-%m-%d', time.gmtime())}-{commit()}-soak.jsonl"
    with path.open("a") as file:
        file.write(line + "\n")
    return path


def keep_all(scene: Scene, service: Service, say: Callable[[str], None]) -> Path:
    """Copy log, ledger and lake where nobody deletes them, for whoever looks for the reason."""
    folder = Path(tempfile.mkdtemp(prefix="bronze-soak-kept-"))
    shutil.copy(service.log_path, folder / "service.log")
    with (folder / "ledger.pickle").open("wb") as file:
        pickle.dump(scene.ledger, file)
    target = folder / "lake"
    target.mkdir()
    say(f"copying log, ledger and lake to {folder}")
    fs.copy_files(
        "", "", source_filesystem=open_lake(scene.lake_uri, scene.options),
        destination_filesystem=fs.SubTreeFileSystem(str(target), fs.LocalFileSystem()),
    )
    return folder
