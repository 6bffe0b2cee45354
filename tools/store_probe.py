"""Tries on the lake's store what the service will do to it, on objects of its own.

They lie under `_bronze/check/<uuid>/_delta_log/`, where the service's own policy allows to delete
(deploy/s3-policy.json), and are gone when the probe ends.  Nothing else is written.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from shared.clock import SystemClock
from shared.config import Config, LakeConfig
from shared.naming import LOG_PREFIX
from shared.object_store import ObjectStore, Store, open_store
from shared.record_log import RecordLog
from tools.findings import (
    FINAL_STORE_CODES, Clocks, Failure, Finding, Key, Log, Operation, Table, failure,
)
from workers.delta_table import DeltaStore
from workers.schemas import PARTITION_COLUMN
from workers.tables import look

STORE_TIMEOUT_S = 4.0
"""Of one request, if the configured limit is not shorter: a silent store costs twice as much."""
RECORDS_READ_MAX = 20
"""Newest records that are searched for one of our instance."""
TABLES_AT_ONCE = 8
"""64 topics have 128 tables, each some requests: one after the other they would take too long."""
CHECK_PREFIX = "_bronze/check/"

Note = Callable[[Key, Finding], None]


class StoreProbe:
    """One store, looked at from the simplest request to the tables."""

    def __init__(self, config: Config, note: Note) -> None:
        lake = config.lake
        self._lake = replace(
            lake, store_timeout_seconds=min(STORE_TIMEOUT_S, lake.store_timeout_seconds))
        self._config, self._note, self._clock = config, note, SystemClock()
        self._folder = f"{CHECK_PREFIX}{uuid.uuid4()}/_delta_log/"

    def look(self) -> None:
        """Everything, or the first request alone when the store does not answer."""
        clean_up = _folders_to_remove(self._lake, self._folder)
        try:
            self._look()
        except Exception as error:
            self._note(Key("store", "list"), failure(error))
        finally:
            for folder in clean_up:
                _remove_if_empty(folder)

    def _look(self) -> None:
        store = open_store(self._lake)
        listed = self._noted(Key("store", "list"), lambda: self._list(store))
        if isinstance(listed, Failure) and self._lake.is_s3 and not is_worth_more(listed.text):
            return
        self._try_objects(store)
        self._noted(Key("log"), lambda: self._log(store))
        self._tables(store)

    def _noted(self, key: Key, look: Callable[[], Finding]) -> Finding:
        try:
            found = look()
        except Exception as error:
            found = failure(error)
        self._note(key, found)
        return found

    def _list(self, store: ObjectStore) -> Operation:
        store.list_after(CHECK_PREFIX)
        return Operation()

    def _try_objects(self, store: Store) -> None:
        """Each operation for itself: one that is refused hides none of the others."""
        first, second = f"{self._folder}put", f"{self._folder}create"
        before_s = self._now_s()
        put = self._noted(Key("store", "put"), lambda: _put(store, first))
        after_s = self._now_s()
        created = self._noted(Key("store", "create"), lambda: _create_once(store, second))
        self._noted(Key("store", "get"), lambda: _get(store, second, created == Operation()))
        if put == Operation():
            self._noted(Key("clock"), lambda: self._clocks(store, first, before_s, after_s))
        self._noted(Key("store", "delete"), lambda: _delete(store, first, second))
        # There are no such objects: refused or not, nothing is lost.
        trimmed = f"{LOG_PREFIX}check-{uuid.uuid4()}"
        self._noted(Key("store", "trim"), lambda: _delete(store, trimmed))
        if self._config.keeper.deletes_data_files:
            data = f"{CHECK_PREFIX}{uuid.uuid4()}/{PARTITION_COLUMN}=1970-01-01/check"
            self._noted(Key("store", "vacuum"), lambda: _delete(store, data))

    def _now_s(self) -> float:
        return self._clock.unix_ms() / 1000

    def _clocks(self, store: Store, path: str, before_s: float, after_s: float) -> Finding:
        found = store.modified_unix_s(path)
        if found is None:
            return Failure("ObjectGone", f"{path} was put and is not there")
        return Clocks(found, before_s, after_s)

    def _log(self, store: ObjectStore) -> Log:
        log = RecordLog(store)
        log.tail()
        numbers = log.numbers()
        for number in reversed(numbers[-RECORDS_READ_MAX:]):
            record = log.read(number)
            if record is not None and record.instance == self._config.instance_id:
                return Log(len(numbers), number, record.written_at,
                           self._now_s() - _unix_s(record.written_at))
        return Log(len(numbers), None, "", None)

    def _tables(self, store: ObjectStore) -> None:
        tables = DeltaStore(self._lake.uri, self._lake.storage_options(), store)
        looks = {folder: look_at for topic in self._config.topics for folder, look_at in look(
            store, tables, topic, dlq_enabled=self._config.dlq_enabled).items()}
        with ThreadPoolExecutor(TABLES_AT_ONCE) as pool:
            for folder, look_at in looks.items():
                pool.submit(self._noted, Key("table", folder),
                            lambda look_at=look_at: Table(look_at()))


_ANSWER = re.compile(r": \d{3} [A-Z]|\bAccessDenied\b")
"""A status, or what stands for it where several objects are deleted in one request."""


def is_worth_more(text: str) -> bool:
    """Whether other requests may fare better than one that failed with this text.

    Not when there was no answer, and not when it was about the bucket or the key.
    """
    return _ANSWER.search(text) is not None and not any(
        code in text for code in FINAL_STORE_CODES)


def _put(store: ObjectStore, path: str) -> Operation:
    store.put(path, b"check")
    return Operation()


def _create_once(store: ObjectStore, path: str) -> Operation:
    """Two services that both believe to have made one record would both decide."""
    if not store.put_if_absent(path, b"first"):
        return Operation(False, "a new object was said to be there already")
    if store.put_if_absent(path, b"second"):
        return Operation(False, "an object that was there was created again")
    return Operation()


def _get(store: ObjectStore, path: str, was_created: bool) -> Operation:
    """An object that could not be made is asked for all the same: the right to is another one."""
    found = store.get(path)
    if was_created and found != b"first":
        return Operation(False, "an object that was just made does not hold what was put into it")
    return Operation()


def _delete(store: ObjectStore, *paths: str) -> Operation:
    for path in paths:
        store.delete(path)
    return Operation()


def _unix_s(written_at: str) -> float:
    return datetime.fromisoformat(written_at).timestamp()


def _folders_to_remove(lake: LakeConfig, below: str) -> list[Path]:
    """Of a lake in a folder: those the probe will make, the deepest first."""
    if lake.is_s3:
        return []
    deepest = Path(lake.uri) / below
    return [folder for folder in (deepest, *deepest.parents) if not folder.exists()]


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # not made, or somebody has put something there meanwhile
