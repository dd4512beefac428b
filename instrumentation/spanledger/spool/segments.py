"""The segments of one process: files of OTLP JSON lines, opened, filled, closed and, if they are deleted, written again.

A segment is `<process id>-<number>.jsonl`, one span a line (OpenTelemetry's file-exporter format, see `otlp_json.py`).
The writer holds a lock on the segment it writes; a reader that gets the lock knows that the segment is finished.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Final

from spanledger.runtime import private_directory
from spanledger.runtime.file_locks import Lock, try_lock
from spanledger.runtime.guard import log

SUFFIX: Final = ".jsonl"
SEGMENT_BYTES: Final = 16 << 20
"""A segment is closed beyond this size, so that it can be deleted once it is shipped."""
SEGMENT_SECONDS: Final = 300.0
"""... or this long after it was opened."""
RETRY_SECONDS: Final = 5.0
CHECK_SECONDS: Final = 1.0
"""How often the writer checks that its segment still has a name."""
MEMORY_ROWS: Final = 10_000
"""Rows kept in memory while no directory can be written, or the disk does not answer."""


DESTINATION_FILE: Final = "destination"
"""Names where the rows of a directory go, without credentials."""


class Place(Enum):
    """Where a line can go."""

    FILE = 1
    MEMORY = 2
    NOWHERE = 3


class Segments:
    """The segments of one process. One caller at a time, except for `seconds_in_system_call`."""

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        process_id: str,
        log_once: Callable[[str], None],
        fallback: Path | None = None,
        destination: str = "",
    ) -> None:
        """
        Args:
            directory: where segments are; made if it is not there.
            max_bytes: how much all processes together may keep there.
            process_id: names the files.
            log_once: takes an error message, and logs it if it is a new one.
            fallback: where they are while `directory` cannot be written; a directory of this user alone.
            destination: of the rows, for people: it is written into a file beside them.
        """
        self.directory, self.max_bytes = directory, max_bytes
        """Where the last segment was opened."""
        self._directory, self._fallback, self._destination = directory, fallback, destination
        self.recovered: list[bytes] = []
        """Lines of a deleted segment that could not be written again; the caller takes them out."""
        self.retry_at = 0.0
        """Monotonic time before which no segment is opened."""
        self.fd: int | None = None
        self.opened = 0.0
        self._process_id, self._log_once = process_id, log_once
        self._numbers = itertools.count()
        self._size = 0
        self._checked = 0.0
        self._other_bytes = 0
        self._fallback_place = Place.NOWHERE
        """Where rows go while no segment can be opened."""
        self._system_call_began = 0.0

    def seconds_in_system_call(self) -> float:
        """For how long the file system has not answered; 0.0 while nothing is asked of it."""
        began = self._system_call_began
        return time.monotonic() - began if began else 0.0

    @contextmanager
    def system_call(self) -> Generator[None]:
        """Around what the file system is asked to do."""
        self._system_call_began = time.monotonic()
        try:
            yield
        finally:
            self._system_call_began = 0.0

    def place(self, size: int) -> Place:
        """Where a line of `size` bytes can go now; opens a segment if there is none."""
        now = time.monotonic()
        if self.fd is not None and now - self._checked > CHECK_SECONDS:
            self._checked = now
            if self._is_deleted(self.fd):
                self._recover()
        if self.fd is not None and now - self.opened > SEGMENT_SECONDS:
            self._rotate()
        if self.fd is None:
            if now < self.retry_at:
                return self._fallback_place
            self._fallback_place = self._open()
            if self._fallback_place is not Place.FILE:
                self.retry_at = now + RETRY_SECONDS
                return self._fallback_place
        if self._other_bytes + self._size + size <= self.max_bytes:
            return Place.FILE
        if now >= self.retry_at:
            self.retry_at = now + RETRY_SECONDS
            with suppress(OSError), self.system_call():
                self._other_bytes = self._used_bytes() - self._size
            if self._other_bytes + self._size + size <= self.max_bytes:
                return Place.FILE
            self._log_full()
        return Place.NOWHERE

    def try_now(self) -> None:
        """The last chance: the next `place` does not wait for a better moment."""
        self.retry_at = self._checked = 0.0

    def put(self, line: bytes) -> bool:
        """One write, all of it or a new segment next time; whether it is in the file."""
        fd = self.fd
        if fd is None:
            return False
        self._system_call_began = time.monotonic()  # not by `system_call`: a microsecond that every call would pay
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
        finally:
            self._system_call_began = 0.0
        if written != len(line):
            self.close()  # a torn line is the reader's to skip
            self._fallback_place = Place.MEMORY
            self.retry_at = time.monotonic() + RETRY_SECONDS
            return False
        self._size += len(line)
        return True

    def rotate_if_full(self) -> None:
        if self._size >= SEGMENT_BYTES:
            self._rotate()

    def close(self) -> None:
        fd, self.fd = self.fd, None  # first: the number is free even where closing says that something failed
        if fd is not None:
            with suppress(OSError), self.system_call():
                os.close(fd)

    def _open(self) -> Place:
        """Open a segment in the directory, else in the fallback."""
        try:
            return self._open_in(self._directory)
        except OSError as error:
            problem = f"the spool directory {self._directory} cannot be written ({error.strerror})"
        advice = "Set SPANLEDGER_SPOOL_DIR to a directory that this process may write"
        try:
            if self._fallback is not None:
                place = self._open_in(self._fallback)
                self._log_once(f"{problem}: rows go to {self._fallback}. {advice}, and that survives a restart")
                return place
        except OSError:
            self.directory = self._directory
        self._log_once(
            f"{problem}: the last {MEMORY_ROWS:,} rows are kept in memory, and lost with the process unless a "
            f"destination takes them. {advice}"
        )
        return Place.MEMORY

    def _open_in(self, directory: Path) -> Place:
        self.directory = directory
        with self.system_call():
            private_directory.make(directory)
            self._other_bytes = self._used_bytes()
            if self._other_bytes >= self.max_bytes:
                self._log_full()
                return Place.NOWHERE
            self.fd, self._size = self._create(), 0
            self._name_destination()
        self.opened = self._checked = time.monotonic()
        return Place.FILE

    def _name_destination(self) -> None:
        """Note beside the segments where their rows go."""
        path = self.directory / DESTINATION_FILE
        with suppress(OSError):
            if not self._destination:
                path.unlink()
                return
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
            try:
                content = self._destination.encode(errors="replace") + b"\n"
                os.pwrite(fd, content, 0)
                os.ftruncate(fd, len(content))
            finally:
                os.close(fd)

    def _create(self) -> int:
        """A new, locked segment. A shipper may hold its lock for a moment: then the next number is taken."""
        for retries_left in (2, 1, 0):
            path = self.directory / f"{self._process_id}-{next(self._numbers):06d}{SUFFIX}"
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            lock = try_lock(fd)
            if lock is Lock.UNSUPPORTED:
                self._log_once(
                    f"the file system of the spool {self.directory} has no locks (flock): rows are kept and shipped, "
                    "and files are removed ten minutes after their last write. Set SPANLEDGER_SPOOL_DIR to a local disk"
                )
            if lock is not Lock.BUSY or not retries_left:
                break
            os.close(fd)
            with suppress(OSError):
                path.unlink()
        return fd

    def _rotate(self) -> None:
        """Close the segment; if it was deleted, its lines go into the next one first."""
        if self.fd is not None and self._is_deleted(self.fd):
            self._recover()
        else:
            self.close()

    def _is_deleted(self, fd: int) -> bool:
        """Whether the segment has no name any more. A shipper deletes only segments that no writer holds."""
        try:
            with self.system_call():
                return os.fstat(fd).st_nlink == 0
        except OSError:
            return True

    def _recover(self) -> None:
        """Write the lines of a deleted segment again, into a new one; what is shipped already is absorbed by the table."""
        deleted, self.fd = self.fd, None
        if deleted is None:
            return
        lines = b""
        with suppress(OSError), self.system_call():
            lines = os.pread(deleted, self._size, 0)
        with suppress(OSError), self.system_call():
            os.close(deleted)
        if not lines:
            return
        if self._open() is Place.FILE and self.put(lines):
            log.error(
                "the spool %s was deleted while in use: its current segment is written again, others are lost",
                self.directory,
            )
            return
        self.recovered += lines.splitlines(keepends=True)
        self._fallback_place, self.retry_at = Place.MEMORY, time.monotonic() + RETRY_SECONDS

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
