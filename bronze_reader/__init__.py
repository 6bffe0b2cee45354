"""Opens the tables of a bronze lake at one completed cycle, and tells what arrived between two.

    from bronze_reader import Lake

    lake = Lake("s3://lake/bronze", storage_options)
    cut = lake.cut()                                 # the newest cycle in the ledger
    orders = cut.open("orders")                      # a DeltaTable at the version of that cycle
    for new in lake.between(yesterday.record, cut):  # what came since
        ...

A cycle is complete when all its topics are in their tables; the ledger, `bronze_cycles`, holds no
other.  A *cut* is the versions of all tables that hold every record up to one, and none behind it:
one instant over several tables, which Delta itself does not give.
"""

from __future__ import annotations

from bronze_reader.lake import (
    Arrival, Cut, CycleAmbiguous, CycleNotFound, Lake, LedgerMissing, ReaderError, Span,
    TopicNotInCut, VersionUnknown, sql_condition,
)

__all__ = [
    "Arrival", "Cut", "CycleAmbiguous", "CycleNotFound", "Lake", "LedgerMissing", "ReaderError",
    "Span", "TopicNotInCut", "VersionUnknown", "sql_condition",
]
