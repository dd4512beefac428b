"""Reads the result files of batches: each of their lines was billed, and there may be a million.

The caller's thread only keeps the bytes, and hands on what is more than memory should hold: a thread of this module puts that
into a file without a name, which only this process can read and which is gone with it. Once the download is over it reads
the lines, in short slices with pauses, so that no other thread waits long for the interpreter. Hundreds of lines are one row of the spool,
as the counts of each (`semconv/result_lines.py`); whoever turns spans into rows expands it. No text of a line is kept.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import IO, Final

from spanledger.capture.call import Call
from spanledger.runtime import finalizers, forks, notices
from spanledger.runtime.guard import quietly
from spanledger.runtime.reentrant_queue import ReentrantQueue
from spanledger.runtime.untrusted_json import mapping, parse_json

LINES_PER_ROW: Final = 500
INLINE_BYTES: Final = 64 << 10
"""A file up to this size is read at once, where it was downloaded: a hundred lines take three milliseconds."""
MEMORY_BYTES: Final = 32 << 20
"""What of a larger file stays in memory, as the very objects that its reader got: nothing is done during the download."""
HANDED_BYTES: Final = 16 << 20
"""Bytes that are handed on together, beyond that: each time costs the reader a turn of the interpreter."""
MAX_VECTOR: Final = 512
"""Pieces in one system call."""
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
MAX_FIRST_LINE: Final = 8 << 20
MAX_UNREADABLE: Final = 100
"""Lines at the beginning that are no JSON object, after which a file is taken for something else."""
MAX_LINE: Final = 64 << 20
MAX_WAITING_BYTES: Final = 512 << 20
"""Bytes that wait for the thread; a download that is further ahead of the disk is given up, with a notice."""
SLICE_SECONDS: Final = 0.002
PAUSE_SECONDS: Final = 0.003
"""After a slice of reading lines, which is shorter than the interpreter's own switch interval."""
READ_BYTES: Final = 256 << 10
EXIT_SECONDS: Final = 60.0
"""How long the end of a program waits for files that were downloaded; then without pauses."""


class ResultFile:
    """One download. `feed` and `end` are for the caller's thread; the rest is for the reading thread."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._head: list[bytes] = []
        self._head_size = 0
        self._is_results: bool | None = None
        """None: its first line has not come yet."""
        self._chunks: list[bytes] = []
        self._size = 0
        self._total = 0
        self._kept: list[bytes] = []
        """The end of it, which is still in memory."""
        self._first: list[bytes] = []
        """The beginning, where no file could be opened."""
        self._file: IO[bytes] | None = None
        self._is_given_up = False
        self._is_over = False
        self._process = os.getpid()

    def feed(self, chunk: bytes) -> None:
        """Some more bytes."""
        if self._process != os.getpid():
            return  # a child that was forked meanwhile: the file is the parent's
        if self._is_results is None:
            self._head.append(chunk)
            self._head_size += len(chunk)
            if b"\n" in chunk:
                self._decide(is_over=False)
            if self._is_results is None:
                if self._head_size > MAX_FIRST_LINE:
                    self._is_results, self._head = False, []
                return
            chunk, self._head = b"".join(self._head), []
        if not self._is_results:
            return
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._total += len(chunk)
        if self._size >= HANDED_BYTES and self._total > MEMORY_BYTES:
            self._hand_on()

    def _decide(self, *, is_over: bool) -> None:
        """Decide by the first line that is an object, if it has come, what this file is."""
        head = b"".join(self._head)
        self._head = [head]
        *lines, tail = head.removeprefix(BYTE_ORDER_MARK).split(b"\n", MAX_UNREADABLE)
        for line in [*lines, tail] if is_over else lines:
            first = mapping(parse_json(line)) if line.strip() else {}
            if first:
                self._is_results = self._call.begin_lines(first)
                return
        if is_over or len(lines) >= MAX_UNREADABLE:
            self._is_results = False

    def end(self, *, complete: bool) -> None:
        """The download is over; `complete`: all of it was read."""
        if self._is_over or self._process != os.getpid():
            return
        self._is_over = True
        if self._is_results is None and self._head:
            self._decide(is_over=True)
            self._chunks, self._size, self._total = self._head, self._head_size, self._head_size
        if self._is_given_up:
            self._chunks = []
        if not self._is_results:
            return
        if self._total <= INLINE_BYTES or not _start_reader():
            self._kept += self._chunks
            self.read(pauses=False, complete=complete)
        else:
            self._kept, self._chunks = self._chunks, []
            _put(self, None, complete=complete)

    def _hand_on(self) -> None:
        if not _start_reader():
            return  # it stays in memory, and is read at the end
        if self._is_given_up:
            self._chunks, self._size = [], 0
            return
        if _waiting.size > MAX_WAITING_BYTES:
            self._is_given_up = True
            notices.add(
                "a file of batch results came faster than the disk could take it: its calls are not recorded. Download it again"
            )
            return
        _put(self, self._chunks, complete=False)
        self._chunks, self._size = [], 0

    # --- the reading thread ----------------------------------------------------------------------------------

    def keep(self, chunks: list[bytes]) -> None:
        """Keep bytes until the download is over."""
        if self._is_given_up:
            return
        try:
            self._file = self._file or tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open for long
            _write(self._file, chunks)
        except OSError as error:
            self._is_given_up = True
            if self._file is None:
                self._first = chunks  # they are in memory anyway
            notices.add(
                "a file of batch results could not be kept while it was read: only its first lines are recorded "
                f"({error.strerror}). Download it again, with space in $TMPDIR"
            )

    def read(self, *, pauses: bool, complete: bool) -> None:
        """Read all lines, and record them."""
        complete = complete and not self._is_given_up
        entries: list[str] = []
        for line in _paused(self._lines()) if pauses else self._lines():
            if line:
                entries.extend(self._call.line_entries(parse_json(line)))
            if len(entries) >= LINES_PER_ROW:
                self._call.record_lines(entries)
                entries = []
        if entries:
            self._call.record_lines(entries)
        self._close(complete=complete)

    def _close(self, *, complete: bool) -> None:
        self._call.finish_lines(complete=complete)
        if self._file is not None:
            self._file.close()

    def _lines(self) -> Iterator[bytes]:
        if self._file is not None:
            self._file.seek(0)
        pieces: list[bytes] = []
        size = 0
        for block in self._blocks():
            first, *lines = block.split(b"\n")
            pieces.append(first)
            size += len(first)
            if lines:
                yield b"".join(pieces)
                yield from lines[:-1]
                pieces, size = [lines[-1]], len(lines[-1])
            elif size > MAX_LINE:
                pieces, size = [], 0
        yield b"".join(pieces)

    def _blocks(self) -> Iterator[bytes]:
        while self._file is not None and (block := self._file.read(READ_BYTES)):
            yield block
        rest = self._first if self._is_given_up else self._kept
        while rest:
            chunk = rest.pop(0)
            for start in range(0, len(chunk), READ_BYTES):
                yield chunk[start : start + READ_BYTES]


def _paused(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The lines, with pauses for the rest of the program; whoever has just downloaded the file goes first."""
    until = 0.0
    for line in lines:
        if time.perf_counter() >= until and not _hurry.is_set():
            time.sleep(PAUSE_SECONDS)
            until = time.perf_counter() + SLICE_SECONDS
        yield line


class _Hurry(threading.Event):
    """The program ends: no more pauses."""

    is_awaited = False
    """Whether the end of this process waits for what was downloaded, should it be another's worker."""


class _Waiting:
    """What is on its way to the reading thread, or being done by it."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes."""
        self.tasks = 0
        self._lock = threading.Lock()

    def add(self, size: int, tasks: int) -> None:
        with self._lock:
            self.size += size
            self.tasks += tasks


def _write(file: IO[bytes], chunks: list[bytes]) -> None:
    """Append; the system calls run beside the rest of the program."""
    for start in range(0, len(chunks), MAX_VECTOR):
        part = chunks[start : start + MAX_VECTOR]
        written = os.writev(file.fileno(), part)
        if written < sum(map(len, part)):  # a signal, or a full disk: then the next call says so
            rest = memoryview(b"".join(part))[written:]
            while rest:
                rest = rest[os.write(file.fileno(), rest) :]


Work = tuple[ResultFile, "list[bytes] | None", bool]
"""A file, more of its bytes (None: that was all), and whether it is complete."""

_reader = ReentrantQueue[Work]()
_waiting = _Waiting()
_hurry = _Hurry()


def _start_reader() -> bool:
    """Whether there is a thread that reads."""
    reader = _reader
    if not forks.threads_allowed() or not finalizers.is_main_hub():
        return False
    try:
        reader.start(lambda: _run(reader), "spanledger-results")
    except RuntimeError:
        return False
    if not _hurry.is_awaited:
        _hurry.is_awaited = True
        forks.at_worker_exit(finish)
    return True


def _put(file: ResultFile, chunks: list[bytes] | None, *, complete: bool) -> None:
    _waiting.add(sum(map(len, chunks or ())), 1)
    _reader.put((file, chunks, complete))


def _run(reader: ReentrantQueue[Work]) -> None:
    while reader is _reader:
        _work(*reader.get())


def _work(file: ResultFile, chunks: list[bytes] | None, complete: bool) -> None:
    try:
        with quietly("reading a file of results"):
            if chunks is None:
                file.read(pauses=True, complete=complete)
            else:
                file.keep(chunks)
    finally:
        _waiting.add(-sum(map(len, chunks or ())), -1)


def wait(seconds: float) -> bool:
    """Wait up to `seconds` for files that were downloaded; returns whether all have been read."""
    until = time.monotonic() + seconds
    while _waiting.tasks and time.monotonic() < until:
        time.sleep(0.001)
    return not _waiting.tasks


def finish() -> None:
    """The program ends: read what was downloaded."""
    if _waiting.tasks:
        _hurry.set()
        if not wait(EXIT_SECONDS):
            notices.add(
                "the program ended before all batch results that it had downloaded were recorded. Download them again"
            )


def _after_fork() -> None:
    global _reader, _waiting, _hurry
    _reader, _waiting, _hurry = ReentrantQueue[Work](), _Waiting(), _Hurry()


forks.in_child(_after_fork)
finalizers.also_wait(wait)
