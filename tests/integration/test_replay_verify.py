"""`dlq` and `verify` on a lake in a folder: what is told, and planted wrongs about replays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from shared.naming import replay_path
from tests.rig.made_lake import FIT, UNFIT, MadeLake
from tests.rig.readers import DuckdbReader

ROOT = Path(__file__).resolve().parents[2]
TOPICS = ("orders", "payments")
CYCLES = 4
FIT_LETTERS = CYCLES * 30 // 7
"""Every seventh offset of partition 0 is a dead letter that today's checks take."""
BRONZE, DLQ, REPLAYS = "bronze_orders", "dlq_bronze_orders", "dlq_replays"
TOOL_S = 60


class Copy:
    """A copy of a lake, and the tools on it."""

    def __init__(self, made: MadeLake, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(made.folder, folder)
        self.environ = {**made.environ, "LAKE_URI": str(folder)}

    def run(self, *argv: str) -> dict[str, Any]:
        """Run a tool in a process of its own: its report, with the exit code as `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", *argv, "--json"], cwd=ROOT,
            env={"PATH": os.environ["PATH"], **self.environ}, capture_output=True, text=True,
            timeout=TOOL_S, check=False)
        assert done.stdout, done.stderr
        return {**json.loads(done.stdout), "code": done.returncode}

    def table(self, name: str) -> DeltaTable:
        """One of its tables."""
        return DeltaTable(self.folder / name)

    def replayed(self) -> Copy:
        """Itself, with the dead letters of `orders` replayed."""
        assert self.run("dlq", "replay", "orders", "--all")["code"] == 0
        return self


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeLake:
    """Give a lake of some cycles, the last one not in the ledger yet."""
    lake = MadeLake(tmp_path_factory.mktemp("replays") / "lake", TOPICS)
    for _ in range(CYCLES - 1):
        lake.cycle()
    lake.enter()
    lake.cycle()
    return lake


@pytest.fixture
def lake(made: MadeLake, tmp_path: Path) -> Copy:
    """Give a copy of it."""
    return Copy(made, tmp_path / "lake")


def everything(folder: Path) -> dict[str, bytes]:
    """Every object of a lake."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def test_from_the_list_to_a_verified_replay(lake: Copy, tmp_path: Path) -> None:
    """As the README goes through it: stats, list, show, dry run, replay, mend, verify."""
    before = everything(lake.folder)
    (orders, payments) = lake.run("dlq", "stats")["topics"]
    assert (orders["topic"], orders["open"], orders["error_classes"]) == (
        "orders", 2 * FIT_LETTERS, {"json": 2 * FIT_LETTERS})
    (group,) = lake.run("dlq", "list", "orders")["groups"]
    assert (group["count"], group["error"]) == (2 * FIT_LETTERS, "refused by an older release (byte N)")
    saved = tmp_path / "saved"
    shown = lake.run("dlq", "show", "orders", "1", "7", "--save", str(saved))
    assert shown["letter"]["fingerprint"] == group["fingerprint"]
    assert saved.read_bytes() == UNFIT
    dry = lake.run("dlq", "replay", "orders", "--fingerprint", group["fingerprint"], "--dry-run")
    assert (dry["well_formed"], dry["malformed"], dry["replays"]) == (FIT_LETTERS, FIT_LETTERS, [])
    assert everything(lake.folder) == before
    done = lake.run("dlq", "replay", "orders", "--fingerprint", group["fingerprint"])
    assert done["replays"] == [{"replay": 1, "letters": FIT_LETTERS}]
    saved.write_bytes(FIT)
    mended = lake.run("dlq", "replay", "orders", "--partition", "1", "--offset", "7",
                      "--value-file", str(saved))
    assert mended["replays"] == [{"replay": 2, "letters": 1}]
    assert lake.run("dlq", "stats", "orders")["topics"][0]["open"] == FIT_LETTERS - 1
    assert lake.run("dlq", "show", "orders", "1", "7")["letter"]["replay"] == 2
    for options in ((), ("--deep",)):
        report = lake.run("verify", *options)
        assert (report["code"], report["status"]) == (0, "ok"), report
    after = everything(lake.folder)
    assert {path: after[path] for path in before} == before, "something was changed"
    assert not [path for path in after.keys() - before.keys() if path.startswith(DLQ)]


def test_what_is_not_there_is_said(lake: Copy, tmp_path: Path) -> None:
    """With exit code 1 where something was asked for by name, and with what to do."""
    for argv in (("show", "orders", "0", "8"), ("replay", "orders", "--fingerprint", "0" * 12),
                 ("replay", "orders", "--partition", "0", "--offset", "8"),
                 ("replay", "nobody", "--all"),
                 ("show", "orders", "0", "7", "--save", str(lake.folder)),
                 ("replay", "orders", "--partition", "0", "--offset", "7", "--value-file",
                  str(tmp_path / "none"))):
        report = lake.run("dlq", *argv)
        assert report["code"] == 1, argv
        assert all(line["what_to_do"] for line in report["lines"]), report
    assert lake.run("dlq", "list", "nobody")["status"] == "warn"
    (line,) = lake.run("dlq", "replay", "nobody", "--all")["lines"]
    assert line["found"] == "there is no dead letter table of this topic"


def load_the_rows_again(lake: Copy) -> None:
    """Another job has appended a replay's rows once more."""
    rows = lake.table(BRONZE).to_pyarrow_table()
    at = rows.filter((pc.field("_kafka_partition") == 0) & (pc.field("_kafka_offset") == 7))
    write_deltalake(lake.folder / BRONZE, at, mode="append")


def delete_the_rows(lake: Copy) -> None:
    """Somebody ran a DELETE over them."""
    lake.table(BRONZE).delete("_kafka_partition = 0 and _kafka_offset = 7")


def forget_the_plan(lake: Copy) -> None:
    """Somebody cleaned up under _bronze."""
    (lake.folder / replay_path("orders", 1)).unlink()


def forget_a_record(lake: Copy) -> None:
    """A row of the table of replays was deleted."""
    lake.table(REPLAYS).delete("_kafka_offset = 7")


def lose_the_table_of_replays(lake: Copy) -> None:
    """It is gone."""
    shutil.rmtree(lake.folder / REPLAYS)


def lose_a_file_of_it(lake: Copy) -> None:
    """Its data is gone, its log is not."""
    for path in (lake.folder / REPLAYS).rglob("*.parquet"):
        path.unlink()


def damage_the_plan(lake: Copy) -> None:
    """It cannot be read."""
    (lake.folder / replay_path("orders", 1)).write_bytes(b"{}")


def lose_the_rows_file(lake: Copy) -> None:
    """The store lost it."""
    plan = json.loads((lake.folder / replay_path("orders", 1)).read_bytes())
    (path,) = [file["path"] for file in plan["files"] if file["table"] == "bronze"]
    (lake.folder / BRONZE / path).unlink()


def move_the_number(lake: Copy) -> None:
    """Another writer sets the `txn` of replays."""
    table = lake.table(BRONZE)
    table.create_write_transaction(
        [], "append", table.schema(), ["_ingestion_date"], commit_properties=CommitProperties(
            app_transactions=[Transaction("bronze/orders/replay", 5)]))


PLANTED: list[tuple[Callable[[Copy], None], str]] = [
    (load_the_rows_again, "foreign"),
    (delete_the_rows, "removed: bronze file"),
    (forget_the_plan, "the bronze table has replay 1, which is not in the lake's log"),
    (forget_a_record, "replayed dead letters that the table of replays lacks: 0:7"),
    (lose_the_table_of_replays, "the table of replays only goes to 0"),
    (lose_a_file_of_it, "the table of replays cannot be read"),
    (damage_the_plan, "replay 1 of orders cannot be read"),
    (lose_the_rows_file, "is not in the store"),
    (move_the_number, "the bronze table has replay 5"),
]


@pytest.mark.parametrize(("plant", "said"), PLANTED, ids=[p.__name__ for p, _ in PLANTED])
def test_a_planted_wrong_about_replays_is_found_and_named(
    lake: Copy, plant: Callable[[Copy], None], said: str
) -> None:
    """With exit code 1, on the topic it concerns, and with what to do."""
    plant(lake.replayed())
    report = lake.run("verify")
    failed = [line for line in report["lines"] if line["status"] == "fail"]
    assert report["code"] == 1
    assert any(said in line["found"] for line in failed), report
    assert {line["subject"] for line in failed} == {"orders"}
    assert all(line["what_to_do"] for line in failed)


def test_a_replayed_row_that_is_there_twice_is_found_behind_a_compaction(lake: Copy) -> None:
    """Files alone prove nothing then: one row too few elsewhere, one replayed row too many."""
    lake.replayed()
    rows = lake.table(BRONZE).to_pyarrow_table()
    keys = list(zip(rows["_kafka_partition"].to_pylist(), rows["_kafka_offset"].to_pylist(),
                    strict=True))
    doubled = rows.take([index for index, key in enumerate(keys) if key != (0, 8)]
                        + [keys.index((0, 7))])
    write_deltalake(lake.folder / BRONZE, doubled, mode="overwrite")
    assert lake.run("verify")["code"] == 0
    found = [line["found"] for line in lake.run("verify", "--deep")["lines"]
             if line["status"] == "fail"]
    assert "double: replayed dead letters that are rows twice: 0:7" in found
    assert any(text.startswith("missing: partition 0: of [0, 30)") for text in found), found


def test_compacted_replays_are_no_fault(lake: Copy) -> None:
    """Another job has rewritten all files of the table; row by row nothing has changed."""
    lake.replayed().table(BRONZE).optimize.compact()
    for options in ((), ("--deep",)):
        report = lake.run("verify", *options)
        assert report["code"] == 0, report


def test_a_decided_replay_that_is_not_finished_is_told_and_finished(lake: Copy) -> None:
    """Its last commit is taken back here, as if it had been killed before it."""
    log = lake.folder / BRONZE / "_delta_log"
    before = max(log.glob("*.json"))
    newest = max((lake.replayed().folder / BRONZE / "_delta_log").glob("*.json"))
    assert newest > before
    newest.unlink()
    (note,) = [line for line in lake.run("verify", "orders")["lines"] if line["status"] == "warn"]
    assert "decided replays are not in the bronze table yet (1)" in note["found"]
    dry = lake.run("dlq", "replay", "orders", "--all", "--dry-run")
    assert (dry["finished"], dry["status"]) == ([1], "warn")
    assert lake.run("dlq", "replay", "orders", "--all")["finished"] == [1]
    report = lake.run("verify", "--deep", "orders")
    assert (report["code"], report["status"]) == (0, "ok"), report


def test_the_documented_query_gives_the_open_dead_letters(lake: Copy) -> None:
    """docs/tools.md has it; another reader than the tools' own runs it."""
    page = (ROOT / "docs/tools.md").read_text()
    text = page.split("in DuckDB\n", 1)[1].split("\n\n", 1)[0]
    assert "anti join" in text
    lake.replayed()
    found = DuckdbReader(None)._connection.execute(
        text.replace("d.*", "_kafka_partition").replace("s3://lake/bronze", str(lake.folder)))
    assert found.fetchall() == [(1,)] * FIT_LETTERS
