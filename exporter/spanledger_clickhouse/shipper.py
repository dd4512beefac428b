"""Drains a spool into ClickHouse: segment by segment, acknowledged by offset, deleted when done.

What is shipped of a segment stands beside it in `<segment>.ack` (a byte offset, written after the
insert was committed): a crash between the two ships those rows again, which the table absorbs. A
segment whose lock is free has no writer any more; it is deleted at its end. One shipper a directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spanledger.guard import log
from spanledger.spool import SUFFIX
from spanledger_clickhouse import schema, writer
from spanledger_clickhouse.database import DatabaseError, connect, target
from spanledger_clickhouse.rows import Row, rows

BATCH_ROWS: Final = 2000
BATCH_BYTES: Final = 8 << 20
EMPTY_SEGMENT_SECONDS: Final = 60.0
"""A segment this young may be empty because its writer has only just made it."""

Insert = Callable[[list[Row]], None]


@dataclass
class Drained:
    """What one pass over a spool did."""

    rows: int = 0
    segments: int = 0
    torn: int = 0
    """Lines that are no JSON: a write that a crash or a full disk cut short."""


class BusyError(Exception):
    """Another process ships this spool."""


@contextlib.contextmanager
def sole_shipper(directory: Path) -> Generator[None]:
    """Hold the spool for this process.

    Raises:
        BusyError: another process holds it.
    """
    with (directory / "ship.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(f"another process is shipping {directory}") from error
        yield


def waiting(directory: Path) -> int:
    """Bytes in the spool that are not shipped yet."""
    if not directory.is_dir():
        return 0
    return sum(max(0, path.stat().st_size - _acknowledged(path)) for path in directory.glob(f"*{SUFFIX}"))


def drain(directory: Path, insert: Insert, progress: Callable[[int], None] = lambda _: None) -> Drained:
    """Ship everything that stands in the spool now.

    Args:
        directory: the spool.
        insert: writes a batch and returns when it is committed; what it raises ends the pass, and the
            batch stays in the spool.
        progress: told the bytes that each batch took out of the spool.

    Raises:
        BusyError: another process ships this spool.
    """
    done = Drained()
    if not directory.is_dir():
        return done
    with sole_shipper(directory):
        for path in sorted(directory.glob(f"*{SUFFIX}"), key=lambda p: (p.stat().st_mtime, p.name)):
            _drain_segment(path, insert, progress, done)
    return done


def _drain_segment(path: Path, insert: Insert, progress: Callable[[int], None], done: Drained) -> None:
    with path.open("rb") as segment:
        finished = _has_no_writer(segment.fileno())  # asked before reading: nothing can follow what we read
        start = _acknowledged(path)
        segment.seek(start)
        for batch, size in _batches(segment, done, finished):
            if batch:
                insert(batch)
            start += size
            _acknowledge(path, start)
            done.rows += len(batch)
            progress(size)
        empty = start == 0 and time.time() - path.stat().st_mtime < EMPTY_SEGMENT_SECONDS
        if finished and not empty:
            path.unlink()
            _ack_file(path).unlink(missing_ok=True)
            done.segments += 1


def _batches(segment: Any, done: Drained, finished: bool) -> Generator[tuple[list[Row], int]]:
    """(rows, bytes) of the complete lines; the unfinished last line only of a finished segment."""
    batch: list[Row] = []
    size = 0
    for line in segment:
        if not line.endswith(b"\n") and not finished:
            break
        size += len(line)
        try:
            batch += rows(line)
        except ValueError:
            done.torn += 1
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield batch, size
            batch, size = [], 0
    if size:
        yield batch, size


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


class BackgroundShipper:
    """Ships an application's spool to a ClickHouse server from a daemon thread.

    An outage is logged once and retried with growing pauses; the rows wait in the spool.
    """

    PAUSE: Final = 1.0
    LONGEST_PAUSE: Final = 60.0

    def __init__(self, directory: Path, dsn: str) -> None:
        self._directory = directory
        self._dsn = dsn
        self._wake = threading.Event()
        self._stopped = False
        self._client: Any = None
        self._out = False

    def start(self) -> None:
        try:
            self._target = target(self._dsn)
        except DatabaseError as error:
            log.error("%s. Rows wait in %s.", error, self._directory)
            return
        self._thread = threading.Thread(target=self._run, name="spanledger-shipper", daemon=True)
        self._thread.start()

    def flush(self) -> None:
        """Ship what is there without waiting for the next turn."""
        self._wake.set()

    def stop(self, timeout: float = 2.0) -> None:
        """Ship once more and end, within `timeout` seconds; what is left stays in the spool."""
        self._stopped = True
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        pause = self.PAUSE
        while not self._stopped:
            self._wake.wait(pause)
            self._wake.clear()
            pause = self.PAUSE if self._turn() else min(pause * 2, self.LONGEST_PAUSE)

    def _turn(self) -> bool:
        try:
            if waiting(self._directory):
                self._ship()
        except BusyError:
            return True  # a sidecar, or another worker of the same host, ships this directory
        except DatabaseError as error:
            self._client = None
            if not self._out:
                self._out = True
                log.error("%s. Rows wait in %s and are sent when it can be reached.", error, self._directory)
            return False
        except OSError as error:
            log.error("the spool %s cannot be read: %s", self._directory, error)
            return False
        if self._out:
            self._out = False
            log.warning("ClickHouse at %s is reached again", self._target.shown)
        return True

    def _ship(self) -> None:
        if self._client is None:
            client = connect(self._target)
            schema.migrate(client, self._target)
            self._client = client
        drain(self._directory, lambda batch: writer.insert(self._client, self._target, batch))
