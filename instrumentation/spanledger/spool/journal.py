"""The journal of a process: how many calls it has recorded and what they cost, in a small file beside its segments.

The rows themselves may be lost: the disk is full, the directory was deleted, the process was killed while rows waited in
memory. The journal takes no room that it does not have already (it is written over in place), so that the shipper can
still report to the ledger how many rows there were, and what they cost: what is missing is then a gap with an amount.

A journal is `<process id>.journal`, three lines of text: the totals twice, written in turn so that one of them is always
whole (each ends with its CRC-32), and an OTLP JSON line of the marker that carries them. Its writer holds a lock on it.
"""

from __future__ import annotations

import errno
import json
import os
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from spanledger.runtime.file_locks import Lock, is_abandoned, try_lock
from spanledger.semconv import attributes as a

JOURNAL_SUFFIX: Final = ".journal"
MAX_JOURNAL_BYTES: Final = 64 << 10
FORMAT: Final = "%020d %020d %024d %020d %024d %020d %020d %020d"
LOCK_ATTEMPTS: Final = 20
LINE_BYTES: Final = len(FORMAT % ((0,) * 8)) + len(" 00000000\n")


class Totals(NamedTuple):
    """What a process has recorded so far."""

    revision: int = 0
    """How often the totals were noted before: the greater one is the newer."""
    next_sequence: int = 0
    """One more than the greatest number of a row; rows are numbered 0, 1, 2, ..."""
    picousd: int = 0
    """Cost of all numbered rows, lost ones included."""
    lost_rows: int = 0
    """Rows that found no place, and that no marker in a segment reports."""
    lost_picousd: int = 0
    lost_from: int = 0
    lost_to: int = 0
    """Range of their numbers, both inclusive."""
    waiting: int = 0
    """Rows in memory, which are lost if the process ends now."""

    def attributes(self) -> dict[str, int]:
        """Attributes of the heartbeat marker."""
        return {a.SEQUENCE: self.next_sequence, a.RECORDED_COST: self.picousd}

    def loss_attributes(self) -> dict[str, int]:
        """Attributes of a loss marker; empty if no row found no place."""
        if not self.lost_rows:
            return {}
        bounds = {a.LOST_FROM: self.lost_from, a.LOST_TO: self.lost_to} if self.lost_to >= self.lost_from else {}
        return {a.LOST_ROWS: self.lost_rows, a.COST_TOTAL: self.lost_picousd, **bounds}


class Journal:
    """The journal of this process. Raises OSError where the disk refuses."""

    def __init__(self, directory: Path, process_id: str, heartbeat: bytes) -> None:
        """
        Args:
            directory: the spool; it exists.
            process_id: names the file.
            heartbeat: the OTLP JSON line of a marker without totals, ending in a newline.
        """
        self.path = directory / f"{process_id}{JOURNAL_SUFFIX}"
        self._revision = 0
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._lock()
            empty = _line(Totals())
            self._write(empty + empty + heartbeat, 0)
        except OSError:
            self.close()
            raise

    def _lock(self) -> None:
        """A reader may have the lock for a moment. On a file system without locks a process that records nothing for long
        seems to have ended to a reader, which removes the file: it is made again."""
        for _ in range(LOCK_ATTEMPTS):
            if try_lock(self._fd) is not Lock.BUSY:
                return
            time.sleep(0.001)

    def _write(self, content: bytes, offset: int) -> None:
        if os.pwrite(self._fd, content, offset) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def note(self, totals: Totals) -> None:
        """Write the totals over the older of the two."""
        self._revision += 1
        self._write(_line(totals._replace(revision=self._revision)), self._revision % 2 * LINE_BYTES)

    def is_deleted(self) -> bool:
        return os.fstat(self._fd).st_nlink == 0

    def close(self) -> None:
        """Leave the file to the shipper, which reports what it says and removes it."""
        with suppress(OSError):
            os.close(self._fd)

    def remove(self) -> None:
        """All of it is in the segments: there is nothing to report."""
        with suppress(OSError):
            self.path.unlink()
        self.close()


class Report(NamedTuple):
    """What the journal of a process says."""

    path: Path
    totals: Totals
    ended: bool
    """Whether no process holds the file any more."""
    heartbeat: dict[str, Any]
    """The marker without its totals, as OTLP JSON."""

    def lines(self) -> list[bytes]:
        """OTLP JSON lines for the ledger: the heartbeat and, of a process that has ended, its losses."""
        found = [self._marker("heartbeat", self.totals.attributes())]
        if self.ended and (lost := self.totals.loss_attributes()):
            found.append(self._marker("loss", lost))
        return found

    def _marker(self, kind: str, attributes: dict[str, int]) -> bytes:
        document = json.loads(json.dumps(self.heartbeat))
        span = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        kept = [item for item in span["attributes"] if item["key"] != a.MARKER]
        span["attributes"] = [
            {"key": a.MARKER, "value": {"stringValue": kind}},
            *kept,
            *({"key": key, "value": {"intValue": str(value)}} for key, value in attributes.items()),
        ]
        return json.dumps(document).encode() + b"\n"


def read(path: Path) -> Report | None:
    """What a journal says; None if it is none, or says nothing that can be read.

    Raises:
        OSError: the file cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        ended = is_abandoned(fd, shared=True)
        content = os.pread(fd, MAX_JOURNAL_BYTES, 0)
    finally:
        os.close(fd)
    found = [
        totals
        for slot in (0, 1)
        if (totals := _totals(content[slot * LINE_BYTES : (slot + 1) * LINE_BYTES])) is not None
    ]
    try:
        heartbeat: Any = json.loads(content[2 * LINE_BYTES :])
        report = Report(path, max(found), ended, heartbeat)
        report.lines()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return report


def _line(totals: Totals) -> bytes:
    text = (FORMAT % totals).encode()
    return b"%b %08x\n" % (text, zlib.crc32(text))


def _totals(line: bytes) -> Totals | None:
    text, _, checksum = line.rstrip(b"\n").rpartition(b" ")
    try:
        return Totals(*map(int, text.split())) if int(checksum, 16) == zlib.crc32(text) else None
    except (ValueError, TypeError):
        return None
