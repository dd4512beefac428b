"""Dead letter queue for refused lines: stored next to the spool with the reason; see `spanledger ship --dead`."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from spanledger.runtime.file_locks import wait_for_lock
from spanledger.runtime.guard import log
from spanledger.runtime.untrusted_json import label, mapping, number, parse_json

FILE_NAME: Final = "dead/letters.jsonl"


class DeadLetter(NamedTuple):
    """A refused line and the reason."""

    line: bytes
    reason: str
    refused_at: float
    """Unix seconds."""


def path(directory: Path) -> Path:
    """Path of the dead letter file of a spool."""
    return directory / FILE_NAME


@contextmanager
def _exclusive_lock(directory: Path) -> Generator[int]:
    """Hold the exclusive lock of the file: a gateway and a command may share a directory. Yields the folder's descriptor."""
    folder = path(directory).parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        lock = _open("lock", os.O_RDWR | os.O_CREAT, folder_fd)
        try:
            wait_for_lock(lock)
            yield folder_fd
        finally:
            os.close(lock)
    finally:
        os.close(folder_fd)


def _open(name: str, flags: int, folder_fd: int) -> int:
    """Open a regular file of the folder; a link or a pipe is an OSError, and never waited for."""
    fd = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, f"{name} is not a regular file")
    return fd


def add(directory: Path, line: bytes, reason: str) -> None:
    """Add a line to the dead letters; it is on disk when this returns.

    Raises:
        OSError: the line cannot be written, and has to stay in the spool.
    """
    file = path(directory)
    letter = {"at": time.time(), "reason": reason, "line": line.decode("utf-8", "surrogateescape")}
    data = json.dumps(letter).encode() + b"\n"
    with _exclusive_lock(directory) as folder:
        fd = _open(file.name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, folder)
        try:
            size = os.fstat(fd).st_size
            if os.write(fd, data) != len(data):
                os.ftruncate(fd, size)  # a partial entry would corrupt the next one
                raise OSError(28, os.strerror(28))
        finally:
            os.close(fd)
    log.error("a row was refused and is kept in %s: %s (spanledger ship --dead)", file, reason)


def list_entries(directory: Path) -> Iterator[DeadLetter]:
    """The dead letters, oldest first."""
    file = path(directory)
    try:
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with open(_open(file.name, os.O_RDONLY, folder), "rb") as letters:
                data = letters.read()
        finally:
            os.close(folder)
    except FileNotFoundError:
        return
    for entry in data.splitlines():
        record = mapping(parse_json(entry))
        line = record.get("line")
        if isinstance(line, str):
            raw = line.encode("utf-8", "surrogateescape")
            yield DeadLetter(raw, label(record, "reason") or "", number(record, "at") or 0.0)


def requeue(directory: Path, segment: Path) -> int:
    """Requeue every dead letter into the spool, as the segment `segment`; returns how many.

    The segment is in place before the dead letters are removed: after a crash in between they are sent twice, and
    the table deduplicates them.
    """
    with _exclusive_lock(directory):
        entries = list(list_entries(directory))
        if entries:
            new = segment.with_suffix(".new")
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(b"".join(letter.line.rstrip(b"\n") + b"\n" for letter in entries))
            os.replace(new, segment)
            path(directory).unlink()
    return len(entries)
