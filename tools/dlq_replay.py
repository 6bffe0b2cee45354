"""`dlq replay` from the order to the report: which dead letters, what is wrong with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from shared.clock import SystemClock
from shared.config import Config
from shared.errors import IngestError
from shared.naming import bronze_table
from shared.object_store import open_store
from tools.absorption import LETTER_COLUMNS, Letter, letter_of, refusal
from tools.dead_letters import fingerprint
from tools.lake_probe import LakeProbe
from tools.replay import BYTES_MAX, LETTERS_MAX, Replay
from shared.replay_plan import Place
from tools.report import Line, Status
from tools.words import many
from workers.assembly import table_store
from workers.decoder import ErrorClass

CHECK = "replay"
REASONS_SHOWN_MAX = 20
"""Sorts of errors that letters still have; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Order:
    """Which dead letters of a topic: those with a fingerprint, the one at a place (then `value`
    may stand for the stored one), or all."""

    topic: str
    fingerprint: str | None = None
    place: Place | None = None
    value: bytes | None = None
    without_headers: bool = False
    dry_run: bool = False

    def names(self, letter: Letter) -> bool:
        """Whether it is one of them."""
        return ((self.place is None or self.place == letter.place)
                and (self.fingerprint is None or self.fingerprint == letter.fingerprint))


@dataclass(slots=True)
class Refused:
    """Dead letters that are malformed still in one way: the first of them, and how many."""

    place: Place
    error_class: str
    message: str
    count: int = 0


@dataclass(slots=True)
class Tally:
    """What became of the letters that were asked for.

    refused: fingerprint -> the first of those with a flaw, and how many there are.
    """

    asked: int = 0
    fit: int = 0
    known: int = 0
    not_landed: int = 0
    refused: dict[str, Refused] = field(default_factory=dict)

    def refuse(self, place: Place, error_class: str, message: str) -> None:
        """Count one that stays what it is."""
        word = fingerprint(error_class, message)
        one = self.refused.setdefault(word, Refused(place, error_class, message))
        one.count += 1
        one.place = min(one.place, place)


def run(
    config: Config, order: Order, facts: dict[str, object], on_letter: Callable[[], None]
) -> Iterator[Line]:
    """Replay, and tell what was done in `facts` and lines; errors with a name are lines, too."""
    store = open_store(config.lake)
    replay = Replay(store, table_store(config, store), order.topic, SystemClock().unix_ms)
    tally = Tally()
    failure: IngestError | None = None
    try:
        _run(LakeProbe(config), replay, order, tally, on_letter)
    except IngestError as error:
        failure = error
    undone = replay.undone() if order.dry_run and failure is None else []
    facts.update(
        topic=order.topic, dry_run=order.dry_run, asked=tally.asked, well_formed=tally.fit,
        already_replayed=tally.known, malformed=sum(one.count for one in tally.refused.values()),
        replays=[{"replay": number, "letters": count}
                 for number, count in replay.done.made.items()],
        finished=undone or replay.done.finished)
    yield from _lines(order, tally, replay, undone, failed=failure is not None)
    if failure is not None:
        yield Line(CHECK, order.topic, Status.FAIL, f"{failure.name}: {failure}",
                   f"{failure.what_to_do} What is decided is not lost: run it again.")


def _run(
    probe: LakeProbe, replay: Replay, order: Order, tally: Tally, on_letter: Callable[[], None]
) -> None:
    # The dead letters first: what they show and the bronze table's positions cover has landed.
    rows = probe.dead_letters(order.topic, LETTER_COLUMNS, order.place)
    if rows is None:
        return
    replay.open(changing=not order.dry_run)
    letters = map(letter_of, rows)
    for batch in _batches(_fit(letters, replay, order, tally, on_letter)):
        tally.fit += len(batch)
        if not order.dry_run:
            replay.replay(batch)


def _fit(
    letters: Iterable[Letter], replay: Replay, order: Order, tally: Tally,
    on_letter: Callable[[], None],
) -> Iterator[Letter]:
    """Those that are asked for and are well formed now; the others are counted."""
    known = replay.absorbed
    for letter in letters:
        on_letter()
        if not order.names(letter):
            continue
        tally.asked += 1
        if letter.place in known:
            tally.known += 1
            continue
        if letter.offset >= replay.position(letter.partition):
            tally.not_landed += 1
            continue
        if order.value is not None:
            letter = letter.repaired(order.value)
        flaw = refusal(letter, without_headers=order.without_headers)
        if flaw is None:
            yield letter
        else:
            tally.refuse(letter.place, *flaw)


def _batches(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    """As many at once as one replay takes."""
    batch: list[Letter] = []
    held = 0
    for letter in letters:
        if batch and (len(batch) >= LETTERS_MAX or held + letter.weight > BYTES_MAX):
            yield batch
            batch, held = [], 0
        batch.append(letter)
        held += letter.weight
    if batch:
        yield batch


def _lines(
    order: Order, tally: Tally, replay: Replay, undone: list[int], *, failed: bool
) -> Iterator[Line]:
    topic = order.topic
    for number in undone:
        yield Line(CHECK, topic, Status.WARN, f"replay {number} was decided and is not finished",
                   "Without --dry-run it is brought to its end first.")
    for number in replay.done.finished:
        yield Line(CHECK, topic, Status.OK, f"replay {number} had been left unfinished; it is in "
                                            f"{bronze_table(topic)} now")
    for number, count in replay.done.made.items():
        yield Line(CHECK, topic, Status.OK, f"replay {number}: {many(count, 'dead letter')} "
                                            f"became {_rows(count, topic)}")
    if order.dry_run and tally.fit:
        yield Line(CHECK, topic, Status.OK, f"{many(tally.fit, 'dead letter')} would become "
                                            f"{_rows(tally.fit, topic)}")
    if tally.known:
        yield Line(CHECK, topic, Status.OK, f"{tally.known} were replayed before, and are let be")
    if tally.not_landed:
        yield Line(CHECK, topic, Status.WARN, f"{tally.not_landed} belong to a cycle that is not "
                                              "in the bronze table yet", "Run it again.")
    yield from _refused(order, tally)
    if not tally.asked and not failed:
        is_fine = order.place is None and order.fingerprint is None and replay.is_open
        yield Line(CHECK, topic, Status.OK if is_fine else Status.FAIL,
                   "there is no such dead letter" if replay.is_open else
                   "there is no dead letter table of this topic",
                   "dlq list names topics, fingerprints and offsets.")


def _rows(count: int, topic: str) -> str:
    return f"{'a row' if count == 1 else 'rows'} of {bronze_table(topic)}"


def _refused(order: Order, tally: Tally) -> Iterator[Line]:
    worst = sorted(tally.refused.values(), key=lambda one: -one.count)
    advice = ("dlq show --save FILE writes the bytes of one to a file; mend it, and give it to dlq "
              "replay with --partition, --offset and --value-file.")
    for one in worst[:REASONS_SHOWN_MAX]:
        where = f"the first at partition {one.place[0]}, offset {one.place[1]}"
        if one.error_class == ErrorClass.HEADERS:
            yield Line(CHECK, order.topic, Status.WARN,
                       f"{one.count} lost their headers, {where}: {one.message}",
                       "--without-headers makes rows of them all the same.")
        else:
            yield Line(CHECK, order.topic, Status.WARN if order.value is None else Status.FAIL,
                       f"{one.count} still malformed, {where}: {one.error_class}: {one.message}",
                       advice)
            advice = ""
    rest = sum(one.count for one in worst[REASONS_SHOWN_MAX:])
    if rest:
        yield Line(CHECK, order.topic, Status.WARN, f"and {rest} more of other sorts")
