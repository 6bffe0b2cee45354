"""Pure: OpenLineage events out of rows of the ledger, one event for each cycle.

https://openlineage.io/spec/2-0-2/OpenLineage.json has their form; docs/lineage.md shows one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keeper.ledger_rows import RowStatus
from shared.naming import bronze_table, dlq_table
from shared.records import BRONZE, DLQ
from shared.version import SERVICE_VERSION

Row = Mapping[str, Any]
"""A row of the ledger, by the names of LEDGER_FILE."""

PRODUCER = f"urn:bronze-ingestion:{SERVICE_VERSION}"
EVENT_SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
RUN_FACET = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunFacet"
INPUT_FACET = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/InputDatasetFacet"
_FACETS = "https://openlineage.io/spec/facets"
VERSION_FACET = (
    f"{_FACETS}/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet")
INPUT_STATISTICS = (
    f"{_FACETS}/1-0-0/InputStatisticsInputDatasetFacet.json"
    "#/$defs/InputStatisticsInputDatasetFacet")
OUTPUT_STATISTICS = (
    f"{_FACETS}/1-0-2/OutputStatisticsOutputDatasetFacet.json"
    "#/$defs/OutputStatisticsOutputDatasetFacet")


@dataclass(frozen=True, slots=True)
class Origin:
    """What all events of a service share.

    job_namespace: of the job; kafka: `host:port` of the first broker; lake_uri: see `LakeConfig`.
    """

    job_namespace: str
    kafka: str
    lake_uri: str


def run_id(lake_uri: str, record: int) -> str:
    """The same for the same cycle, whoever sends it and however often.

    A record's number stands for its cycle: of several instances on a lake it is unique, the
    cycle_id is not.
    """
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{lake_uri}#{record}"))


def event(rows: Sequence[Row], origin: Origin) -> dict[str, Any]:
    """The event of one record, whose rows these are.

    A row of status `missing` stands for records nobody can tell of: it becomes an event without
    datasets, of type OTHER, so that no cycle is left out in silence.
    """
    first = rows[0]
    committed = [row for row in rows if row["status"] == RowStatus.COMMITTED]
    moment = first.get("completed_at") or first["decided_at"]
    return {
        "eventType": "OTHER" if first["status"] == RowStatus.MISSING else "COMPLETE",
        "eventTime": _rfc3339(moment),
        "producer": PRODUCER,
        "schemaURL": EVENT_SCHEMA,
        "run": {"runId": run_id(origin.lake_uri, first["record"]),
                "facets": {"bronze_cycle": _cycle(rows)}},
        "job": {"namespace": origin.job_namespace,
                "name": f"bronze-ingestion.{first.get('instance') or 'unknown'}"},
        "inputs": [_input(row, origin) for row in committed],
        "outputs": [output for row in committed for output in _outputs(row, origin)],
    }


def encode(made: Mapping[str, Any]) -> bytes:
    """One line of JSON, without its line break."""
    return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()


def _cycle(rows: Sequence[Row]) -> dict[str, Any]:
    first = rows[0]
    return _facet(RUN_FACET, {
        "record": first["record"], "cycle_id": first.get("cycle_id"),
        "instance": first.get("instance"), "decided_at": _rfc3339(first["decided_at"]),
        "excluded": [{"topic": row.get("topic"), "reason": row.get("reason")}
                     for row in rows if row["status"] == RowStatus.EXCLUDED],
        "missing": first.get("reason") if first["status"] == RowStatus.MISSING else None})


def _input(row: Row, origin: Origin) -> dict[str, Any]:
    ranges = row.get("ranges") or []
    messages = sum(part["rows"] + part["dead_letters"] + part["skipped"] for part in ranges)
    through = row.get("valid_through")
    return {
        "namespace": f"kafka://{origin.kafka}", "name": row["topic"],
        "inputFacets": {
            "inputStatistics": _facet(INPUT_STATISTICS, {
                "rowCount": messages, "size": row.get("value_bytes") or 0}),
            "bronze_offsets": _facet(INPUT_FACET, {
                "ranges": ranges,
                "valid_through": None if through is None else _rfc3339(through)})}}


def _outputs(row: Row, origin: Origin) -> list[dict[str, Any]]:
    topic = row["topic"]
    outputs = [_output(bronze_table(topic), row, origin, BRONZE, row["table_version"])]
    if row["dead_letters"]:
        outputs.append(_output(dlq_table(topic), row, origin, DLQ, row["dlq_table_version"]))
    return outputs


def _output(
    folder: str, row: Row, origin: Origin, table: str, version: int | None
) -> dict[str, Any]:
    files = [file for file in row.get("files") or [] if file["table"] == table]
    namespace, name = _place(origin.lake_uri, folder)
    known = {} if version is None else {
        "version": _facet(VERSION_FACET, {"datasetVersion": str(version)})}
    return {
        "namespace": namespace, "name": name, "facets": known,
        "outputFacets": {"outputStatistics": _facet(OUTPUT_STATISTICS, {
            "rowCount": row["rows"] if table == BRONZE else row["dead_letters"],
            "size": sum(file["bytes"] for file in files), "fileCount": len(files)})}}


def _place(lake_uri: str, folder: str) -> tuple[str, str]:
    """Namespace and name of a table, as OpenLineage's naming has it for S3 and for folders."""
    if not lake_uri.startswith("s3://"):
        return "file", f"{lake_uri}/{folder}"
    bucket, _, prefix = lake_uri.removeprefix("s3://").partition("/")
    return f"s3://{bucket}", f"{prefix}/{folder}" if prefix else folder


def _facet(schema_url: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": schema_url, **content}


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
