"""The fault matrix: what may happen to the service, and what must come of it.

Tests name the rows they show with `@pytest.mark.fault("S2", ...)`.  A row without such a test says
in `stand_in` why it is not run and what stands in its place.  The page docs/reliability.md is
rendered from here; "whole" in a promise means that every message lands in exactly one table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Area(StrEnum):
    """Where a fault strikes; the first letter of its row's id."""

    PROCESSES = "Processes and shared memory"
    KAFKA = "Kafka"
    STORE = "Object store and tables"
    HOST = "Host and configuration"


AREA_OF = {"P": Area.PROCESSES, "K": Area.KAFKA, "S": Area.STORE, "H": Area.HOST}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the matrix.

    stand_in: for a row (or the part of it) that cannot be run here: why, and what stands in.
    """

    id: str
    fault: str
    promise: str
    stand_in: str = ""

    @property
    def area(self) -> Area:
        """Where it strikes."""
        return AREA_OF[self.id[0]]


MATRIX = (
    Row("P1", "A worker is killed while it reads or encodes",
        "Whole. The next incarnation starts from the table; only undecided rows are read again"),
    Row("P2", "A worker is killed after an upload, before the commit",
        "Whole. The uploaded file stays invisible for ever"),
    Row("P3", "A worker is killed after the Delta commit, before Kafka's offsets are told",
        "Whole. Reading goes on from the table, and the group's offsets follow"),
    Row("P4", "A worker is killed after Kafka's offsets were told", "Whole. Nothing is read twice"),
    Row("P5", "A worker is killed between its vote and the decision",
        "Whole. Its vote is void; the cycle is aborted or decided without it, never on its word"),
    Row("P6", "The supervisor is killed",
        "Whole. All its processes end within seconds; the next start ends what was decided"),
    Row("P7", "The health page's process dies or hangs",
        "Ingestion is not touched; the page is started again"),
    Row("P8", "A worker is frozen, for short or for longer than its heartbeat limit",
        "Whole. The others go on without it; past the limit it is replaced, and what it does when "
        "it thaws is refused"),
    Row("P9", "The whole service is frozen and thaws",
        "Whole. What was read for partitions lost meanwhile is dropped and read by their owner"),
    Row("P10", "A second service of the same identity starts, or two share a topic",
        "Whole. The older one of one identity ends with 76; instances share partitions"),
    Row("P11", "Shared memory of a killed service is left behind, cut short or overwritten",
        "Nothing of it is used: every start makes its block anew, and refuses one of another size "
        "or layout"),
    Row("P12", "The number of a dead process is given to another one",
        "Processes are held by handles, not numbers; a stranger is never signalled"),
    Row("P13", "The shared block is damaged",
        "A damaged slot costs a restart, never a wrong commit"),
    Row("P14", "SIGTERM while idle, while flushing, while starting, and twice",
        "Whole. Exit 0 within the deadline; a second one hastens, and skips no rule"),
    Row("P15", "A storm of signals", "They are taken one after the other; no flood in the log"),
    Row("P16", "A worker dies at every start",
        "The other topics go on; it is tried again ever more slowly, and /health names it"),
    Row("P17", "A worker ends by an exception of Python or of a library in C",
        "Whole. The log says why; it is started again"),
    Row("P18", "A process runs out of file descriptors",
        "A named error and a new try; the supervisor lives"),
    Row("P19", "No further process or thread can be made",
        "A new try after a wait; the supervisor lives, and the topics that run go on"),
    Row("K1", "The broker is stopped or killed, and comes back",
        "Whole. Reading goes on by itself"),
    Row("K2", "No broker for long, and none at start",
        "What was read is still committed; the service waits. At start it ends with 75 past the "
        "deadline"),
    Row("K3", "The broker is out of reach without a word (no RST)",
        "Whole. /health says so; reading goes on by itself"),
    Row("K4", "Leaders or the group's coordinator move",
        "Whole. The client follows"),
    Row("K5", "The line to the broker is slow, cut in pieces, or half open", "Whole, only slower"),
    Row("K6", "A topic is deleted and created again",
        "That topic stops with its name and what to do, before a row of the new one is decided; "
        "the others go on"),
    Row("K7", "Partitions are added", "Found within seconds and read from their beginning"),
    Row("K8", "Retention overtakes the position",
        "The range is named as lost in the record and in the metrics, or the topic stops: by "
        "policy, never in silence"),
    Row("K9", "The broker lost messages that it had confirmed (unclean election)",
        "A position behind the log's end stops the topic with its name",
        stand_in="An election needs three brokers; its result, a log without its tail, is made by "
        "hand while the broker is down"),
    Row("K10", "Members join and leave while a flush is under way",
        "Whole. A partition's open rows are dropped with it and read by its next owner"),
    Row("K11", "A flush or a commit takes longer than Kafka lets a member be silent",
        "The member polls meanwhile; if it is put out all the same, it drops and reads again"),
    Row("K12", "Another member takes the static identity",
        "The one put out ends its reading with a name; no storm of restarts"),
    Row("K13", "Rights, password or certificate are wrong or withdrawn",
        "Named in /health, tried slowly, no secret in the log; it heals by itself"),
    Row("K14", "Aborted and open transactions, control records",
        "What was aborted never lands; offsets are passed over and accounted for"),
    Row("K15", "Compressed, mixed and corrupt batches",
        "Every codec is read; a batch with a wrong checksum is an error, never passed over"),
    Row("K16", "Messages as large as the broker lets through",
        "They land; memory stays bounded by limits on bytes"),
    Row("K17", "Timestamps of -1, 0, before 1970, and far in the future",
        "Stored, or null where no calendar has them; the batch lives"),
    Row("K18", "Headers: none, thousands, null values, equal names, names that are no text",
        "Kept in order; names that are no text make a dead letter"),
    Row("K19", "Topic names with every legal character, equal after replacement, 249 long",
        "Each topic has a table of its own; what cannot be a table is refused at start"),
    Row("K20", "The broker throttles the client", "Whole, only slower"),
    Row("S1", "Requests of each kind are refused with 500, 503 or 429, once, in part, for long",
        "Whole. Tried again with growing waits; reading pauses before memory grows"),
    Row("S2", "A put takes effect and its answer is lost (500, reset, silence)",
        "An error is a question: the record or the table is read again; nothing lands twice"),
    Row("S3", "Bodies cut short, slow answers, silence",
        "Tried again; half an object is never visible"),
    Row("S4", "The bucket is gone, or rights are withdrawn",
        "75 or 78 at start, 503 with a name while running; it heals by itself"),
    Row("S5", "Credentials are replaced while it runs",
        "The old ones fail by name; a restart with new ones goes on"),
    Row("S6", "The clocks of host and store differ by more than the store tolerates",
        "Named in /health; offsets, never clocks, decide what is committed"),
    Row("S7", "The store is killed, or its disk is full", "As S1"),
    Row("S8", "Another writer changes the table's columns",
        "A column that may be null is let be; anything our rows do not fit stops the topic"),
    Row("S9", "Another engine compacts the table", "Whole. The commit is made on the new snapshot"),
    Row("S10", "Another engine vacuums the table",
        "Whole. A record whose file is gone stops the topic by name, and is not half committed"),
    Row("S11", "The table's protocol is raised, or a feature is turned on",
        "What the library can write is written; else the topic waits, by name"),
    Row("S12", "The hint to the last checkpoint is empty, garbage, or points nowhere",
        "Tolerated, or the topic waits by name; it heals when the hint is mended"),
    Row("S13", "A commit's JSON is torn or empty",
        "A torn one is never written over or passed over: the topic waits by name. An empty one is a "
        "version without a change"),
    Row("S14", "The table's log is deleted under the service",
        "The table is never made again; the topic stops by name"),
    Row("S15", "Thousands of commits without a checkpoint, slow listing",
        "Opening stays within the start's deadline"),
    Row("S16", "Writing a checkpoint fails", "The commit stands; the next one tries again"),
    Row("S17", "Other writers commit to the same table without a pause",
        "Whole. Refused commits are tried on the new snapshot, and counted"),
    Row("H1", "No room in shared memory or in the temporary folder",
        "A named end at the start; nothing half made"),
    Row("H2", "The log's reader is gone or stands still", "Ingestion does not depend on it"),
    Row("H3", "The kernel kills a process for want of memory",
        "Only that process dies, the workers first; it is started again",
        stand_in="The kernel's own choice needs a memory cgroup; a limit on the address space and "
        "SIGKILL, which is how it ends a process, stand in, and the unit's OOMPolicy is read"),
    Row("H4", "Too little CPU", "Whole, only slower; nobody is killed for being slow",
        stand_in="A quota needs a cgroup; the service is stopped for most of each second instead"),
    Row("H5", "The wall clock jumps or goes back",
        "Intervals are monotonic, offsets decide; only times in rows are as odd as the clock"),
    Row("H6", "The health page's port is taken", "Named; no second supervisor by mistake"),
    Row("H7", "Bad configuration of every kind",
        "78 within two seconds, all faults at once, no secret, no traceback"),
    Row("H8", "Power is cut: everything ends at once",
        "Whole. Kafka and the lake are all there is"),
    Row("H9", "Names do not resolve", "Tried again; a named 75 at start"),
    Row("H10", "A process crashes with secrets in memory", "No core file"),
)

ROWS = {row.id: row for row in MATRIX}
