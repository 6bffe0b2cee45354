"""The shared block: made whole or not at all, refused when it is not ours, never read half."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import layout
from shared.block import Block
from shared.errors import BlockError
from shared.layout import BUCKET_BOUNDS_S, Header, Histogram, Order, Report
from shared.protocol import Ballot, Phase, Vote
from tests.rig.evidence import Evidence, Strike
from tests.waiting import wait_until

START_S = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give where the test's block lies."""
    return tmp_path / "block"


@pytest.fixture
def block(path: Path) -> Block:
    """Give a block for two topics."""
    return Block.create(path, 2, b'{"topics": ["a", "b"]}')


def poke(path: Path, offset: int, content: bytes) -> None:
    """Write into the file behind a block."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_an_attached_block_shows_what_its_maker_wrote(block: Block, path: Path) -> None:
    """All processes see each other through it."""
    other = Block.attach(path)
    block.set_phase(7, Phase.FLUSHING)
    block.slot(1).set_order(Order.INCARNATION, 3)
    other.slot(1).set_report(Report.ROWS, 5)
    other.slot(1).cast(Ballot(7, Vote.PREPARED))
    assert other.topic_count == 2
    assert other.about() == block.about() == b'{"topics": ["a", "b"]}'
    assert other.phase() == (7, Phase.FLUSHING)
    assert other.slot(1).order(Order.INCARNATION) == 3
    assert block.slot(1).report(Report.ROWS) == 5
    assert block.slot(1).ballot() == Ballot(7, Vote.PREPARED)
    assert block.slot(0).ballot() == Ballot()


def test_another_process_sees_the_same_block(block: Block, path: Path) -> None:
    """A mapping that is private to its process would look right within one process."""
    script = ("import sys; from pathlib import Path; from shared.block import Block; "
              "from shared.layout import Report; "
              "Block.attach(Path(sys.argv[1])).slot(0).count(Report.ROWS, 41)")
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=START_S)
    assert block.slot(0).report(Report.ROWS) == 41


def test_an_unshared_block_is_whole_and_nobody_else_sees_it() -> None:
    """The page answers once before there is a service; that must leave no file behind."""
    block, other = Block.unshared(2, b"about"), Block.unshared(2, b"about")
    block.slot(1).set_report(Report.ROWS, 5)
    assert (block.about(), block.topic_count) == (b"about", 2)
    assert block.get(Header.TOPIC_COUNT) == 2
    assert block.get(Header.LAYOUT_VERSION) == layout.LAYOUT_VERSION
    assert other.slot(1).report(Report.ROWS) == 0


def test_block_is_closed_to_other_users(block: Block, path: Path) -> None:
    """Errors in it may name hosts and buckets."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_block_is_never_made_over_an_existing_file(block: Block, path: Path) -> None:
    """A second service must not empty the block of the first."""
    block.set(Header.LAST_RECORD, 9)
    with pytest.raises(BlockError, match="File exists"):
        Block.create(path, 2, b"{}")
    assert block.get(Header.LAST_RECORD) == 9


def test_block_is_never_made_or_attached_through_a_link(path: Path, tmp_path: Path) -> None:
    """A link in the runtime folder could point at somebody else's file."""
    target = tmp_path / "target"
    Block.create(target, 1, b"{}")
    path.symlink_to(target)
    with pytest.raises(BlockError):
        Block.attach(path)
    with pytest.raises(BlockError):
        Block.create(path, 1, b"{}")


def test_a_missing_block_is_named(path: Path) -> None:
    """The sidecar may be started too early or too late."""
    with pytest.raises(BlockError, match=f"cannot open {path}: No such file"):
        Block.attach(path)


@pytest.mark.fault("P11")
@pytest.mark.parametrize("size", [0, 8, layout.block_bytes(1) - 8])
def test_a_short_file_is_refused(path: Path, size: int, evidence: Evidence) -> None:
    """Reading past a file's end through a mapping would kill the process."""
    path.write_bytes(bytes(size))
    with pytest.raises(BlockError, match=f"has {size} bytes, too few"):
        Block.attach(path)
    evidence.struck(Strike.HOST, "cut-off block")


@pytest.mark.parametrize("extra", [1, 4, 7])
def test_a_file_of_broken_words_is_refused(path: Path, extra: int) -> None:
    """The words of a block are 8 bytes each; a torn file must not end in a traceback."""
    path.write_bytes(bytes(layout.block_bytes(1) + extra))
    with pytest.raises(BlockError, match="no whole number of words"):
        Block.attach(path)


def test_a_file_that_cannot_be_mapped_is_named(
    path: Path, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory or mappings may be at their limit; the sidecar says so and does not crash."""
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("shared.block.mmap.mmap", refuse)
    with pytest.raises(BlockError, match=f"cannot map {path}: Cannot allocate memory"):
        Block.attach(path)


def test_an_onlooker_sees_everything_and_can_change_nothing(block: Block, path: Path) -> None:
    """The sidecar answers strangers; whatever happens in it, ingestion's words stay ours."""
    onlooker = Block.attach(path, writable=False)
    block.slot(1).set_report(Report.ROWS, 5)
    block.slot(1).error.write(b"an error")
    assert onlooker.slot(1).report(Report.ROWS) == 5
    assert onlooker.slot(1).error.read() == b"an error"
    for change in (lambda: onlooker.set(Header.READY, 1),
                   lambda: onlooker.slot(1).count(Report.ROWS),
                   lambda: onlooker.slot(1).error.write(b"another"),
                   lambda: onlooker.cycle_seconds.observe(1.0)):
        with pytest.raises(TypeError, match="read-only"):
            change()
    assert block.slot(1).report(Report.ROWS) == 5
    assert block.slot(1).error.read() == b"an error"


@pytest.mark.fault("P11")
def test_a_foreign_file_is_refused(path: Path, evidence: Evidence) -> None:
    """The magic number tells our blocks from anything else of that size."""
    path.write_bytes(bytes(layout.block_bytes(1)))
    with pytest.raises(BlockError, match="not a block of this service"):
        Block.attach(path)
    evidence.struck(Strike.HOST, "junk in the place of a block")


@pytest.mark.fault("P11")
def test_a_block_of_another_layout_is_refused(
    block: Block, path: Path, evidence: Evidence
) -> None:
    """A word of another release may mean anything."""
    block.set(Header.LAYOUT_VERSION, layout.LAYOUT_VERSION + 1)
    with pytest.raises(BlockError, match=f"layout_version {layout.LAYOUT_VERSION + 1}"):
        Block.attach(path)
    evidence.struck(Strike.HOST, "block of another layout")


@pytest.mark.parametrize("count", [0, 1, 3, 1 << 40])
def test_a_block_of_the_wrong_size_is_refused(block: Block, path: Path, count: int) -> None:
    """A number of topics that the file has no room for would be read past its end."""
    block.set(Header.TOPIC_COUNT, count)
    with pytest.raises(BlockError, match="fits no number of topics"):
        Block.attach(path)


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """Give a limit of this process's file sizes, in force until the test ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = layout.block_bytes(1) // 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_is_an_error_and_leaves_no_file(path: Path, file_size_limit: int) -> None:
    """Space that is not reserved now would be a SIGBUS in whichever process writes first."""
    with pytest.raises(BlockError, match="cannot reserve"):
        Block.create(path, 1, b"{}")
    assert not path.exists()


@pytest.fixture
def tiny_file_system(tmp_path: Path) -> Iterator[Path]:
    """Give a file system in memory with room for half a block; needs the right to mount."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    size = layout.block_bytes(1) // 2
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, timeout=10).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=10)


@pytest.mark.fault("H1")
def test_a_full_file_system_is_an_error_and_leaves_no_file(
    tiny_file_system: Path, evidence: Evidence
) -> None:
    """The same on what systemd gives as runtime folder: a tmpfs, which is lazy by nature."""
    path = tiny_file_system / "block"
    with pytest.raises(BlockError, match="No space left"):
        Block.create(path, 1, b"{}")
    assert not path.exists()
    evidence.struck(Strike.HOST, "full runtime folder")


def test_a_removed_block_stays_usable(block: Block, path: Path) -> None:
    """The file goes first at the end, while workers may still write."""
    block.unlink()
    block.unlink()
    assert not path.exists()
    block.slot(0).count(Report.ROWS)
    assert block.slot(0).report(Report.ROWS) == 1


def test_a_text_is_read_as_written_up_to_its_capacity(block: Block) -> None:
    """The reader takes the length from the block, so it must hold at both ends."""
    blob = block.slot(0).error
    assert blob.read() is None
    for content in (b"x", b"y" * layout.TEXT_BYTES, b"short again"):
        blob.write(content)
        assert blob.read() == content
    blob.clear()
    assert blob.read() is None


def test_a_text_too_long_is_refused_and_the_old_one_kept(block: Block) -> None:
    """What does not fit must never run into the next field."""
    slot = block.slot(0)
    slot.error.write(b"old")
    slot.manifest.write(b"neighbour")
    with pytest.raises(ValueError, match="do not fit"):
        slot.error.write(b"x" * (layout.TEXT_BYTES + 1))
    assert slot.error.read() == b"old"
    assert slot.manifest.read() == b"neighbour"


@pytest.mark.parametrize("at", [0, 5, 99])
def test_a_half_written_text_is_not_read(block: Block, path: Path, at: int) -> None:
    """A worker killed while it writes leaves bytes of two texts behind."""
    block.slot(1).error.write(b"a" * 100)
    start = layout.topic_offset(1) + layout.ERROR_OFFSET + 2 * layout.WORD_BYTES
    poke(path, start + at, b"b")
    assert block.slot(1).error.read() is None


@pytest.mark.parametrize("length", [layout.TEXT_BYTES + 1, (1 << 64) - 1])
def test_a_text_with_an_impossible_length_is_not_read(
    block: Block, path: Path, length: int
) -> None:
    """A damaged length must not lead the reader into other fields."""
    block.slot(0).error.write(b"a" * 100)
    poke(path, layout.topic_offset(0) + layout.ERROR_OFFSET, length.to_bytes(8, "little"))
    assert block.slot(0).error.read() is None


def test_an_inclusion_is_told_to_the_vote_it_belongs_to(block: Block) -> None:
    """A worker asks for the cycle it voted on; of another one it is told nothing."""
    slot = block.slot(0)
    assert slot.included_record(7) is None
    slot.include(7, 12)
    assert (slot.included_record(7), slot.included_record(8)) == (12, None)


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("word", [Order.INCLUDED_CYCLE, Order.INCLUDED_RECORD,
                                  Order.INCLUDED_CHECK])
def test_one_damaged_word_never_tells_an_inclusion(block: Block, word: Order, bit: int) -> None:
    """Cycle 6 is one bit from cycle 7: a worker would commit what nobody decided."""
    slot = block.slot(0)
    slot.include(7, 12)
    slot.set_order(word, slot.order(word) ^ 1 << bit)
    for cycle_id in {7, slot.order(Order.INCLUDED_CYCLE)}:
        try:
            assert slot.included_record(cycle_id) is None
        except BlockError as error:
            assert "damaged" in str(error)


def test_phases_and_votes_that_do_not_exist_are_named(block: Block) -> None:
    """A traceback would not say where to look."""
    block.set(Header.PHASE, layout.pack(7, 99))
    block.slot(0).set_report(Report.BALLOT, layout.pack(7, 99))
    for ask in (block.phase, block.slot(0).ballot):
        with pytest.raises(BlockError, match="damaged.*99"):
            ask()


WRITER = """
import sys, time
from pathlib import Path
from shared.block import Block
slot = Block.attach(Path(sys.argv[1])).slot(0)
while True:
    slot.manifest.write(b"a" * 60000)
    time.sleep(0.0002)
    slot.manifest.write(b"b" * 70000)
    time.sleep(0.0002)
"""
"""It rests after each text as long as a reader takes; without that hardly one is ever whole."""


def test_a_reader_beside_a_writer_sees_whole_texts_or_none(block: Block, path: Path) -> None:
    """Supervisor and sidecar read while workers write, and nobody waits for anybody."""
    whole = {None, b"a" * 60000, b"b" * 70000}
    manifest = block.slot(0).manifest
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
    try:
        wait_until(lambda: manifest.read() is not None, START_S, "the writer has begun")
        seen = [manifest.read() for _ in range(500)]
        # In the middle of whatever it was doing; what it leaves must be whole or unreadable.
        writer.send_signal(signal.SIGKILL)
        writer.wait(START_S)
        seen.append(manifest.read())
    finally:
        writer.kill()
        writer.wait()
    assert set(seen) <= whole
    assert len(set(seen)) > 1


def test_words_count_up_and_stay_unsigned(block: Block) -> None:
    """A negative number would otherwise fail deep inside the mapping."""
    block.add(Header.CYCLES_EMPTY)
    block.add(Header.CYCLES_EMPTY, 4)
    block.set(Header.LAST_RECORD, -1)
    block.slot(0).count(Report.ROWS, 2)
    block.slot(0).count(Report.ROWS)
    assert block.get(Header.CYCLES_EMPTY) == 5
    assert block.get(Header.LAST_RECORD) == (1 << 64) - 1
    assert block.slot(0).report(Report.ROWS) == 3


@pytest.mark.parametrize(("seconds", "bucket"), [
    (0.0, 0), (BUCKET_BOUNDS_S[0], 0), (0.0051, 1), (BUCKET_BOUNDS_S[-1], len(BUCKET_BOUNDS_S) - 1),
    (BUCKET_BOUNDS_S[-1] + 1, len(BUCKET_BOUNDS_S)),
])
def test_a_duration_counts_in_the_bucket_whose_bound_it_does_not_pass(
    block: Block, seconds: float, bucket: int
) -> None:
    """Prometheus' buckets include their upper bound."""
    view = block.slot(1).histograms[Histogram.UPLOAD]
    view.observe(seconds)
    counts, total = view.snapshot()
    assert [index for index, count in enumerate(counts) if count] == [bucket]
    assert sum(counts) == 1
    assert total == pytest.approx(seconds, abs=1e-6)
    assert sum(block.slot(1).histograms[Histogram.COMMIT].snapshot()[0]) == 0
