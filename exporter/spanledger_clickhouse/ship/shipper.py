"""Drains a spool into a sink: segment by segment, acknowledged by offset, deleted when complete.

What is shipped of a segment stands beside it in `<segment>.ack` (a byte offset, written after the
insert was committed): a crash between the two ships those rows again, which the table absorbs. A
segment whose lock is free has no writer any more; it is deleted at its end. One shipper a directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spanledger.spool.writer import SUFFIX
from spanledger_clickhouse.database.insert import isolate
from spanledger_clickhouse.rows.rows import contents
from spanledger_clickhouse.ship import dead_letters
from spanledger_clickhouse.ship.sinks import Sink, SpoolLine

BATCH_ROWS: Final = 2000
BATCH_BYTES: Final = 8 << 20
EMPTY_SEGMENT_SECONDS: Final = 60.0
"""A segment of this age may be empty because its writer has only just created it."""


@dataclass
class DrainStats:
    """Totals of one pass over a spool."""

    rows: int = 0
    segments: int = 0
    torn: int = 0
    """Lines that are not valid JSON: writes truncated by a crash or a full disk."""
    dead: int = 0
    """Lines that were refused permanently; both kinds are kept as dead letters."""


class BusyError(Exception):
    """Another process is shipping this spool."""


@contextlib.contextmanager
def exclusive_shipper(directory: Path) -> Generator[None]:
    """Hold the exclusive shipping lock of the spool.

    Raises:
        BusyError: another process holds it.
    """
    with (directory / "ship.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(f"another process is shipping {directory}") from error
        yield


def waiting_bytes(directory: Path) -> int:
    """Bytes in the spool that are not shipped yet."""
    if not directory.is_dir():
        return 0
    return sum(max(0, _size(path) - _acknowledged(path)) for path in directory.glob(f"*{SUFFIX}"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # shipped, and deleted, meanwhile
        return 0


def oldest_age_seconds(directory: Path) -> float:
    """Seconds since the last write to the oldest segment that is not fully shipped; 0.0 if all are shipped."""
    times: list[float] = []
    for path in directory.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > _acknowledged(path):
                times.append(path.stat().st_mtime)
    return max(0.0, time.time() - min(times)) if times else 0.0


def drain(directory: Path, sink: Sink, progress: Callable[[int], None] = lambda _: None) -> DrainStats:
    """Ship the current content of the spool.

    Args:
        directory: the spool.
        sink: receives the lines; its `DatabaseError` ends the pass, and the batch stays in the spool. Lines that
            it refuses permanently are isolated as dead letters.
        progress: called with the bytes shipped per batch.

    Raises:
        BusyError: another process ships this spool.
        DatabaseError: the sink cannot take rows now.
    """
    stats = DrainStats()
    if not directory.is_dir():
        return stats
    with exclusive_shipper(directory):
        for path in sorted(directory.glob(f"*{SUFFIX}"), key=lambda p: (p.stat().st_mtime, p.name)):
            _drain_segment(path, sink, progress, stats)
    return stats


def _drain_segment(path: Path, sink: Sink, progress: Callable[[int], None], stats: DrainStats) -> None:
    with path.open("rb") as segment:
        finished = _has_no_writer(segment.fileno())  # checked before reading: nothing can be appended after it
        start = _acknowledged(path)
        segment.seek(start)
        for batch, torn, size in _batches(segment, finished):
            _send(sink, batch, path.parent, stats)
            for line in torn:
                dead_letters.add(path.parent, line, "not valid JSON: a write truncated by a crash or a full disk")
            start += size
            _acknowledge(path, start)
            stats.torn += len(torn)
            progress(size)
        empty = start == 0 and time.time() - path.stat().st_mtime < EMPTY_SEGMENT_SECONDS
        if finished and not empty:
            path.unlink()
            _ack_file(path).unlink(missing_ok=True)
            stats.segments += 1


def _send(sink: Sink, batch: list[SpoolLine], directory: Path, stats: DrainStats) -> None:
    """Send a batch; permanently refused lines go to the dead letters."""

    def send(lines: list[SpoolLine]) -> None:
        sink.send(lines)
        stats.rows += sum(len(line.contents.rows) for line in lines)

    def refused(line: SpoolLine, why: str) -> None:
        dead_letters.add(directory, line.raw, why)
        stats.dead += 1

    isolate(send, batch, refused)


def _batches(segment: Any, finished: bool) -> Generator[tuple[list[SpoolLine], list[bytes], int]]:
    """(lines, torn lines, bytes); an incomplete last line is read only from a finished segment."""
    batch: list[SpoolLine] = []
    torn: list[bytes] = []
    size = 0
    for line in segment:
        if not line.endswith(b"\n") and not finished:
            break
        size += len(line)
        try:
            batch.append(SpoolLine(line, contents(line)))
        except (ValueError, RecursionError, OverflowError):
            torn.append(line)
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield batch, torn, size
            batch, torn, size = [], [], 0
    if size:
        yield batch, torn, size


def _has_no_writer(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _ack_file(path: Path) -> Path:
    return path.with_suffix(".ack")


def _acknowledged(path: Path) -> int:
    try:
        return int(_ack_file(path).read_text())
    except (OSError, ValueError):
        return 0


def _acknowledge(path: Path, offset: int) -> None:
    temporary = path.with_suffix(".ack.new")
    temporary.write_text(str(offset))
    os.replace(temporary, _ack_file(path))
