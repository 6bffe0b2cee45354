"""The mutants: each breaks one rule of the product by replacing one piece of its text.

`old` must occur in `file` exactly once; a test of the everyday suite holds that, so that no mutant
outlives the text it breaks.  `tests` are run until one fails: the fastest that is to see it first.
"""

from __future__ import annotations

from dataclasses import dataclass

WORKER = "tests/unit/test_worker.py"
TABLES = "tests/unit/test_tables.py"
PROTOCOL = "tests/unit/test_protocol.py"
COORDINATOR = "tests/unit/test_coordinator.py"
DECIDER = "tests/unit/test_decider.py"
VOTES = "tests/unit/test_void_votes.py"
RECORD_LOG = "tests/unit/test_record_log.py"
LOAN = "tests/unit/test_loan.py"
CLIENT = "tests/unit/test_kafka_client.py"
LEDGER = "tests/unit/test_ledger.py"
SNAPSHOT = "tests/contract/test_log_snapshot.py"
DELTA_TABLE = "tests/contract/test_delta_table.py"
TABLE_FILES = "tests/contract/test_table_files.py"
CHECKPOINT = "tests/contract/test_checkpoint.py"
CLEAN_UP = "tests/unit/test_log_cleanup.py"
KEEPER = "tests/unit/test_keeper.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """name: what the broken product does, in the words of the page."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    # Commits
    Mutant(
        "Kafka's offsets are told before the Delta commit", "workers/worker.py",
        "            self._p.tables.roll_forward(owed.number, owed.manifest)\n",
        "            self._p.source.commit(\n"
        "                {part.partition: part.end for part in owed.manifest.ranges}, wait=False)\n"
        "            self._p.tables.roll_forward(owed.number, owed.manifest)\n",
        (WORKER,)),
    Mutant(
        "a commit is made wherever the table's positions stand", "shared/protocol.py",
        "    if all(txn_versions.get(span.partition) == span.start for span in spans):",
        "    if any(not _at_or_past(txn_versions.get(s.partition), s.end) for s in spans):",
        (PROTOCOL,)),
    Mutant(
        "a commit's lost answer is taken for success", "workers/tables.py",
        "                failed = error\n", "                return\n", (TABLES,)),
    Mutant(
        "the table is not read again after a commit's error", "workers/tables.py",
        "                return\n            self._refresh(table, folder, role)\n",
        "                return\n", (TABLES,)),
    Mutant(
        "a lost answer is followed by the same commit again, without a look", "workers/tables.py",
        "            if tiling is Tiling.DONE:\n                return\n",
        "            if tiling is Tiling.DONE and failed is None and refused is None:\n"
        "                return\n", (TABLES,)),
    Mutant(
        "a commit overwrites the log entry of whoever was first", "workers/delta_table.py",
        "            if self._store.put_if_absent(entry_path(self._folder, target), entry):\n",
        "            if not self._store.put(entry_path(self._folder, target), entry):\n",
        ("tests/contract/test_delta_table.py -k folder",)),
    Mutant(
        "positions that only a checkpoint has are not seen", "workers/log_snapshot.py",
        "        for kind in KINDS:\n", "        for kind in KINDS[:2]:\n", (SNAPSHOT,)),
    Mutant(
        "a checkpoint counts of which a part is missing", "workers/log_listing.py",
        "if len(files) == max(1, key[1])),", "if files),", (SNAPSHOT,)),
    Mutant(
        "a hole in a table's log is passed over", "workers/log_snapshot.py",
        " if version not in listed.entries)", " if False)", (SNAPSHOT,)),
    Mutant(
        "a hint is believed whose checkpoint is gone", "workers/log_listing.py",
        "    if found.checkpoint < named:\n", "    if False:\n",
        (SNAPSHOT,)),
    Mutant(
        "a row group with a single position is passed over", "workers/log_snapshot.py",
        "found.null_count < rows\n", "found.null_count == 0\n", (SNAPSHOT,)),
    Mutant(
        "entries read at once are taken in out of order", "workers/log_snapshot.py",
        "zip(some, found, strict=True)", "zip(some, reversed(list(found)), strict=True)",
        (SNAPSHOT,)),
    Mutant(
        "a commit goes into the log of a table that is gone", "workers/delta_table.py",
        "        self._check_newest_is_there()\n", "",
        ("tests/contract/test_delta_table.py -k vanished",)),
    Mutant(
        "dead letters come after the rows", "workers/tables.py",
        "        dlq_version = None\n        if manifest.dead_letter_spans:\n",
        "        dlq_version = None\n        if manifest.dead_letter_spans:\n"
        "            from msgspec.structs import replace\n"
        "            bare = tuple(replace(part, dead_letters=0) for part in manifest.ranges)\n"
        "            self.roll_forward(number, replace(manifest, ranges=bare))\n",
        (TABLES,)),
    Mutant(
        "files of a record are committed without a look whether they exist", "workers/tables.py",
        "            if size != file.size:\n", "            if False:\n", (TABLES,)),
    Mutant(
        "columns are not looked at again when the snapshot moves", "workers/tables.py",
        "        table.refresh()\n        self._tables.check(folder, table, role.schema)\n",
        "        table.refresh()\n", (TABLES,)),
    Mutant(
        "columns of a table that only a record names are not looked at", "workers/tables.py",
        "is named by a decided record and is gone\")\n"
        "        self._tables.check(folder, table, role.schema)\n",
        "is named by a decided record and is gone\")\n", (TABLES,)),
    Mutant(
        "a table may forbid null where messages have none", "workers/delta_table.py",
        "if path in MAY_BE_NULL]", "if False]",
        (f"{DELTA_TABLE} -k existing_table",)),
    Mutant(
        "positions may go from a table by a property of it", "workers/log_entry.py",
        "            *(name for name in names if name in _UNBEARABLE)]", "            ]",
        (f"{DELTA_TABLE} -k writers_must",)),
    Mutant(
        "copies below a log count", "workers/log_listing.py",
        " if \"/\" not in path[len(log):]]", "]", (SNAPSHOT,)),
    Mutant(
        "a table that vanished is made again", "workers/tables.py",
        "    if store.size(certificate) is None:\n        return tables.create",
        "    if True:\n        return tables.create", (TABLES,)),
    Mutant(
        "where reading begins is not committed before the first message", "workers/worker.py",
        "            tables.begin(starts, self._topic_id)\n"
        "            held = tables.positions(partitions)\n",
        "            held = {**held, **starts}\n", (WORKER,)),
    # Decisions
    Mutant(
        "a cycle is decided without all votes", "shared/protocol.py",
        "            waiting = True\n", "            waiting = False\n", (PROTOCOL,)),
    Mutant(
        "a dead worker's topic does not abort the cycle", "shared/protocol.py",
        "        if topic in died:\n", "        if False:\n", (VOTES,)),
    Mutant(
        "a dead worker's vote still counts", "shared/protocol.py",
        " and topic not in died\n", "\n", (VOTES,)),
    Mutant(
        "a vote counts whichever incarnation cast it", "supervisor/coordinator.py",
        "                and slot.report(Report.INCARNATION) == slot.order(Order.INCARNATION))",
        "                and True)", (COORDINATOR,)),
    Mutant(
        "a topic is positioned anew while its record is being decided",
        "supervisor/coordinator.py",
        "        return not (self._phase is Phase.DECIDING and self._proposal is not None\n"
        "                    and topic in self._proposal.manifests)",
        "        return True", (COORDINATOR,)),
    Mutant(
        "a record overwrites what is there", "shared/object_store.py",
        'mode="create"', 'mode="overwrite"', ("tests/contract/test_object_store.py -k folder",)),
    Mutant(
        "a record may name a range that does not follow the last decided one",
        "supervisor/decider.py",
        "            if fits_frontier(self._frontier, topic, manifest.spans)}",
        "            if True}",
        (DECIDER,)),
    Mutant(
        "after an error a record is drawn up anew instead of sent again", "supervisor/decider.py",
        "            number, data, included = self._sent or self._draw_up(proposal)\n",
        "            number, data, included = self._draw_up(proposal)\n", (DECIDER,)),
    Mutant(
        "a start claims no number", "supervisor/decider.py",
        "            if self._log.put(number, data) or self._log.read_bytes(number) == data:\n",
        "            if True:\n", (DECIDER,)),
    Mutant(
        "a newer service of the same identity is overlooked", "supervisor/decider.py",
        "        if taken is NumberTaken.FENCED:\n", "        if False:\n", (DECIDER,)),
    Mutant(
        "a newer service that started meanwhile is overlooked", "supervisor/decider.py",
        "        self._check_start(number, tail)\n        return self._adopt(tail)\n",
        "        return self._adopt(tail)\n", (DECIDER,)),
    Mutant(
        "a free number counts as never used", "supervisor/decider.py",
        "        if number > 0 and not self._log.exists(number - 1):\n", "        if False:\n",
        (DECIDER,)),
    Mutant(
        "another instance's record counts as done unseen", "supervisor/decider.py",
        "                topics |= {_OTHERS}\n", "                topics = frozenset()\n",
        (DECIDER,)),
    Mutant(
        "old records are trimmed newest first", "shared/record_log.py",
        "        for number in doomed[:TRIM_MAX]:\n",
        "        for number in reversed(doomed[:TRIM_MAX]):\n", (RECORD_LOG,)),
    Mutant(
        "a record of an unknown version is read all the same", "shared/records.py",
        "        if version != RECORD_VERSION:\n", "        if False:\n",
        ("tests/unit/test_records.py",)),
    Mutant(
        "an isolated topic never comes back", "shared/protocol.py",
        "        if member.isolated and _voted_well(ballots.get(topic), cycle_id) else member\n",
        "        if False else member\n", (PROTOCOL,)),
    Mutant(
        "a topic that fails is waited for without end", "shared/protocol.py",
        "    isolated = member.isolated or (isolate_after > 0 and failures >= isolate_after)\n",
        "    isolated = member.isolated\n", (PROTOCOL,)),
    Mutant(
        "where all topics are isolated nobody waits for a vote", "shared/protocol.py",
        "    if not deadline_passed and _isolated_may_still_vote(members, votes, died):\n",
        "    if False:\n", (PROTOCOL,)),
    Mutant(
        "one damaged word of the shared block passes for a decision", "shared/block.py",
        "        if self.order(Order.INCLUDED_CHECK) !=", "        if 0 * cycle_id != 0 *",
        ("tests/unit/test_block.py",)),
    # Reading
    Mutant(
        "what was prepared is forgotten after an abort", "workers/worker.py",
        "            self._prepared = out.parts + self._prepared\n", "            pass\n",
        (WORKER,)),
    Mutant(
        "a start reads on before it has rolled its topic forward", "workers/worker.py",
        "            done_through = self._roll_forward()\n",
        "            done_through = self._p.log.tail().next_number - 1\n", (WORKER,)),
    Mutant(
        "a topic that owes a record votes PREPARED", "workers/worker.py",
        "        if not self._joined or self._owed is not None or self._out is not None:\n",
        "        if not self._joined or self._out is not None:\n", (WORKER,)),
    Mutant(
        "a vote does not look whether the topic was made anew", "workers/worker.py",
        "        if self._p.source.topic_id() != self._topic_id:\n"
        "            raise TopicRecreated(self._p.topic)\n"
        "        for partition, position in",
        "        for partition, position in", (WORKER,)),
    Mutant(
        "an open file is kept when a partition is revoked", "workers/worker.py",
        "        self._restart = Restart.EVERYTHING\n        if self._out is not None:\n",
        "        if self._out is not None:\n", (WORKER,)),
    Mutant(
        "a vote that was out when its partition was revoked is carried over", "workers/worker.py",
        "        elif out.orphaned or self._slot.order(Order.RESET_CYCLE) == out.cycle_id:\n",
        "        elif self._slot.order(Order.RESET_CYCLE) == out.cycle_id:\n", (WORKER,)),
    Mutant(
        "reading goes on after an upload failed, without what it held", "workers/worker.py",
        "        self._restart = max(self._restart, Restart.DRAFT)\n\n    def _restart_reading",
        "        self._draft = self._new_draft(self._draft.book.ends)\n\n    def _restart_reading",
        (WORKER,)),
    Mutant(
        "a restart forgets what is out for a vote", "workers/worker.py",
        "        manifests = [held.manifest for held in (self._owed, self._out) if",
        "        manifests = [held.manifest for held in () if", (WORKER,)),
    Mutant(
        "positions that moved without rows are voted EMPTY", "workers/worker.py",
        "        if not self._draft.book.moved:\n", "        if not self._draft.rows:\n",
        ("tests/unit/test_worker_without_rows.py",)),
    Mutant(
        "offsets lost to retention are passed over in silence", "workers/worker.py",
        '        self._draft.book.lose(partition, marks.low, "retention")\n',
        "        self._draft.book.reach(partition, marks.low)\n", (WORKER,)),
    Mutant(
        "a partition that appears later starts at its end", "shared/protocol.py",
        "    if not table_is_new:\n        return low\n",
        "    if not table_is_new:\n        return high\n",
        (PROTOCOL, WORKER)),
    Mutant(
        "a range ends one offset too late", "workers/draft.py",
        "part.last + 1 for part in batch.extents", "part.last + 2 for part in batch.extents",
        ("tests/unit/test_draft.py", WORKER)),
    Mutant(
        "the client jumps to the end when its offset is gone", "workers/kafka_source.py",
        '"auto.offset.reset": "error"', '"auto.offset.reset": "latest"', (CLIENT,)),
    Mutant(
        "the client commits offsets by itself", "workers/kafka_source.py",
        '"enable.auto.commit": False', '"enable.auto.commit": True', (CLIENT,)),
    Mutant(
        "aborted transactions are read", "workers/kafka_source.py",
        '"isolation.level": "read_committed"', '"isolation.level": "read_uncommitted"', (CLIENT,)),
    # Rows
    Mutant(
        "the statistics of a file are wrong", "workers/parquet_file.py",
        "min(lows), max(part.max_raw for", "min(lows), min(part.max_raw for",
        ("tests/unit/test_parquet_bounds.py",)),
    Mutant(
        "headers are dropped", "workers/decoder.py",
        "    if not any(headers):\n", "    if True:\n", ("tests/unit/test_decoder.py",)),
    Mutant(
        "a bad row takes its neighbours with it", "workers/decoder.py",
        "ingested_at_ms) if len(flaws) < len(batch) else None\n",
        "ingested_at_ms) if not flaws else None\n", ("tests/unit/test_decoder.py",)),
    Mutant(
        "an empty value passes for a tombstone", "workers/decoder.py",
        "    return None if value is None else find_flaw(value)\n",
        "    return find_flaw(value) if value else None\n", ("tests/unit/test_decoder.py",)),
    # Memory
    Mutant(
        "a claim on memory is written after the look at those of others", "workers/loan.py",
        "        self._write(claim_of(need, self._terms), self._waiting_since)\n",
        "        self._claim = claim_of(need, self._terms)\n", (LOAN,)),
    Mutant(
        "a refused claim on memory is not taken back", "workers/loan.py",
        "        self._write(claim_of(held, self._terms), since)\n",
        "        self._write(self._claim, since)\n", (LOAN,)),
    Mutant(
        "whoever fits borrows before those who wait longer", "workers/loan.py",
        "        return False\n    borrowed", "        pass\n    borrowed", (LOAN,)),
    Mutant(
        "what a dead worker had borrowed stays borrowed", "supervisor/fleet.py",
        "            _release(berth.slot)\n", "", ("tests/unit/test_fleet.py",)),
    Mutant(
        "a worker that owes a commit is recycled", "workers/worker.py",
        "self._has_outgrown and self._out is None and self._owed is None",
        "self._has_outgrown", (WORKER,)),
    Mutant(
        "being recycled counts as a death", "supervisor/respawn.py",
        "    if exit_code == WorkerExit.RECYCLED:\n", "    if False:\n",
        ("tests/unit/test_respawn.py",)),
    # Ledger
    Mutant(
        "a cycle is entered into the ledger before all its topics have committed",
        "keeper/ledger_rows.py",
        "    if owing and not is_complete:\n", "    if False:\n", (LEDGER,)),
    Mutant(
        "the ledger's position stays where it was", "keeper/ledger.py",
        "{LEDGER_APP_ID: next_record}", "{LEDGER_APP_ID: position or 0}", (LEDGER,)),
    Mutant(
        "records that nobody entered are passed over in silence", "keeper/ledger.py",
        "        return [missing(position, first - 1, rfc3339(self._unix_ms()))]\n",
        "        return []\n", (LEDGER,)),
    Mutant(
        "a record is trimmed before it is in the ledger", "supervisor/decider.py",
        "min(self._written_claim, entered_through)", "self._written_claim", (DECIDER,)),
    Mutant(
        "the keeper takes memory that it has not borrowed", "supervisor/keeper.py",
        "        elif self._loan.ask(KEEPER_BYTES, 0, self._clock.monotonic_ns()):\n",
        "        else:\n", (KEEPER,)),
    Mutant(
        "a keeper that waits for memory keeps its place through a flush", "supervisor/keeper.py",
        "            self._loan.rest(0)\n        elif", "            pass\n        elif", (KEEPER,)),
    Mutant(
        "a partition whose end is not known counts as read to its end", "workers/read_through.py",
        "partition in ends and read.get(partition, -1) >= ends[partition]",
        "read.get(partition, -1) >= ends.get(partition, 0)",
        ("tests/unit/test_read_through.py",)),
    # Compaction and vacuum
    Mutant(
        "a worker steps over whatever took its version", "workers/delta_table.py",
        "            if taken is None or not is_compaction(taken):\n", "            if taken is None:\n",
        ("tests/contract/test_delta_table.py -k folder",)),
    Mutant(
        "a compaction is a conflict to workers", "workers/delta_table.py",
        "            if taken is None or not is_compaction(taken):\n", "            if True:\n",
        ("tests/contract/test_delta_table.py -k folder",)),
    Mutant(
        "a compaction lands behind whatever was committed meanwhile", "keeper/table_log.py",
        "            if taken is None or not appends_only(taken):\n", "            if taken is None:\n",
        (TABLE_FILES,)),
    Mutant(
        "a compaction begins a log where the table is gone", "keeper/table_log.py",
        "        self._check_is_there(version)\n", "", (TABLE_FILES,)),
    Mutant(
        "a young checkpoint lets old entries go", "keeper/log_cleanup.py",
        "        if modified_s > self._cutoff_s:\n", "        if False:\n", (CLEAN_UP,)),
    Mutant(
        "entries go below a checkpoint of which a part is missing", "keeper/log_cleanup.py",
        "        if len(parts) == part_count:\n", "        if parts:\n", (CLEAN_UP,)),
    Mutant(
        "entries go where a feature has rules of its own for them", "keeper/log_cleanup.py",
        " and listed <= _ABOUT_ROWS)", ")", (CHECKPOINT,)),
    Mutant(
        "removed files are forgotten whose retention is not understood", "keeper/table_log.py",
        "            return -1\n", "            return self._unix_ms()\n", (CHECKPOINT,)),
    Mutant(
        "a day is compacted before it is over", "keeper/compaction.py",
        " - CLOSED_AFTER).date()", " + timedelta(days=1)).date()", (TABLE_FILES,)),
    Mutant(
        "columns of others are lost in a compaction", "keeper/table_files.py",
        "        if set(state.columns) != {*self._schema.names, PARTITION_COLUMN}:\n",
        "        if False:\n", (TABLE_FILES,)),
    Mutant(
        "a vacuum takes files that were decided and not committed", "keeper/table_files.py",
        "path not in facts.decided and ", "", (TABLE_FILES,)),
    Mutant(
        "a vacuum takes files that a living worker holds", "keeper/table_files.py",
        "min(orphan_ms, self._started_at_ms)", "orphan_ms", (TABLE_FILES,)),
    Mutant(
        "a vacuum takes a removed file at once", "keeper/table_files.py",
        "        return removed_ms < self._now_ms - kept_ms\n", "        return True\n",
        (TABLE_FILES,)),
)
