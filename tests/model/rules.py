"""The rules of the protocol as flags, so that each can be taken out and missed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Rules:
    """True: the rule is followed.  The comment says what is done instead when it is not."""

    # Workers append what a record names without looking at txn.
    compare_from_with_txn: bool = True
    # Workers look at txn, but their commit lands whatever has happened since.
    compare_and_set: bool = True
    # Workers commit as soon as all votes are in, before the record is put.
    decide_before_commit: bool = True
    # A service starts without a record of its own.
    start_record_claims_number: bool = True
    # A found start record of a newer service with our identity is stepped over.
    fenced_service_stops: bool = True
    # A newer start record met in the listing after the own one is passed over.
    second_listing_looks_for_newer_start: bool = True
    # A start record that landed at a number used and trimmed before is good enough.
    start_record_lands_behind_claims: bool = True
    # Manifests go into the record without comparing them with the decided frontier.
    frontier_rule: bool = True
    # The frontier starts empty, not with the records the listing shows.
    frontier_from_listing: bool = True
    # The record that took our number is not added to the frontier.
    frontier_learns_from_taken_numbers: bool = True
    # A worker positions itself from txn without reading the log first.
    roll_forward_before_reading: bool = True
    # Only records written by services of our own identity are rolled forward.
    roll_forward_whoever_wrote_it: bool = True
    # An unanswered put of a record counts as failed: carry over, go on with the next number.
    read_back_after_put_error: bool = True
    # An unanswered commit is sent again, on top of whatever the table holds now.
    read_back_after_commit_error: bool = True
    # A new incarnation keeps the dead one's prepared files and adds its own.
    one_incarnation_per_manifest: bool = True
    # A dead worker's vote counts while its replacement is already reading.
    dead_votes_are_void: bool = True
    # A dead worker is respawned while the record with its manifest is being put.
    no_reposition_while_deciding: bool = True
    # A topic that owes a record votes for newer rows; it remembers one record only.
    behind_votes_failed: bool = True
    # A topic that fails for ever is waited for, for ever.
    failing_topic_is_isolated: bool = True
    # An isolated topic does not come back with a good vote.
    good_vote_rejoins: bool = True
    # Bronze is committed first.
    dlq_before_bronze: bool = True
    # A worker ignores the order to drop what is undecided.
    reset_drops_undecided: bool = True
    # After an abort the prepared files are forgotten, reading goes on behind them.
    carry_over_keeps_files: bool = True
    # The group's offset is committed when the commit to the table is sent.
    kafka_after_delta: bool = True
    # The resolved first position is read from without being committed to the table.
    first_position_is_committed: bool = True
    # A record counts as complete when it is decided.
    complete_through_truthful: bool = True
    # Records up to complete_through are rolled forward and believed like all others.
    complete_records_are_ignored: bool = True
    # Any record but the newest may be trimmed.
    trim_only_complete: bool = True
    # Trimming goes by what the service knows, not by what a record in the log claims.
    trim_below_written_claims: bool = True
    # Complete records are trimmed in any order.
    trim_oldest_first: bool = True
    # A writer does not check that the record before its own is still there.
    predecessor_check: bool = True
    # The log is listed before the start record is put, and not again.
    list_after_start_record: bool = True

    def without(self, *names: str) -> Rules:
        """These rules less the named ones."""
        return replace(self, **{name: False for name in names})


RULE_NAMES = tuple(field.name for field in fields(Rules))
