"""The exit codes of the service, which are its restart policy.

systemd sees nothing of a stopped service but its code, so each code says by itself whether a
start without a person's help can do any good.  The unit's RestartPreventExitStatus= names the
non-zero codes whose `restart` is false.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """A process exit code; `restart` says whether systemd should start the service again.

    Each member's own docstring says what happened and what systemd should do.
    """

    restart: bool

    def __new__(cls, code: int, restart: bool, doc: str) -> ExitCode:
        """Make a member that equals `code` and carries its policy and its docstring."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.restart = restart
        member.__doc__ = doc
        return member

    OK = (0, False, "Clean stop, asked for by a signal. systemd: nothing to do.")
    INTERNAL = (
        1,
        True,
        "A fault of the service or of its host. systemd: restart; the start recovers by itself.",
    )
    UNAVAILABLE = (
        75,
        True,
        "Kafka or the object store did not answer within START_DEADLINE_SECONDS. "
        "systemd: restart, it may be up by then.",
    )
    FENCED = (
        76,
        False,
        "A newer service with the same INSTANCE_ID has started. systemd: do not restart; "
        "two would fence each other for ever. Stop one, or give them different identities.",
    )
    CONFIG = (
        78,
        False,
        "The configuration or the command line is wrong (every fault was named on stderr), the "
        "lake needs a person, there is no room for the shared memory, or the health page's port "
        "is taken. systemd: do not restart; the next start would fail the same way.",
    )


class WorkerExit(IntEnum):
    """How a worker process ended by its own will; the supervisor reads its restart policy in it.

    A death by signal or any other code counts as FAILED.
    """

    STOPPED_CLEANLY = 0
    """It was told to stop."""
    FAILED = 1
    """An error it could not handle in place: respawn with back-off."""
    TOPIC_STOPPED = 3
    """A named error no retry can help: do not respawn."""
    FENCED = 4
    """Kafka gave its membership away: look for a newer service of our identity, else respawn."""
    ORPHANED = 5
    """The supervisor is gone."""
    RECYCLED = 6
    """It had grown beyond its share of the memory, and owed nothing: start a new one at once."""
