"""`python -m supervisor dlq`: dead letters counted, grouped, shown whole, and replayed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shared.config import Config
from shared.exit_codes import ExitCode
from supervisor.arguments import Parser, parse_strictly
from tools.lake_command import Besides, number, parser_of, report_on
from tools.progress import counted
from tools.report import Line, Status

if TYPE_CHECKING:
    from tools.dead_letters import Group, Seen

CHECK = "dlq"
VALUE_BYTES_MAX = 64 * 1024 * 1024
"""Of a repaired value; brokers take a megabyte unless they are told otherwise."""

_DESCRIPTION = """\
Look at dead letters, and make rows of those that are well formed by now, exactly once."""
_HINT = "See the name; topics without a dead letter have an empty table, or none."


def main(argv: Sequence[str]) -> int:
    """0 when all went well, 1 when something failed, 78 for bad arguments or configuration."""
    if argv and argv[0] in ACTIONS:
        return ACTIONS[argv[0]](argv[1:])
    parser = Parser(prog="python -m supervisor dlq", usage="%(prog)s ACTION [OPTION ...]",
                    description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    if not argv:
        parser.print_help()
        return ExitCode.OK
    if argv[0].startswith("-"):
        parse_strictly(parser, argv)
    parser.error(f"there is no such action; there are {', '.join(ACTIONS)}")


def stats(argv: Sequence[str]) -> int:
    """How many there are of each class, topic by topic."""
    parser = parser_of("dlq stats", "Count dead letters by topic and class.")
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help="only these")
    given = parse_strictly(parser, argv)
    besides = Besides()

    def look(config: Config) -> Iterator[Line]:
        from tools.dlq_text import stats_fact, stats_text

        groups = yield from _grouped(config, tuple(given.topics), given.json, lambda _: "")
        besides.facts["topics"] = [stats_fact(topic, group) for topic, _, group in groups]
        if groups:
            besides.text.append(stats_text(groups))
    return report_on("dlq stats", look, as_machine=given.json, besides=besides)


def list_(argv: Sequence[str]) -> int:
    """Dead letters grouped by the fingerprint of their error."""
    parser = parser_of(
        "dlq list", "Group dead letters by the fingerprint of their error: its class and its "
                    "message without numbers and quoted text. `open` are not replayed.")
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help="only these")
    given = parse_strictly(parser, argv)
    besides = Besides()

    def look(config: Config) -> Iterator[Line]:
        from tools.dlq_text import group_fact, groups_text

        groups = yield from _grouped(config, tuple(given.topics), given.json,
                                     lambda seen: seen.fingerprint)
        besides.facts["groups"] = [group_fact(*group) for group in groups]
        if groups:
            besides.text.append(groups_text(groups))
    return report_on("dlq list", look, as_machine=given.json, besides=besides)


def _grouped(
    config: Config, topics: tuple[str, ...], quiet: bool, word_of: Callable[[Seen], str]
) -> Generator[Line, None, list[tuple[str, str, Group]]]:
    """Read the tables and group what is in them; complaints about topics are yielded."""
    from tools.dead_letters import Groups, seen_of
    from tools.lake_probe import LakeProbe
    from shared.replay_plan import absorbed

    probe, groups = LakeProbe(config), Groups()
    wanted = topics or sorted({*probe.topics_with_dead_letters(), *config.topics})
    with counted("dead letters read", quiet=quiet) as advance:
        for topic in wanted:
            letters = probe.dead_letters(topic, _SEEN_COLUMNS)
            if letters is None:
                if topics:
                    yield Line(CHECK, topic, Status.WARN, "there is no dead letter table", _HINT)
                continue
            replayed = absorbed(probe.plans(topic))
            for row in letters:
                seen = seen_of(topic, row)
                groups.add(seen, word_of(seen),
                           is_open=(seen.partition, seen.offset) not in replayed)
                advance()
    found = groups.largest_first()
    if not found:
        yield Line(CHECK, "", Status.OK, "there are no dead letters")
    return found


def show(argv: Sequence[str]) -> int:
    """One dead letter whole."""
    parser = parser_of("dlq show", "Show one dead letter whole. What a terminal would obey is in "
                                   "escapes; --save writes the value's own bytes to a file.")
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("partition", metavar="PARTITION", type=number)
    parser.add_argument("offset", metavar="OFFSET", type=number)
    parser.add_argument("--save", metavar="FILE", type=Path,
                        help="write the value, byte for byte, to a new file")
    given = parse_strictly(parser, argv)
    besides = Besides()
    return report_on("dlq show", lambda config: _show(config, given, besides),
                     as_machine=given.json, besides=besides)


def _show(config: Config, given: argparse.Namespace, besides: Besides) -> Iterator[Line]:
    from tools.absorption import LETTER_COLUMNS
    from tools.dlq_text import letter_fact, letter_text
    from tools.lake_probe import LakeProbe

    probe, place = LakeProbe(config), (given.partition, given.offset)
    row = next(probe.dead_letters(given.topic, LETTER_COLUMNS, place) or iter(()), None)
    if row is None:
        yield Line(CHECK, given.topic, Status.FAIL,
                   f"there is no dead letter at partition {place[0]}, offset {place[1]}",
                   "dlq list names the first and the last of each group.")
        return
    replay = next((plan.number for plan in probe.plans(given.topic) if place in plan.letters), None)
    besides.facts["letter"] = letter_fact(given.topic, row, replay)
    besides.text.append(letter_text(given.topic, row, replay))
    if given.save is not None:
        yield _save(given.save, row["value"])


def _save(path: Path, value: bytes | None) -> Line:
    try:
        with path.open("xb") as file:
            file.write(value or b"")
    except OSError as error:
        return Line(CHECK, "save", Status.FAIL, f"the file could not be written: {error.strerror}",
                    "Name a file that does not exist yet, in a folder you may write to.")
    return Line(CHECK, "save", Status.OK, f"{len(value or b'')} bytes")


def replay(argv: Sequence[str]) -> int:
    """Make rows of dead letters."""
    given = _replay_arguments(argv)
    besides = Besides()

    def look(config: Config) -> Iterator[Line]:
        from tools.dlq_replay import Order, run

        value = None
        if given.value_file is not None:
            value, line = _value_of(given.value_file)
            if line is not None:
                yield line
                return
        place = None if given.offset is None else (given.partition, given.offset)
        order = Order(given.topic, given.fingerprint, place, value,
                      without_headers=given.without_headers, dry_run=given.dry_run)
        with counted("dead letters read", quiet=given.json) as advance:
            yield from run(config, order, besides.facts, advance)
    return report_on("dlq replay", look, as_machine=given.json, besides=besides)


def _replay_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = parser_of(
        "dlq replay", "Check stored dead letters by the checks of this release, and append those "
                      "that are well formed to the bronze table, each exactly once. It may be "
                      "killed, run twice, several times at once, and beside the service.")
    parser.add_argument("topic", metavar="TOPIC")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="every one of the topic")
    which.add_argument("--fingerprint", metavar="F", type=_fingerprint,
                       help="those with this fingerprint, as `dlq list` has it")
    which.add_argument("--offset", metavar="O", type=number,
                       help="the one at this offset; with --partition")
    parser.add_argument("--partition", metavar="P", type=number)
    parser.add_argument("--value-file", metavar="FILE", type=Path,
                        help="with --offset: the repaired value, in place of the stored one")
    parser.add_argument("--without-headers", action="store_true",
                        help="also those whose headers could not be kept")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    given = parse_strictly(parser, argv)
    if (given.offset is None) != (given.partition is None):
        parser.error("--partition and --offset belong together")
    if given.value_file is not None and given.offset is None:
        parser.error("--value-file is for one dead letter: give --partition and --offset")
    return given


def _value_of(path: Path) -> tuple[bytes | None, Line | None]:
    try:
        with path.open("rb") as file:
            value = file.read(VALUE_BYTES_MAX + 1)
    except OSError as error:
        return None, Line(CHECK, "value file", Status.FAIL, f"cannot be read: {error.strerror}",
                          "Name a file you may read.")
    if len(value) > VALUE_BYTES_MAX:
        return None, Line(CHECK, "value file", Status.FAIL,
                          f"has more than {VALUE_BYTES_MAX} bytes", "Name the right file.")
    return value, None


def _fingerprint(text: str) -> str:
    from tools.dead_letters import FINGERPRINT_CHARS

    if len(text) == FINGERPRINT_CHARS and set(text) <= set("0123456789abcdef"):
        return text
    raise argparse.ArgumentTypeError("is not a fingerprint as `dlq list` has it")


_SEEN_COLUMNS = ("_kafka_partition", "_kafka_offset", "_ingested_at", "error_class",
                 "error_message")
ACTIONS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "list": list_, "show": show, "stats": stats, "replay": replay}
_EPILOG = """\
actions, each with a --help of its own:
  list    dead letters grouped by the fingerprint of their error
  show    one dead letter whole
  stats   how many there are, topic by topic
  replay  make rows of those that are well formed by now"""
