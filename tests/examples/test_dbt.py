"""The dbt project: built on one cycle, then on what arrived since, with its own tests."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.examples.conftest import ROOT, Run, python_of
from tests.examples.shop import TOPICS, ShopLake, rows

PROJECT = ROOT / "examples" / "dbt"
DBT_S = 1200
FIRST, SECOND, THIRD, FOURTH = range(0, 30), range(30, 70), range(70, 120), range(120, 180)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(DBT_S)]


class Dbt:
    """The project with a lake and a database of a test's own."""

    def __init__(self, run: Run, lake: Path, folder: Path) -> None:
        self._run, self.database = run, folder / "staging.duckdb"
        self._command = str(python_of("dbt").with_name("dbt"))
        self._environ = {
            "LAKE_URI": str(lake), "STAGING_DATABASE": str(self.database),
            "DBT_TARGET_PATH": str(folder / "target"), "DBT_LOG_PATH": str(folder / "logs")}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`dbt …` in the project's folder."""
        return self._run(self._command, *arguments, environ=self._environ, folder=PROJECT)

    def built(self, *arguments: str) -> str:
        """What a successful run of it printed."""
        ended = self(*arguments)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def by_cycle(self, topic: str) -> dict[int, int]:
        """Rows in the topic's model by their cycle."""
        found = self.ask(f"select cycle_id, count(*) from stg_{topic} group by 1")
        return {int(cycle): int(count) for cycle, count in found}

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """The answer of the database."""
        with duckdb.connect(str(self.database)) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture
def dbt(run: Run, shop: ShopLake, tmp_path: Path) -> Dbt:
    """Give the project on a lake of three entered cycles and one that is not entered yet."""
    return Dbt(run, shop.folder, tmp_path)


def test_models_hold_one_cycle_and_then_what_arrived_since(dbt: Dbt, shop: ShopLake) -> None:
    """The same cycle for both topics, each row once, with the cycle it came in; a second run reads
    only what is new, and a run without anything new changes nothing."""
    dbt.built("build")
    for topic in TOPICS:
        assert dbt.by_cycle(topic) == {1: rows(FIRST), 2: rows(SECOND), 3: rows(THIRD)}
    assert dbt.ask("select count(*) from stg_orders where not order_id like 'ord-%'") == [(0,)]
    # What a run does not read it cannot put back: so this shows that it reads the new cycle only.
    dbt.ask("delete from stg_orders where cycle_id = 2")
    shop.enter()
    dbt.built("run")
    for topic, second in zip(TOPICS, ({}, {2: rows(SECOND)}), strict=True):
        assert dbt.by_cycle(topic) == {1: rows(FIRST), 3: rows(THIRD), 4: rows(FOURTH)} | second
    before = [dbt.by_cycle(topic) for topic in TOPICS]
    dbt.built("run")
    assert [dbt.by_cycle(topic) for topic in TOPICS] == before


def test_the_projects_own_tests_find_what_is_missing_or_doubled(dbt: Dbt) -> None:
    """Each of them fails on its own wrong, by name."""
    dbt.built("build")
    dbt.ask("delete from stg_orders where cycle_id = 2 and _kafka_offset < 40")
    dbt.ask("insert into stg_payments from (from stg_payments where cycle_id = 3 limit 1)")
    ended = dbt("test")
    assert ended.returncode == 1
    failed = set(re.findall(r"Failure in test (\w+)", ended.stdout))
    assert failed == {"complete_stg_orders_orders",
                      "unique_stg_payments___kafka_partition__kafka_offset_"}, ended.stdout
