"""`verify` on real tables: a clean lake passes quickly, and each of many planted wrongs is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from tests.rig.made_lake import MadeLake

ROOT = Path(__file__).resolve().parents[2]
TOPICS = ("orders", "payments")
CYCLES = 6
TOOL_S = 60
COMMITS = 1_000

BRONZE, DLQ = "bronze_orders", "dlq_bronze_orders"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> MadeLake:
    """Give a lake of some cycles, the last one not in the ledger yet."""
    lake = MadeLake(tmp_path_factory.mktemp("verify") / "lake", TOPICS)
    for _ in range(CYCLES - 1):
        lake.cycle()
    lake.enter()
    lake.cycle()
    return lake


class Copy:
    """A copy of the clean lake to do wrong to."""

    def __init__(self, clean: MadeLake, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(clean.folder, folder)
        self.environ = {**clean.environ, "LAKE_URI": str(folder)}

    def table(self, name: str) -> DeltaTable:
        """One of its tables."""
        return DeltaTable(self.folder / name)

    def files(self, name: str) -> list[Path]:
        """The data files of a table's newest version."""
        return sorted(self.folder / name / path
                      for path in pa.table(self.table(name).get_add_actions())["path"].to_pylist())

    def verify(self, *options: str) -> dict[str, Any]:
        """Run the tool as people do; its report."""
        return verify(self.environ, *options)


def verify(environ: dict[str, str], *options: str) -> dict[str, Any]:
    """Run the tool in a process of its own: its report, with the exit code as `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "verify", "--json", *options], cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ}, capture_output=True, text=True,
        timeout=TOOL_S, check=False)
    assert done.stdout, done.stderr
    return {**json.loads(done.stdout), "code": done.returncode}


@pytest.fixture
def lake(clean: MadeLake, tmp_path: Path) -> Iterator[Copy]:
    """Give a copy of the clean lake."""
    yield Copy(clean, tmp_path / "lake")


@pytest.mark.parametrize("options", [(), ("--deep",)])
def test_a_clean_lake_passes(lake: Copy, options: tuple[str, ...]) -> None:
    """Every offset is a row, a dead letter, or was never delivered; one record is not in the
    ledger yet, and counts all the same."""
    report = lake.verify(*options)
    assert (report["code"], report["status"]) == (0, "ok"), report
    found = {line["subject"]: line["found"] for line in report["lines"]
             if line["check"] == "verify"}
    offsets = CYCLES * 30 * 2
    assert found.keys() == set(TOPICS)
    assert found["orders"].startswith(f"{offsets} offsets of 2 partitions, each with one fate: ")
    assert "never delivered" in found["orders"]


def remove_a_file(lake: Copy) -> None:
    """The store lost a file that the table names."""
    lake.files(BRONZE)[0].unlink()


def cut_a_file(lake: Copy) -> None:
    """A file was overwritten by half of itself."""
    path = lake.files(DLQ)[0]
    path.write_bytes(path.read_bytes()[:-10])


def append_rows_again(lake: Copy) -> None:
    """Another job has loaded a file once more."""
    rows = lake.table(BRONZE).to_pyarrow_table().slice(0, 5)
    write_deltalake(lake.folder / BRONZE, rows, mode="append")


def append_new_rows(lake: Copy) -> None:
    """Another job writes rows of its own."""
    rows = lake.table(BRONZE).to_pyarrow_table().slice(0, 3)
    at = rows.schema.get_field_index("_kafka_offset")
    rows = rows.set_column(at, "_kafka_offset", pa.array([900, 901, 902], pa.int64()))
    write_deltalake(lake.folder / BRONZE, rows, mode="append")


def delete_rows(lake: Copy) -> None:
    """Somebody ran a DELETE."""
    lake.table(BRONZE).delete("_kafka_offset = 31 and _kafka_partition = 1")


def delete_dead_letters(lake: Copy) -> None:
    """Somebody cleaned up."""
    lake.table(DLQ).delete()


def restore_an_old_version(lake: Copy) -> None:
    """Rows went back, and positions did not."""
    table = lake.table(BRONZE)
    table.restore(table.version() - 2)


def move_a_position(lake: Copy) -> None:
    """Another writer sets our positions."""
    table = lake.table(BRONZE)
    table.create_write_transaction(
        [], "append", table.schema(), ["_ingestion_date"], commit_properties=CommitProperties(
            app_transactions=[Transaction("bronze/orders/1", 500)]))


def lose_a_record(lake: Copy) -> None:
    """A record that is not in the ledger was deleted, and with it what became of its offsets."""
    newest = max((lake.folder / "_bronze/log").iterdir())
    newest.unlink()


def forget_rows_of_the_ledger(lake: Copy) -> None:
    """Rows of the ledger were deleted: a hole between two records."""
    lake.table("bronze_cycles").delete("record = 3")


def drop_a_table(lake: Copy) -> None:
    """A table's folder is gone."""
    shutil.rmtree(lake.folder / BRONZE)


PLANTED: list[tuple[Callable[[Copy], None], str]] = [
    (remove_a_file, "is not in the store"),
    (cut_a_file, "bytes in the store"),
    (append_rows_again, "foreign"),
    (append_new_rows, "foreign"),
    (delete_rows, "removed"),
    (delete_dead_letters, "removed"),
    (restore_an_old_version, "removed"),
    (move_a_position, "the table stands at 500, offsets [180, 500) are in no record"),
    (lose_a_record, "offsets [150, 180) are in no record"),
    (forget_rows_of_the_ledger, "hole: partition 0: offsets [60, 90) are in no record"),
    (drop_a_table, "there is no bronze table"),
]


@pytest.mark.parametrize(("plant", "said"), PLANTED, ids=[p.__name__ for p, _ in PLANTED])
def test_a_planted_wrong_is_found_and_named(
    lake: Copy, plant: Callable[[Copy], None], said: str
) -> None:
    """With exit code 1, on the topic it concerns, and with what to do."""
    plant(lake)
    report = lake.verify()
    failed = [line for line in report["lines"] if line["status"] == "fail"]
    assert report["code"] == 1
    assert any(said in line["found"] for line in failed), failed
    assert {line["subject"] for line in failed} <= {"orders", *(
        TOPICS if plant in (lose_a_record, forget_rows_of_the_ledger) else ())}
    assert all(line["what_to_do"] for line in failed)


def test_deep_names_rows_that_are_there_twice_offset_by_offset(lake: Copy) -> None:
    """After a compaction of another job, files alone prove nothing."""
    table = lake.table(BRONZE)
    rows = table.to_pyarrow_table().sort_by([("_kafka_partition", "ascending"),
                                             ("_kafka_offset", "ascending")])
    wrong = pa.concat_tables([rows.slice(1), rows.slice(9, 1)])
    write_deltalake(lake.folder / BRONZE, wrong, mode="overwrite")
    shallow, deep = lake.verify(), lake.verify("--deep")
    assert shallow["code"] == 0
    assert any("rewritten" in line["found"] for line in shallow["lines"])
    found = [line["found"] for line in deep["lines"] if line["status"] == "fail"]
    assert deep["code"] == 1
    assert any(text.startswith("double: partition 0: offsets [") for text in found), found
    assert any(text.startswith("missing: partition 0: of [0, 30)") for text in found), found


def test_a_decided_cycle_that_is_not_committed_yet_is_no_fault(
    clean: MadeLake, tmp_path: Path
) -> None:
    """Beside a running service there is always one."""
    lake = MadeLake(tmp_path / "own", ("orders",))
    lake.cycle()
    lake.cycle(committed=False)
    report = verify(lake.environ)
    assert report["code"] == 0, report


@pytest.mark.slow
def test_a_clean_lake_of_a_thousand_commits_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From statistics and logs alone; how long the process took is told."""
    lake = MadeLake(tmp_path / "lake", ("orders",))
    for _ in range(COMMITS):
        lake.cycle(3)
    lake.enter()
    began = time.monotonic()
    report = verify(lake.environ)
    took_s = time.monotonic() - began
    assert report["code"] == 0, report
    assert "6,000 offsets" in json.dumps(report)
    with capsys.disabled():
        print(f"\nverify: a lake of {COMMITS} commits in {took_s:.1f} s")


def test_bad_configuration_is_the_configurations_fault() -> None:
    """Exit code 78, and every fault at once, as of the service itself."""
    report = verify({"KAFKA_TOPICS": "orders"})
    assert report["code"] == 78
    assert any("LAKE_URI" in json.dumps(line) for line in report["lines"])
