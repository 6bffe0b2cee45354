"""The DAG under a real Airflow: green below the limit, red above it with what to do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bronze_reader import Lake
from tests.examples.conftest import ROOT, Run, python_of
from tests.examples.shop import ERROR, PARTITIONS, ShopLake, dead_letters

DAGS = ROOT / "examples" / "airflow"
DAG = "watch_dead_letters"
AIRFLOW_S = 1200
ALL, THIRD = range(120), range(70, 120)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(AIRFLOW_S)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for Airflow's own database."""
    return tmp_path_factory.mktemp("airflow")


def airflow(run: Run, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`airflow …` with a database in SQLite and the example's folder of DAGs."""
    command = python_of("airflow").with_name("airflow")
    return run(str(command), *arguments, environ={
        "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONDONTWRITEBYTECODE": "1"})


def test_the_dag_is_green_below_the_limit_and_red_above_it(
    run: Run, home: Path, shop: ShopLake,
) -> None:
    """A limit that is reached is not passed; one less, and each topic's task fails with topic,
    count, kinds, the newest errors with their offsets, and what to do."""
    migrated = airflow(run, home, "db", "migrate")
    assert migrated.returncode == 0, migrated.stderr
    count = dead_letters(ALL)
    settings = {"lake": str(shop.folder), "limit": count}
    ended = airflow(run, home, "dags", "test", DAG, "--conf", json.dumps(settings))
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "map_index=1" in said and "dead letters" not in said
    settings["limit"] = count - 1
    ended = airflow(run, home, "dags", "test", DAG, "--conf", json.dumps(settings))
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1, said
    for topic in shop.topics:
        assert (f"AirflowFailException: topic {topic}: {count} dead letters in all, the limit is"
                f" {count - 1}: json {count}") in said
        assert f"dlq_bronze_{topic}, version 3" in said
    assert f"partition {PARTITIONS - 1} offset 119: json: {ERROR}" in said
    assert "To do: ask the topic's producers" in said
    assert "UP_FOR_RETRY" not in said.upper(), "what is over the limit is so a minute later, too"


def test_only_what_came_in_the_window_counts(run: Run, home: Path, shop: ShopLake) -> None:
    """Dead letters of an old evening must not call anybody again."""
    python = python_of("airflow")
    second = Lake(str(shop.folder)).cut(cycle_id=2).completed_at
    assert second is not None
    code = (
        "import sys; from datetime import datetime; from bronze_reader import Lake\n"
        f"sys.path.insert(0, {str(DAGS)!r}); import watch_dead_letters as watch\n"
        f"lake, since = Lake({str(shop.folder)!r}), datetime.fromisoformat('{second.isoformat()}')\n"
        f"count = {dead_letters(THIRD)}\n"
        "assert watch.alarm(lake, 'orders', count, since) is None\n"
        "print(watch.alarm(lake, 'orders', count - 1, since))\n")
    ended = run(str(python), "-c", code, environ={
        "AIRFLOW_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"})
    assert ended.returncode == 0, ended.stderr
    assert (f"topic orders: {dead_letters(THIRD)} dead letters since cycle 2, the limit is"
            f" {dead_letters(THIRD) - 1}: json {dead_letters(THIRD)}") in ended.stdout
    assert "offset 119" in ended.stdout and "offset 63" not in ended.stdout
