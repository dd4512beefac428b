"""The spool: rows on disk before `span.end()` returns, in a format that a stock Collector reads too.

A row is one `os.write` to a segment (`segments.py`): it survives the death of the process, though not of the machine.
The write is made by a thread of the spool while the caller waits for it, at most a few milliseconds beyond what an
ordinary disk takes: a disk that hangs holds up that thread, and no caller. `journal.py` keeps count beside the segments;
`shipper.py` reads both.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from spanledger.runtime import notices
from spanledger.runtime.forks import threads_allowed
from spanledger.runtime.reentrant_queue import ReentrantQueue
from spanledger.semconv import attributes as a
from spanledger.spool.device_sync import DeviceSync
from spanledger.spool.journal import Journal, Report, Totals
from spanledger.spool.segments import CHECK_SECONDS, MEMORY_ROWS, RETRY_SECONDS, SUFFIX, Place, Segments

__all__ = ["SUFFIX", "LostRows", "Spool"]

MAX_WAIT_SECONDS: Final = 0.25
"""How long a caller waits for the spool's thread to be scheduled, in a process that is busy."""
GIL_WAIT_SECONDS: Final = 0.002
"""A caller that wakes up this much too late competes for the interpreter: so does the spool's thread, not for the disk."""
CLOSE_SECONDS: Final = 2.0
"""How long the end of the process waits for a disk that does not answer."""
GREENLET_MODULES: Final = ("gevent.monkey", "eventlet.patcher")
"""Modules that make greenlets of threads: there the caller writes by itself."""

MarkerEncoder = Callable[[Mapping[str, Any]], bytes]


@dataclass(slots=True, eq=False)
class _Row:
    """A line on its way to the disk."""

    line: bytes
    sequence: int | None = None
    picousd: int = 0
    written: threading.Lock | None = None
    """Released when the row is in a segment, or is known to have no place there now."""
    born: float = 0.0
    """Monotonic time at which it was kept in memory; 0.0: it was not."""
    is_counted: bool = False
    is_lost: bool = False
    is_shipped: bool = False
    """It went to the destination without a segment."""
    is_end: bool = False
    """Not a row: the process ends."""


@dataclass
class LostRows:
    """Refused rows that no loss marker has reported yet."""

    count: int = 0
    picousd: int = 0
    numbered_picousd: int = 0
    """Of it, the rows with a number."""
    first: int | None = None
    last: int | None = None

    def __bool__(self) -> bool:
        return self.count > 0

    def add(self, sequence: int | None, picousd: int) -> None:
        self.count += 1
        self.picousd += picousd
        if sequence is not None:
            self.numbered_picousd += picousd
            self._widen(sequence, sequence)

    def include(self, other: LostRows) -> None:
        self.count += other.count
        self.picousd += other.picousd
        self.numbered_picousd += other.numbered_picousd
        if other.first is not None and other.last is not None:
            self._widen(other.first, other.last)

    def _widen(self, first: int, last: int) -> None:
        self.first = first if self.first is None else min(self.first, first)
        self.last = last if self.last is None else max(self.last, last)


@dataclass
class _Process:
    """What belongs to one process, and not to a child that it forks."""

    segments: Segments
    identity: str
    """Random for every process, so that its sequence numbers are its own."""
    process_number: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever writes; the application's threads wait for it only where the spool has no thread."""
    owner: int = 0
    """Identifier of the thread that holds it: a signal handler or a finalizer in that thread must not wait for it."""
    rows: deque[_Row] = field(default_factory=deque[_Row])
    """Rows that are not in a segment yet, in order."""
    overflow: LostRows = field(default_factory=LostRows)
    """Rows that found `rows` full."""
    overflow_lock: threading.Lock = field(default_factory=threading.Lock)
    requests: ReentrantQueue[_Row] = field(default_factory=ReentrantQueue[_Row])
    """Rows that the thread is to write; their callers wait."""
    losses: LostRows = field(default_factory=LostRows)
    sequence: itertools.count[int] = field(default_factory=itertools.count)
    journal: Journal | None = None
    journal_retry_at: float = 0.0
    journal_checked: float = 0.0
    heartbeat: bytes = b""
    """The marker that carries the totals, without them: of one moment, so that the newer replaces the older."""
    next_sequence: int = 0
    picousd: int = 0
    noted: Totals = field(default_factory=Totals)
    noted_at: float = 0.0
    started: bool = False
    end_sequence: int = -1


class Spool:
    """The writer of one process. `append` never raises.

    A full spool refuses the newest rows: they are counted, with their cost, and a loss marker says so as soon
    as there is room again. A directory that cannot be written, and a disk that does not answer, are made up for by
    memory, as far as `MEMORY_ROWS` goes. A segment that was deleted under its writer is written again, within a second.
    Markers record where a process's numbers begin and end.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        mark: MarkerEncoder | None = None,
        sync_ms: int = 0,
        deadline_ms: int = 0,
        fallback: Path | None = None,
        destination: str = "",
        service: Callable[[], str] = str,
    ) -> None:
        """
        Args:
            directory: where segments are; made if it is not there.
            max_bytes: how much all processes together may keep there.
            mark: makes a marker's line of its attributes; without one neither markers nor a journal are written.
            sync_ms: every so many milliseconds what was written is forced onto the device; 0: the system decides.
            deadline_ms: how long a caller waits for the disk; 0: the caller writes by itself, however long that takes.
            fallback: where segments are while `directory` cannot be written.
            destination: of the rows, for people.
            service: its name, for notices.
        """
        self._service = service
        self.directory = directory
        self._fallback, self._destination = fallback, destination
        self.max_bytes = max_bytes
        self.refused = 0
        """Rows that were rejected, because the spool was full or the directory was not writable."""
        self.refused_picousd = 0
        self.written = 0
        """Rows that are in a segment, or went to the destination from memory."""
        self._encode_marker = mark
        self._deadline = deadline_ms / 1000
        self._logged_messages: set[str] = set()
        self._sync = DeviceSync(sync_ms, lambda: self._process.segments.fd)
        self._process = self._new_process()
        self._by_number: dict[int, _Process] = {os.getpid(): self._process}

    def _new_process(self) -> _Process:
        identity = secrets.token_hex(8)
        segments = Segments(self.directory, self.max_bytes, identity, self._log_once, self._fallback, self._destination)
        return _Process(segments, identity)

    @property
    def directories(self) -> list[Path]:
        """Where rows of this process may be."""
        return [self.directory, *([self._fallback] if self._fallback is not None else [])]

    def is_written(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the disk; returns whether no row is in memory only."""
        process, until = self._current(), time.monotonic() + timeout
        if process.rows and self._deadline > 0 and self._start_thread(process):
            attempt = _Row(b"", written=threading.Lock())  # no row: the thread looks after those that wait
            if attempt.written is not None and attempt.written.acquire():
                process.requests.put(attempt)
                attempt.written.acquire(timeout=max(0.0, until - time.monotonic()))
        elif process.rows:
            self._write_here(process)
        return not process.rows

    @property
    def process_id(self) -> str:
        """Random for every process."""
        return self._current().identity

    @property
    def waiting(self) -> int:
        """Rows in memory."""
        return len(self._process.rows)

    @property
    def recorded(self) -> int:
        """Rows that were handed in."""
        return self.written + self.refused + len(self._process.rows) + self._process.overflow.count

    def next_sequence(self) -> int:
        """The number of the next row of this process: 0, 1, 2, ... A missing number is a lost row."""
        return next(self._current().sequence)

    def _current(self) -> _Process:
        """What belongs to this process; a child that was forked without fork hooks (uWSGI) gets it here."""
        if self._process.process_number != os.getpid():
            self.after_fork()
        return self._process

    def append(self, line: bytes, sequence: int | None = None, picousd: int = 0) -> bool:
        """Write one line (ending in a newline). True when it is in the file, or kept until it can be.

        `sequence` and `picousd` say what is lost where it is neither.
        """
        process = self._current()
        row = _Row(line, sequence, picousd)
        if len(process.rows) >= MEMORY_ROWS:
            with process.overflow_lock:
                process.overflow.add(sequence, picousd)
            row.is_lost = True
        threaded = self._deadline > 0 and process.owner != threading.get_ident() and self._start_thread(process)
        if threaded and not row.is_lost:
            row.written = threading.Lock()
            row.written.acquire()
        if not row.is_lost:
            process.rows.append(row)
        if not threaded:
            self._write_here(process)
        elif not row.is_lost or len(process.requests) < MEMORY_ROWS:
            self._wait_for_thread(process, row)
        return not row.is_lost

    def _write_here(self, process: _Process) -> None:
        """Write in this thread what waits, unless it is writing: then it does so when it continues."""
        with _writing(process, MAX_WAIT_SECONDS if self._deadline else None) as is_ours:
            if is_ours:
                self._write_rows(process)

    # --- the thread ----------------------------------------------------------------------------------------------

    def _start_thread(self, process: _Process) -> bool:
        """Whether there is a thread that writes; started with the first row."""
        if sys.is_finalizing() or any(name in sys.modules for name in GREENLET_MODULES) or not threads_allowed():
            return False
        try:
            process.requests.start(lambda: self._run(process), "spanledger-spool")
        except RuntimeError:  # there can be no further thread
            return False
        return True

    def _wait_for_thread(self, process: _Process, row: _Row) -> None:
        """Wait until the row is in a segment, or until the disk has not answered for as long as the deadline says."""
        written = row.written
        process.requests.put(row)
        began = time.monotonic()
        while written is not None and not self._hangs(process, began):
            waits_since = time.monotonic()
            if written.acquire(timeout=self._deadline):
                break
            late = time.monotonic() - waits_since - self._deadline
            if process.segments.seconds_in_system_call() >= self._deadline and late < GIL_WAIT_SECONDS:
                break

    def _hangs(self, process: _Process, began: float) -> bool:
        """Whether there is no use in waiting: the disk has not answered, or nobody has, for long."""
        return (
            process.segments.seconds_in_system_call() > MAX_WAIT_SECONDS or time.monotonic() - began > MAX_WAIT_SECONDS
        )

    def _run(self, process: _Process) -> None:
        while self._process is process:
            row = process.requests.get()
            try:
                with _writing(process):
                    if row.is_end:
                        self._end(process)
                    else:
                        if not row.line:
                            process.segments.try_now()
                        self._write_rows(process)
            except Exception as error:  # noqa: BLE001 - the thread continues whatever a logger or a disk does
                self._log_once(f"the spool's thread met {type(error).__name__}: {error}")
            _settle(row)

    # --- writing: with the lock ----------------------------------------------------------------------------------

    def _write_rows(self, process: _Process) -> None:
        """Write the rows that wait, as far as there is a place for them. Does not raise."""
        try:
            while process.rows:
                if not self._write_first(process):
                    break
            if process.overflow:
                self._lose_overflow(process)
            self._note(process)
        except Exception as error:  # noqa: BLE001 - the thread continues; the rows stay where they are
            self._log_once(f"writing to the spool failed with {type(error).__name__}: {error}")

    def _write_first(self, process: _Process) -> bool:
        """Write the first row; False if it, and all behind it, have to wait."""
        row = process.rows[0]
        if row.is_shipped:
            process.rows.popleft()
            self._count(process, row)
            self.written += 1
            return True
        place = process.segments.place(len(row.line))
        self._take_recovered(process)
        if process.rows[0] is not row:
            return True  # lines of a deleted segment come first
        if place is Place.FILE and not self._write(process, row):
            place = Place.MEMORY
        if place is Place.FILE:
            process.rows.popleft()
            self._count(process, row)
            self.written += 1
            process.segments.rotate_if_full()
            _settle(row)
            return True
        if place is Place.NOWHERE:
            while process.rows and not process.rows[-1].born:  # those in memory may stay there
                self._lose(process, process.rows.pop())
            return False
        now = time.monotonic()
        for index in range(len(process.rows) - 1, -1, -1):  # others append meanwhile
            if process.rows[index].born:
                break
            process.rows[index].born = now
            self._count(process, process.rows[index])
        return False

    def _write(self, process: _Process, row: _Row) -> bool:
        if not process.started:
            process.started = True
            self._put_marker(process, "start", {})
        self._put_loss_marker(process)
        if not process.segments.put(row.line):
            return False
        self._sync.request()
        return True

    def _put_marker(self, process: _Process, kind: str, attributes: Mapping[str, Any]) -> bool:
        return self._encode_marker is None or process.segments.put(self._marker(process, kind, attributes))

    def _put_loss_marker(self, process: _Process) -> None:
        """Report the refused rows; if that fails, it is tried again later."""
        if process.losses and self._put_marker(process, "loss", self._totals(process).loss_attributes()):
            process.losses = LostRows()

    def _marker(self, process: _Process, kind: str, attributes: Mapping[str, Any]) -> bytes:
        if self._encode_marker is None:
            return b""
        return self._encode_marker({a.MARKER: kind, a.PROCESS_ID: process.identity, **attributes})

    def _count(self, process: _Process, row: _Row) -> None:
        """Add a row to the totals, once: when it leaves the queue, or when it is known to wait in it."""
        if row.sequence is not None and not row.is_counted:
            row.is_counted = True
            process.next_sequence = max(process.next_sequence, row.sequence + 1)
            process.picousd += row.picousd

    def _lose(self, process: _Process, row: _Row) -> None:
        row.is_lost = True
        self.refused += 1
        self.refused_picousd += row.picousd
        process.losses.add(row.sequence, row.picousd)
        self._count(process, row)

    def _lose_overflow(self, process: _Process) -> None:
        with process.overflow_lock:
            lost, process.overflow = process.overflow, LostRows()
        self.refused += lost.count
        self.refused_picousd += lost.picousd
        process.losses.include(lost)
        process.picousd += lost.numbered_picousd
        if lost.last is not None:
            process.next_sequence = max(process.next_sequence, lost.last + 1)

    def _take_recovered(self, process: _Process) -> None:
        """Lines of a deleted segment that found no new one wait before all others."""
        lines, process.segments.recovered = process.segments.recovered, []
        if not lines:
            return
        kept = lines[-max(1, MEMORY_ROWS - len(process.rows)) :]
        now = time.monotonic()
        process.rows.extendleft(_Row(line, born=now) for line in reversed(kept))
        self.written -= min(self.written, len(lines))  # they are written again
        for _ in range(len(lines) - len(kept)):
            self.refused += 1
            process.losses.add(None, 0)

    # --- the journal ---------------------------------------------------------------------------------------------

    def _totals(self, process: _Process) -> Totals:
        losses = process.losses
        first, last = (1, 0) if losses.first is None or losses.last is None else (losses.first, losses.last)
        return Totals(
            next_sequence=process.next_sequence,
            picousd=process.picousd,
            lost_rows=losses.count,
            lost_picousd=losses.picousd,
            lost_from=first,
            lost_to=last,
            waiting=len(process.rows),
        )

    def _note(self, process: _Process, *, now_or_never: bool = False) -> None:
        """Bring the journal up to date: at once if rows are lost or wait, else once a second."""
        now = time.monotonic()
        is_due = now_or_never or process.losses or process.rows or now - process.noted_at > CHECK_SECONDS
        if self._encode_marker is None or not is_due:
            return
        totals = self._totals(process)
        process.noted_at = now
        try:
            with process.segments.system_call():
                self._write_notices(process)
                if process.journal is not None and now - process.journal_checked > CHECK_SECONDS:
                    process.journal_checked = now
                    if process.journal.is_deleted():
                        self._drop_journal(process)
                if totals == process.noted:
                    return
                if process.journal is None and (now_or_never or now >= process.journal_retry_at):
                    process.journal_retry_at = now + RETRY_SECONDS
                    process.journal = Journal(process.segments.directory, process.identity, self._heartbeat(process))
                if process.journal is not None:
                    process.journal.note(totals)
                    process.noted = totals
        except OSError:
            self._drop_journal(process)
            process.journal_retry_at = now + RETRY_SECONDS

    def _drop_journal(self, process: _Process) -> None:
        """Give up the descriptor; the next note opens the file again, or makes it."""
        journal, process.journal, process.noted = process.journal, None, Totals()
        process.journal_retry_at = 0.0
        if journal is not None:
            journal.close()

    def _write_notices(self, process: _Process) -> None:
        with contextlib.suppress(OSError):
            notices.write(process.segments.directory, self._service())

    def _heartbeat(self, process: _Process) -> bytes:
        process.heartbeat = process.heartbeat or self._marker(process, "heartbeat", {})
        return process.heartbeat

    # --- for the shipper -----------------------------------------------------------------------------------------

    def stranded_rows(self, seconds: float) -> list[_Row]:
        """Rows that have been in memory for that long."""
        before = time.monotonic() - seconds
        with contextlib.suppress(RuntimeError):  # another thread changed it meanwhile: next time
            return [row for row in self._process.rows if row.line and 0 < row.born <= before and not row.is_shipped]
        return []

    def forget_shipped(self) -> None:
        """Give up the memory of rows that were marked as shipped; later, if the disk does not answer now."""
        process = self._process
        with _writing(process, 1.0) as is_ours:
            if is_ours:
                while process.rows and process.rows[0].is_shipped:
                    self._write_first(process)
                self._note(process)

    def heartbeat(self) -> list[bytes]:
        """The OTLP JSON line of totals that no journal holds; empty if the journal does."""
        process = self._process
        totals = self._totals(process)
        if self._encode_marker is None or process.journal is not None or totals == Totals():
            return []
        return Report(self.directory, totals, False, json.loads(self._heartbeat(process))).lines()

    # --- the end -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write the end marker of the process, and close the segment; a disk that hangs gets two seconds."""
        process = self._process
        if process.process_number != os.getpid():
            return  # a forked child that has recorded nothing
        if self._deadline > 0 and self._start_thread(process):
            is_done = threading.Lock()
            is_done.acquire()
            process.requests.put(_Row(b"", is_end=True, written=is_done))
            ended = is_done.acquire(timeout=CLOSE_SECONDS)
        else:
            with _writing(process, CLOSE_SECONDS) as ended:
                if ended:
                    self._end(process)
        self._log_unwritten(process, "" if ended else "the disk does not answer")

    def _end(self, process: _Process) -> None:
        """With the lock: write what can be written, the end marker last."""
        last = next(copy(process.sequence))
        process.segments.try_now()
        self._write_rows(process)
        has_end = last == process.end_sequence
        if (process.started or process.rows) and not has_end:
            has_end = self._write_end(process, last)
        process.segments.close()
        self._write_notices(process)
        if has_end and not process.rows and not process.losses:
            if process.journal is not None:
                process.journal.remove()
            process.journal, process.noted = None, Totals()
        else:
            self._note(process, now_or_never=True)
            self._drop_journal(process)  # the shipper reports it

    def _write_end(self, process: _Process, last: int) -> bool:
        place = process.segments.place(0)
        self._take_recovered(process)
        if process.rows or place is not Place.FILE:
            return False
        self._put_loss_marker(process)
        if not self._put_marker(process, "end", {a.SEQUENCE: last, a.RECORDED_COST: process.picousd}):
            return False
        process.end_sequence = last
        return True

    def _log_unwritten(self, process: _Process, reason: str) -> None:
        unwritten = len(process.rows) + process.overflow.count
        if self.refused or unwritten:
            cost = f"; {self.refused:,} of them cost ${self.refused_picousd / 1e12:.6f}" if self.refused else ""
            self._log_once(
                f"{self.refused + unwritten:,} calls of this process are not in the spool {self.directory}{cost}"
                + (f" ({reason})" if reason else "")
            )

    def after_fork(self) -> None:
        """In a forked child: a process of its own, with a segment and a numbering of its own. Several threads may find
        at the same time that there is none yet: the first one's is that of all."""
        parent, number = self._process, os.getpid()
        if parent.process_number == number:
            return
        mine = self._new_process()
        self._process = self._by_number.setdefault(number, mine)
        if self._process is mine:
            self.written = self.refused = self.refused_picousd = 0
            self._sync.after_fork()
            parent.segments.close()
            if parent.journal is not None:
                parent.journal.close()

    def _log_once(self, message: str) -> None:
        if message not in self._logged_messages:
            self._logged_messages.add(message)
            notices.add(message, logging.ERROR)


@contextlib.contextmanager
def _writing(process: _Process, timeout: float | None = None) -> Generator[bool]:
    """Hold the lock; False if it cannot be had within `timeout` seconds, or if this thread holds it: a signal handler or a
    finalizer then leaves its row to whom it has interrupted."""
    me = threading.get_ident()
    if process.owner == me or not process.lock.acquire(timeout=-1 if timeout is None else timeout):
        yield False
        return
    process.owner = me
    try:
        yield True
    finally:
        process.owner = 0
        process.lock.release()


def _settle(row: _Row) -> None:
    """Let the caller continue."""
    lock, row.written = row.written, None
    if lock is not None:
        with contextlib.suppress(RuntimeError):
            lock.release()
