"""A plugin of dbt-duckdb: every source of a run is the lake's table at the same completed cycle.

dbt opens its sources one after the other, while new cycles are committed.  The plugin chooses a
cycle when the first one is opened, and gives all of them as they were then.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pyarrow.dataset as ds
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.duckdb.utils import SourceConfig

from bronze_reader import Cut, Lake

LEDGER = "bronze_cycles"


class Plugin(BasePlugin):
    """See the module.  A source's name is its table's; dbt-duckdb wants the class so called."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Remember the lake; nothing is opened yet."""
        self._lake = Lake(plugin_config["lake"])

    @cached_property
    def _cut(self) -> Cut:
        return self._lake.cut()

    def load(self, source_config: SourceConfig) -> ds.Dataset:
        """The table at the cut; of the ledger, the cycles up to it.  DuckDB reads what it needs."""
        table = source_config.identifier
        if table == LEDGER:
            return self._lake.cycles(self._cut)
        dlq = table.startswith("dlq_")
        topic = table.removeprefix("dlq_").removeprefix("bronze_")
        return self._cut.dataset(topic, dlq=dlq)

    def default_materialization(self) -> str:
        """A view: rows are not copied before a model asks for them."""
        return "view"
