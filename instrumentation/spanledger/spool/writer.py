"""The spool: rows on disk before `span.end()` returns, in a format that a stock Collector reads too.

A segment is a file of OTLP JSON lines (OpenTelemetry's file-exporter format, see `otlp_json.py`), one span a line,
written by one process: `<process id>-<number>.jsonl`. A row is one `os.write` to a file opened for appending:
it survives the death of the process, though not of the machine. The writer holds a lock on the segment
it writes; a reader that gets the lock knows that the segment is finished. `shipper.py` reads.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from spanledger.runtime.guard import log
from spanledger.semconv import attributes as a

SUFFIX: Final = ".jsonl"
SEGMENT_BYTES: Final = 16 << 20
"""A segment is closed beyond this size, so that it can be deleted once it is shipped."""
SEGMENT_SECONDS: Final = 300.0
"""... or this long after it was opened."""
RETRY_SECONDS: Final = 5.0
CHECK_SECONDS: Final = 1.0
"""How often the writer checks that its segment still has a name."""
MEMORY_ROWS: Final = 10_000
"""Rows kept in memory while no directory can be written."""

MarkerEncoder = Callable[[Mapping[str, Any]], bytes]


class Spool:
    """The writer of one process. `append` never raises.

    A full spool refuses the newest rows: they are counted, with their cost, and a loss marker says so as soon
    as there is room again. A directory that cannot be written is made up for by memory, as far as
    `MEMORY_ROWS` goes. A segment that was deleted under its writer is written again, within a second. Markers record where a process's numbers begin and end.
    """

    def __init__(self, directory: Path, max_bytes: int, mark: MarkerEncoder | None = None, sync_ms: int = 0) -> None:
        """
        Args:
            directory: where segments are; made if it is not there.
            max_bytes: how much all processes together may keep there.
            mark: makes a marker's line of its attributes; without one no markers are written.
            sync_ms: every so many milliseconds what was written is forced onto the device; 0: the system decides.
        """
        self.directory = directory
        self.max_bytes = max_bytes
        self.refused = 0
        """Rows that were rejected, because the spool was full or the directory was not writable."""
        self.refused_picousd = 0
        self.recorded = 0
        """Rows that were handed in."""
        self.written = 0
        self._encode_marker = mark
        self._sync_ms = sync_ms
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._logged_messages: set[str] = set()
        self._reset()

    def _reset(self) -> None:
        self.process_id = secrets.token_hex(8)
        """Random for every process, so that its sequence numbers are its own."""
        self._sequence = itertools.count()
        self._segment_numbers = itertools.count()
        self._size = 0
        self._opened = 0.0
        self._checked = 0.0
        self._other_bytes = 0
        self._retry_at = 0.0
        self._started = False
        self._end_sequence = -1
        self._losses = LostRows()
        self._buffered_lines: deque[bytes] = deque()
        self._dirty = threading.Event()
        self._syncing = False
        self._fallback_place = Place.NOWHERE
        """Where rows go while no segment can be opened."""

    def next_sequence(self) -> int:
        """The number of the next row of this process: 0, 1, 2, ... A missing number is a lost row."""
        return next(self._sequence)

    def append(self, line: bytes, sequence: int | None = None, picousd: int = 0) -> bool:
        """Write one line (ending in a newline). True when it is in the file, or kept until it can be.

        `sequence` and `picousd` say what is lost where it is neither.
        """
        with self._lock:
            self.recorded += 1
            place = self._place(len(line))
            if place is Place.FILE:
                if self._write(line):
                    return True
                place = self._fallback_place
            if place is Place.MEMORY and len(self._buffered_lines) < MEMORY_ROWS:
                self._buffered_lines.append(line)
                return True
            self.refused += 1
            self.refused_picousd += picousd
            self._losses.add(sequence, picousd)
            return False

    def _place(self, size: int) -> Place:
        """Where a line of `size` bytes can go now."""
        now = time.monotonic()
        if self._fd is not None and now - self._checked > CHECK_SECONDS:
            self._checked = now
            if self._is_deleted(self._fd):
                self._recover()
        if self._fd is not None and now - self._opened > SEGMENT_SECONDS:
            self._rotate()
        if self._fd is None:
            if now < self._retry_at:
                return self._fallback_place
            self._fallback_place = self._open()
            if self._fallback_place is not Place.FILE:
                self._retry_at = now + RETRY_SECONDS
                return self._fallback_place
        if self._other_bytes + self._size + size <= self.max_bytes:
            return Place.FILE
        if now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            with suppress(OSError):
                self._other_bytes = self._used_bytes() - self._size
            if self._other_bytes + self._size + size <= self.max_bytes:
                return Place.FILE
            self._log_full()
        return Place.NOWHERE

    def _write(self, line: bytes) -> bool:
        if not self._started:
            self._started = True
            self._put_marker("start", {})
        if not self._put_buffered():
            return False
        self._write_loss_marker()
        if not self._put(line):
            return False
        self.written += 1
        if self._size >= SEGMENT_BYTES:
            self._rotate()
        return True

    def _put_marker(self, kind: str, attributes: Mapping[str, Any]) -> bool:
        if self._encode_marker is None:
            return True
        return self._put(self._encode_marker({a.MARKER: kind, a.PROCESS_ID: self.process_id, **attributes}))

    def _write_loss_marker(self) -> None:
        """Write a loss marker for the refused rows; if that fails, it is retried later."""
        if self._losses and self._put_marker("loss", self._losses.attributes()):
            self._losses = LostRows()

    def _put_buffered(self) -> bool:
        """Write the rows buffered in memory."""
        while self._buffered_lines:
            if not self._put(self._buffered_lines[0]):
                return False
            self._buffered_lines.popleft()
            self.written += 1
        return True

    def _put(self, line: bytes) -> bool:
        """One write, all of it or a new segment next time."""
        fd = self._fd
        if fd is None:
            return False
        try:
            written = os.write(fd, line)
            if written < len(line):
                written += os.write(fd, line[written:])
        except OSError as error:
            self._log_once(
                f"cannot write to the spool {self.directory}: {error.strerror}; the last {MEMORY_ROWS:,} rows are kept "
                "in memory until it can"
            )
            written = 0
        if written != len(line):
            self._close()  # a torn line is the reader's to skip
            self._fallback_place = Place.MEMORY
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return False
        self._size += len(line)
        if self._sync_ms:
            self._request_sync()
        return True

    def _open(self) -> Place:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._other_bytes = self._used_bytes()
            if self._other_bytes >= self.max_bytes:
                self._log_full()
                return Place.NOWHERE
            fd = self._create_segment()
        except OSError as error:
            self._log_once(
                f"the spool directory {self.directory} cannot be written ({error.strerror}): the last {MEMORY_ROWS:,} "
                "rows are kept in memory, and lost with the process. Set SPANLEDGER_SPOOL_DIR to a directory that "
                "this process may write"
            )
            return Place.MEMORY
        self._fd, self._size = fd, 0
        self._opened = self._checked = time.monotonic()
        return Place.FILE

    def _create_segment(self) -> int:
        """A new, locked segment. A shipper may hold its lock for a moment: then the next number is taken."""
        for retries_left in (2, 1, 0):
            path = self.directory / f"{self.process_id}-{next(self._segment_numbers):06d}{SUFFIX}"
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                with suppress(OSError):
                    path.unlink()
                if not isinstance(error, BlockingIOError) or not retries_left:
                    raise
            else:
                break
        return fd

    def _rotate(self) -> None:
        """Close the segment; if it was deleted, its lines go into the next one first."""
        if self._fd is not None and self._is_deleted(self._fd):
            self._recover()
        else:
            self._close()

    @staticmethod
    def _is_deleted(fd: int) -> bool:
        """Whether the segment has no name any more. A shipper deletes only segments that no writer holds."""
        try:
            return os.fstat(fd).st_nlink == 0
        except OSError:
            return True

    def _recover(self) -> None:
        """Write the lines of a deleted segment again, into a new one; what is shipped already is absorbed by the table."""
        deleted, self._fd = self._fd, None
        if deleted is None:
            return
        lines = b""
        with suppress(OSError):
            lines = os.pread(deleted, self._size, 0)
        with suppress(OSError):
            os.close(deleted)
        if lines:
            if self._open() is Place.FILE and self._put(lines):
                log.error(
                    "the spool %s was deleted while in use: its current segment is written again, others are lost",
                    self.directory,
                )
                return
            rows = lines.splitlines(keepends=True)
            kept = rows[-max(1, MEMORY_ROWS - len(self._buffered_lines)) :]
            self._buffered_lines.extendleft(reversed(kept))
            self.written -= min(self.written, len(kept))  # they are written again
            for _ in range(len(rows) - len(kept)):
                self.refused += 1
                self._losses.add(None, 0)
            self._fallback_place, self._retry_at = Place.MEMORY, time.monotonic() + RETRY_SECONDS

    def _log_full(self) -> None:
        self._log_once(
            f"the spool {self.directory} holds its {self.max_bytes:,} bytes: new rows are lost. Ship it with "
            "`spanledger ship`, or raise SPANLEDGER_SPOOL_MAX_BYTES"
        )

    def _used_bytes(self) -> int:
        used = 0
        for entry in os.scandir(self.directory):
            if entry.name.endswith(SUFFIX):
                with suppress(OSError):  # shipped, and deleted, meanwhile
                    if entry.is_file(follow_symlinks=False):
                        used += entry.stat(follow_symlinks=False).st_size
        return used

    def _log_once(self, message: str) -> None:
        if message not in self._logged_messages:
            self._logged_messages.add(message)
            log.error("%s", message)

    def _close(self) -> None:
        fd, self._fd = self._fd, None  # first: the number is free even where closing says that something failed
        if fd is not None:
            with suppress(OSError):
                os.close(fd)

    def close(self) -> None:
        """Write the end marker of the process, and close the segment."""
        with self._lock:
            last = next(self._sequence)
            self._sequence = itertools.count(last)
            self._retry_at = self._checked = 0.0  # the last chance: do not wait for a better moment
            if (self._started or self._buffered_lines) and last != self._end_sequence and self._place(0) is Place.FILE:
                self._end_sequence = last
                if not self._started:
                    self._started = True
                    self._put_marker("start", {})
                self._put_buffered()
                self._write_loss_marker()
                self._put_marker("end", {a.SEQUENCE: last})
            self._close()
            unwritten = len(self._buffered_lines)
            if self.refused or unwritten:
                cost = f"; {self.refused:,} of them cost ${self.refused_picousd / 1e12:.6f}" if self.refused else ""
                self._log_once(
                    f"{self.refused + unwritten:,} calls of this process are not in the spool {self.directory}{cost}"
                )

    def after_fork(self) -> None:
        """In a forked child: a process of its own, with a segment and a numbering of its own."""
        self._lock = threading.Lock()
        self._close()
        self.recorded = self.written = self.refused = self.refused_picousd = 0
        self._reset()

    # --- power loss ------------------------------------------------------------------------------------------

    def _request_sync(self) -> None:
        self._dirty.set()
        if not self._syncing:
            with suppress(RuntimeError):  # no thread can be started now: the system decides when to write
                threading.Thread(target=self._sync_loop, name="spanledger-sync", daemon=True).start()
                self._syncing = True

    def _sync_loop(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            fd = self._fd
            if fd is not None:
                with suppress(OSError):  # closed meanwhile, or a device that cannot
                    getattr(os, "fdatasync", os.fsync)(fd)  # macOS has no fdatasync
            time.sleep(self._sync_ms / 1000)


class Place(Enum):
    """Where a line can go."""

    FILE = 1
    MEMORY = 2
    NOWHERE = 3


@dataclass
class LostRows:
    """Refused rows that no loss marker has reported yet."""

    count: int = 0
    picousd: int = 0
    first: int | None = None
    last: int | None = None

    def __bool__(self) -> bool:
        return self.count > 0

    def add(self, sequence: int | None, picousd: int) -> None:
        self.count += 1
        self.picousd += picousd
        if sequence is not None:
            self.first = sequence if self.first is None else min(self.first, sequence)
            self.last = sequence if self.last is None else max(self.last, sequence)

    def attributes(self) -> dict[str, Any]:
        attributes: dict[str, Any] = {a.LOST_ROWS: self.count, a.COST_TOTAL: self.picousd}
        if self.first is not None and self.last is not None:
            attributes |= {a.LOST_FROM: self.first, a.LOST_TO: self.last}
        return attributes
