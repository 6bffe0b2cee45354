"""Finds out what a request means: which offsets, by the bronze table, Kafka and the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from bronze_reader import Lake
from shared.clock import SystemClock, rfc3339
from shared.config import Config
from shared.errors import TopicRecreated
from shared.naming import bronze_table, position_app_id, topic_id_app_id
from shared.object_store import Store
from shared.version import SERVICE_VERSION
from tools.lake_probe import LakeProbe
from tools.rewind_plan import Bound, Part, Plan, Refused, Request, parts_of, starts_behind
from tools.rewind_source import RewindSource
from tools.tiling import Claim
from workers.assembly import table_store


class Surroundings:
    """The lake and Kafka around one request; what is asked of them is asked once."""

    def __init__(
        self, config: Config, store: Store, source: RewindSource, request: Request
    ) -> None:
        self._config, self._store, self._source = config, store, source
        self._request = request
        self._probe = LakeProbe(config)

    @cached_property
    def positions(self) -> Mapping[int, int]:
        """Partition -> the bronze table's position.  Raises `Refused` and `TopicRecreated`."""
        topic = self._request.topic
        table = table_store(self._config, self._store).open(bronze_table(topic))
        if table is None:
            raise Refused(f"there is no table {bronze_table(topic)}",
                          "None: what is in no table is read by the service itself.")
        if table.txn_version(topic_id_app_id(topic, self.topic_id)) is None:
            raise TopicRecreated(topic)
        found = {partition: table.txn_version(position_app_id(topic, partition))
                 for partition in self._source.partitions()}
        return {partition: position for partition, position in found.items()
                if position is not None}

    @cached_property
    def topic_id(self) -> str:
        """Of the topic's present creation."""
        return self._source.topic_id()

    @cached_property
    def claims(self) -> Sequence[Claim]:
        """What the ledger and the records behind it say of the topic."""
        found, _ = self._probe.claims()
        return found.get(self._request.topic, [])

    def plan(self, name: str) -> Plan | None:
        """What is to be read; None where the bronze table has nothing of what was asked for."""
        # The positions first: the ledger and the log then know all that is below them.
        positions = self.positions
        starts = self._offsets(self._request.to, is_start=True)
        untils = self._offsets(self._request.until, is_start=False)
        parts = parts_of(self._request, starts, untils, positions)
        if not parts:
            return None
        return Plan(name, self._request.topic, self.topic_id, self._request.words(), parts,
                    rfc3339(SystemClock().unix_ms()), SERVICE_VERSION)

    def marks(self, parts: Sequence[Part]) -> dict[int, tuple[int, int]]:
        """Partition -> (first, next) offset that Kafka has."""
        marks = {part.partition: self._source.watermarks(part.partition) for part in parts}
        return {partition: (mark.low, mark.high) for partition, mark in marks.items()}

    def _offsets(self, bound: Bound | None, *, is_start: bool) -> dict[int, int]:
        """Partition -> offset of a bound; without those where it lies behind everything."""
        if bound is None:
            return {}
        if bound.offsets is not None:
            return dict(bound.offsets)
        if bound.time_ms is not None:
            return self._offsets_at(bound.time_ms, is_start=is_start)
        lake = Lake(self._config.lake.uri, self._config.lake.storage_options())
        cut = lake.cut(cycle_id=bound.cycle, instance=self._request.instance or None)
        return starts_behind(self.claims, cut.record)

    def _offsets_at(self, time_ms: int, *, is_start: bool) -> dict[int, int]:
        """By Kafka; what it has deleted, by the tables, so that it is named and not overlooked."""
        found = {}
        for partition, offset in self._source.offsets_at(self.positions, time_ms).items():
            low = self._source.watermarks(partition).low
            is_first = offset is None or offset <= low
            deleted = (self._probe.first_at(self._request.topic, partition, time_ms, low)
                       if is_start and is_first and low > 0 else None)
            chosen = deleted if deleted is not None else offset
            if chosen is not None:
                found[partition] = chosen
        return found
