"""Drains a spool into a sink: segment by segment, acknowledged by offset, deleted when complete.

What is shipped of a segment stands beside it in `<segment>.ack` (a byte offset, written after the insert was
committed): a crash between the two ships those rows again, which the table absorbs. A segment whose lock is free has no
writer any more; it is deleted at its end. One shipper a directory. A file that cannot be read, acknowledged or deleted
is skipped and named; the others are shipped. Nothing here follows a link.

The journals of processes are read before the segments and reported after them: what a journal counts was written before.
A journal whose lock is free is that of a process that has ended; it is reported, and removed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from spanledger.runtime import forks, settings
from spanledger.runtime.file_locks import Lock, is_abandoned, try_lock, unlock
from spanledger.runtime.private_directory import may_hold_rows, temporary_dir
from spanledger.spool import journal
from spanledger.spool.journal import JOURNAL_SUFFIX, Totals
from spanledger.spool.segments import DESTINATION_FILE, SUFFIX
from spanledger_clickhouse.database.insert import SuspectError, isolate
from spanledger_clickhouse.rows.rows import contents
from spanledger_clickhouse.ship import dead_letters
from spanledger_clickhouse.ship.sinks import Sink, SpoolLine

BATCH_ROWS: Final = 2000
BATCH_BYTES: Final = 8 << 20
MAX_ACK_BYTES: Final = 64
NOT_A_SEGMENT: Final = "not a regular file"
MAX_LINE_BYTES: Final = 64 << 20
MAX_SUSPECT_SEGMENTS: Final = 3
"""Segments in which no row passes, after which a pass ends: the destination is at fault."""
HEARTBEAT_SECONDS: Final = 60.0
"""How often a running process is reported, if it has recorded calls since."""
EMPTY_SEGMENT_SECONDS: Final = 60.0
"""A segment of this age may be empty because its writer has only just created it."""


@dataclass
class DrainStats:
    """Totals of one pass over a spool."""

    rows: int = 0
    segments: int = 0
    torn: int = 0
    """Lines that are not OTLP JSON: writes truncated by a crash or a full disk, or lines of another program."""
    dead: int = 0
    """Lines that were refused permanently; both kinds are kept as dead letters."""
    problems: dict[str, str] = field(default_factory=dict[str, str])
    """Name of a file that could not be shipped, or not completely -> why."""


class BusyError(Exception):
    """Another process is shipping this spool."""


@contextlib.contextmanager
def exclusive_shipper(directory: Path) -> Generator[None]:
    """Hold the exclusive shipping lock of the spool.

    Raises:
        BusyError: another process holds it.
    """
    fd = _open_lock(directory)
    _held_locks.add(fd)
    try:
        if try_lock(fd) is Lock.BUSY:  # without locks two may ship: the table absorbs what is shipped twice
            raise BusyError(f"another process is shipping {directory}")
        yield
    finally:
        unlock(fd)
        _held_locks.discard(fd)
        os.close(fd)


_held_locks: Final = set[int]()


def _after_fork() -> None:
    """In a child that was forked while a thread was shipping: a lock is held until every process has closed it."""
    for fd in _held_locks:
        with contextlib.suppress(OSError):
            os.close(fd)
    _held_locks.clear()


forks.in_child(_after_fork)


def _open_lock(directory: Path) -> int:
    """The lock file; where it cannot be made (a full disk), the directory itself."""
    try:
        return os.open(directory / "ship.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _segments(directory: Path, problems: dict[str, str]) -> list[tuple[Path, os.stat_result]]:
    """The segments, least recently written first; anything else of that name is a problem."""
    segments: list[tuple[Path, os.stat_result]] = []
    for name in os.listdir(directory) if directory.is_dir() else ():
        if name.endswith(SUFFIX):
            try:
                status = os.lstat(directory / name)
            except FileNotFoundError:  # shipped, and deleted, meanwhile
                continue
            if stat.S_ISREG(status.st_mode):
                segments.append((directory / name, status))
            else:
                problems[name] = NOT_A_SEGMENT
    return sorted(segments, key=lambda segment: (segment[1].st_mtime, segment[0].name))


def spool_directories(*, undecided: bool) -> list[Path]:
    """The spools whose rows go to the destination of the settings, those in the temporary directory included.

    Args:
        undecided: also the spool of applications that have no destination: whoever asks first takes its rows.
    """
    directories = [settings.spool_dir(), *([settings.undecided_spool_dir()] if undecided else [])]
    places = [place for directory in directories for place in (directory, settings.fallback_spool_dir(directory))]
    return [place for place in dict.fromkeys(places) if may_hold_rows(place)]


def other_spools(directories: Sequence[Path]) -> list[tuple[Path, str]]:
    """Default spools of this user that hold rows and are none of `directories`: (directory, destination)."""
    spools: list[tuple[Path, str]] = []
    parents = dict.fromkeys((settings.state_dir(), temporary_dir()))
    places = [settings.spool_dir(), *(path for parent in parents for path in sorted(parent.glob("spool*")))]
    for path in dict.fromkeys(places):
        with contextlib.suppress(OSError):
            if path.is_dir() and path not in directories and may_hold_rows(path) and waiting_bytes(path):
                spools.append((path, destination_of(path)))
    return spools


def destination_of(directory: Path) -> str:
    """The destination of the rows in a spool, without credentials; empty if there is none, or it is not known."""
    try:
        with open(os.open(directory / DESTINATION_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            return file.read(500).strip()
    except (OSError, ValueError):
        return ""


def waiting_bytes(directory: Path) -> int:
    """Bytes in the spool that are not shipped yet."""
    return sum(status.st_size - _acknowledged(path, status.st_size) for path, status in _segments(directory, {}))


def oldest_age_seconds(directory: Path) -> float:
    """Seconds since the last write to the oldest segment that is not fully shipped; 0.0 if all are shipped."""
    times = [
        status.st_mtime
        for path, status in _segments(directory, {})
        if status.st_size > _acknowledged(path, status.st_size)
    ]
    return max(0.0, time.time() - min(times)) if times else 0.0


def drain(directory: Path, sink: Sink, progress: Callable[[int], None] = lambda _: None) -> DrainStats:
    """Ship the current content of the spool.

    Args:
        directory: the spool.
        sink: receives the lines; its `DatabaseError` ends the pass, and the batch stays in the spool. Lines that
            it refuses permanently are isolated as dead letters. A file that cannot be shipped is a problem of the
            result, and does not stop the others.
        progress: called with the bytes shipped per batch.

    Raises:
        BusyError: another process ships this spool.
        DatabaseError: the sink cannot take rows now. After a `SuspectError` the other segments are tried first.
    """
    stats = DrainStats()
    if not directory.is_dir():
        return stats
    with exclusive_shipper(directory):
        reports = due_reports(directory)
        suspects: list[SuspectError] = []
        for path, _ in _segments(directory, stats.problems):
            try:
                _drain_segment(path, sink, progress, stats)
            except OSError as error:
                stats.problems[path.name] = error.strerror or str(error)
            except SuspectError as error:
                suspects.append(error)
                stats.problems[path.name] = str(error)
                if not stats.rows and len(suspects) >= MAX_SUSPECT_SEGMENTS:
                    break
        if suspects and not stats.rows:
            raise suspects[0]
        for report in reports:
            _send_report(report, sink, directory, stats)
    return stats


_reported: Final = dict[Path, tuple[Totals, float]]()
"""Path of a journal -> what was reported of it last, and when (monotonic)."""


def due_reports(directory: Path) -> list[journal.Report]:
    """Journals to report now: of processes that have ended, that have lost rows, or that were not reported for a minute."""
    reports: list[journal.Report] = []
    names = [name for name in os.listdir(directory) if name.endswith(JOURNAL_SUFFIX)] if directory.is_dir() else []
    for path in list(_reported):
        if path.parent == directory and path.name not in names:
            del _reported[path]
    for name in sorted(names):
        with contextlib.suppress(OSError):  # removed meanwhile, or of somebody else
            report = journal.read(directory / name)
            if report is None:
                continue
            now = time.monotonic()
            totals, reported_at = _reported.setdefault(directory / name, (Totals(), now))
            changed = report.totals[1:] != totals[1:]
            loses = report.totals.lost_rows > totals.lost_rows
            is_due = now - reported_at >= HEARTBEAT_SECONDS and not report.totals.waiting  # they may still be written
            if report.ended or (changed and (loses or is_due)):
                reports.append(report)
    return reports


def rows_in_memory(directory: Path) -> int:
    """Rows that running processes have not written yet, as far as their journals say so."""
    waiting = 0
    for path in directory.glob(f"*{JOURNAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            report = journal.read(path)
            waiting += report.totals.waiting if report is not None and not report.ended else 0
    return waiting


def _send_report(report: journal.Report, sink: Sink, directory: Path, stats: DrainStats) -> None:
    lines = [SpoolLine(line, contents(line)) for line in report.lines()]
    _send(sink, lines, directory, stats)
    if report.ended:
        _reported.pop(report.path, None)
        with contextlib.suppress(OSError):
            report.path.unlink()
    else:
        _reported[report.path] = (report.totals, time.monotonic())


def send_from_memory(lines: list[bytes], sink: Sink, directory: Path) -> DrainStats:
    """Ship lines that no segment holds; those that are refused permanently are dead letters of `directory`.

    Raises:
        DatabaseError: the sink cannot take rows now.
        OSError: a refused line can be kept nowhere.
    """
    stats = DrainStats()
    _send(sink, [SpoolLine(line, contents(line)) for line in lines], directory, stats)
    return stats


def _drain_segment(path: Path, sink: Sink, progress: Callable[[int], None], stats: DrainStats) -> None:
    # For writing, too: network file systems lock only such files for one process.
    with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as segment:
        finished = is_abandoned(segment.fileno())  # checked before reading: nothing can be appended after it
        status = os.fstat(segment.fileno())
        start = _acknowledged(path, status.st_size)
        if start and os.pread(segment.fileno(), 1, start - 1) != b"\n":
            start = 0  # not the end of a line
        segment.seek(start)
        for batch, torn, size in _batches(segment, finished):
            _send(sink, batch, path.parent, stats)
            for line in torn:
                dead_letters.add(
                    path.parent,
                    line,
                    f"{path.name}: not a line of OTLP JSON (a truncated write, or a file of another program)",
                )
            start += size
            stats.torn += len(torn)
            progress(size)
            if problem := _acknowledge(path, start):
                stats.problems[_ack_file(path).name] = problem
        empty = start == 0 and time.time() - status.st_mtime < EMPTY_SEGMENT_SECONDS
        if finished and not empty:
            path.unlink(missing_ok=True)  # where there are no locks, another process may ship the same file
            _unnoted.pop(path, None)
            stats.problems.pop(_ack_file(path).name, None)
            with contextlib.suppress(FileNotFoundError):
                _ack_file(path).unlink()
            stats.segments += 1


def _send(sink: Sink, batch: list[SpoolLine], directory: Path, stats: DrainStats) -> None:
    """Send a batch; permanently refused lines go to the dead letters."""

    def send(lines: list[SpoolLine]) -> None:
        sink.send(lines)
        stats.rows += sum(len(line.contents.rows) for line in lines)

    def refused(line: SpoolLine, why: str) -> None:
        dead_letters.add(directory, line.raw, why)
        stats.dead += 1

    expired = sink.expired()
    isolate(
        send,
        batch,
        refused,
        lambda line: bool(line.contents.rows),
        lambda line: expired.reason(line.contents.rows) if expired is not None else "",
    )


def _batches(segment: Any, finished: bool) -> Generator[tuple[list[SpoolLine], list[bytes], int]]:
    """(lines, torn lines, bytes); an incomplete last line is read only from a finished segment."""
    batch: list[SpoolLine] = []
    torn: list[bytes] = []
    size = rows = 0
    for line in iter(lambda: segment.readline(MAX_LINE_BYTES), b""):
        if len(line) == MAX_LINE_BYTES:
            raise OSError(f"a line of more than {MAX_LINE_BYTES:,} bytes")
        if not line.endswith(b"\n") and not finished:
            break
        size += len(line)
        try:
            batch.append(SpoolLine(line, contents(line)))
            rows += max(1, len(batch[-1].contents.rows))
        except (ValueError, RecursionError, OverflowError):
            torn.append(line)
        if rows >= BATCH_ROWS or size >= BATCH_BYTES:
            yield batch, torn, size
            batch, torn, size, rows = [], [], 0, 0
    if size:
        yield batch, torn, size


def _ack_file(path: Path) -> Path:
    return path.with_suffix(".ack")


def _acknowledged(path: Path, size: int) -> int:
    """How much of a segment of `size` bytes is shipped; 0 if its file does not say so credibly."""
    try:
        with open(os.open(_ack_file(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            offset = int(file.read(MAX_ACK_BYTES))
    except (OSError, ValueError):
        offset = 0
    return max(offset if 0 <= offset <= size else 0, _unnoted.get(path, 0))


_unnoted: Final = dict[Path, int]()
"""Offsets that could not be written, for as long as this process lives."""


def _acknowledge(path: Path, offset: int) -> str:
    """Note how much is shipped, in place: a file of that length needs no more room on a full disk.

    Returns "", or why it cannot be noted. Then the rows are shipped again, unless the segment is complete and deleted.
    """
    try:
        fd = os.open(_ack_file(path), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, f"{offset:020d}\n".encode(), 0)
            os.ftruncate(fd, 21)
        finally:
            os.close(fd)
    except OSError as error:
        _unnoted[path] = offset
        return error.strerror or type(error).__name__
    _unnoted.pop(path, None)
    return ""
