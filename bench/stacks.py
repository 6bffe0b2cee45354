"""Folds what `perf script` prints into CPU by stage of a worker. Pure but for reading files.

A sample belongs to the stage of its innermost frame; what ran in the C library or the loader
belongs to the next frame outwards that is in neither, where the stack could be followed that far.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

FOLDER = Path("bench") / "results"
FRAME = re.compile(r"\s+[0-9a-f]+ (?P<symbol>.+) \((?P<object>[^()]*(?:\([^()]*\))?)\)$")
LIBC = "C library"
OTHER = "other"
NETWORK = re.compile(
    r"tcp|inet|skb|sock|net_|_net|napi|ip_|ip6_|recvmsg|sendmsg|poll|epoll|softirq|loopback|nf_")
PAGES = re.compile(
    r"fault|page|mmap|munmap|madvise|zap_|folio|vma|memcg|alloc|rmqueue|clear_|lru|smaps|brk")

_OBJECTS = (
    (re.compile(r"librdkafka"), "librdkafka"),
    (re.compile(r"libzstd"), "zstd"),
    (re.compile(r"libssl|libcrypto"), "TLS, digests"),
    (re.compile(r"/confluent_kafka/"), "confluent_kafka"),
    (re.compile(r"/msgspec/"), "msgspec"),
    (re.compile(r"/pyarrow/"), "Arrow"),
    (re.compile(r"/deltalake/|/obstore/"), "delta-rs, obstore"),
    (re.compile(r"libc[.-]|libm[.-]|ld-linux|libpthread|libstdc\+\+|libgcc|\[vdso\]|jemalloc"),
     LIBC),
    (re.compile(r"/python3?|libpython|lib-dynload"), "interpreter"),
)
_ZSTD = re.compile(r"ZSTD_|HUF_|FSE_|XXH")


@dataclass(frozen=True, slots=True)
class Frame:
    """A function and the file it is in."""

    symbol: str
    object: str


@dataclass(frozen=True, slots=True)
class Profile:
    """shares: (stage, share of all samples), the greatest first; worker_us: per message."""

    at: str
    commit: str
    seconds: float
    samples: int
    worker_us: float
    shares: list[tuple[str, float]]


def parse(lines: Iterable[str]) -> Iterator[list[Frame]]:
    """The stacks of the samples, innermost frame first."""
    stack: list[Frame] = []
    for line in lines:
        match = FRAME.match(line)
        if match:
            stack.append(Frame(match["symbol"], match["object"]))
        elif not line.strip() and stack:
            yield stack
            stack = []
    if stack:
        yield stack


def stage_of(stack: Sequence[Frame]) -> str:
    """The stage that a sample's CPU time belongs to."""
    if is_kernel(stack[0]):
        kernel = [frame.symbol for frame in stack if is_kernel(frame)]
        for name, pattern in (("kernel: network", NETWORK), ("kernel: memory", PAGES)):
            if any(pattern.search(symbol) for symbol in kernel):
                return name
        return "kernel: other"
    for frame in stack:
        stage = _library(frame)
        if stage not in (LIBC, OTHER):
            return stage
    return _library(stack[0])


def is_kernel(frame: Frame) -> bool:
    """Whether a frame is in the kernel."""
    return "[kernel" in frame.object or frame.object.startswith("[guest.kernel")


def _library(frame: Frame) -> str:
    stage = next((name for pattern, name in _OBJECTS if pattern.search(frame.object)), OTHER)
    return "zstd" if stage == "Arrow" and _ZSTD.search(frame.symbol) else stage


def fold(stacks: Iterable[Sequence[Frame]]) -> tuple[int, list[tuple[str, float]]]:
    """How many samples, and (stage, share), the greatest first."""
    counts = Counter(stage_of(stack) for stack in stacks)
    samples = counts.total()
    return samples, [(stage, count / samples) for stage, count in counts.most_common()]


def write_profile(profile: Profile, root: Path) -> Path:
    """Write it beside the runs."""
    path = root / FOLDER / f"profile-{profile.at[:10]}-{profile.commit}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(profile), indent=1) + "\n")
    return path


def newest_profile(root: Path) -> Profile | None:
    """The newest profile below a folder, or None."""
    found = [msgspec.json.decode(path.read_bytes(), type=Profile)
             for path in (root / FOLDER).glob("profile-*.json")]
    return max(found, key=lambda profile: profile.at, default=None)
