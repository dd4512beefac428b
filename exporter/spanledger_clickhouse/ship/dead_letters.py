"""Lines that nothing will take: kept beside the spool with the reason, shown and retried by `spanledger ship --dead`."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from spanledger.runtime.guard import log
from spanledger.runtime.untrusted_json import document, label, mapping, number

NAME: Final = "dead/letters.jsonl"


class Letter(NamedTuple):
    """A line, and why it is here."""

    line: bytes
    reason: str
    refused_at: float
    """Unix seconds."""


def path(directory: Path) -> Path:
    """The dead letters of a spool."""
    return directory / NAME


@contextmanager
def _alone(directory: Path) -> Generator[None]:
    """Nobody else buries, or takes out, meanwhile: a gateway and a command may share a directory."""
    path(directory).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (path(directory).parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def bury(directory: Path, line: bytes, reason: str) -> None:
    """Keep a line out of the way, on disk before this returns.

    Raises:
        OSError: it cannot be kept; then it has to stay in the spool.
    """
    file = path(directory)
    letter = {"at": time.time(), "reason": reason, "line": line.decode("utf-8", "surrogateescape")}
    data = json.dumps(letter).encode() + b"\n"
    with _alone(directory):
        fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            if os.write(fd, data) != len(data):
                os.ftruncate(fd, size)  # half a letter would spoil the next one
                raise OSError(28, os.strerror(28))
        finally:
            os.close(fd)
    log.error("a row was refused and is kept in %s: %s (spanledger ship --dead)", file, reason)


def letters(directory: Path) -> Iterator[Letter]:
    """What was refused so far, the oldest first."""
    try:
        data = path(directory).read_bytes()
    except FileNotFoundError:
        return
    for entry in data.splitlines():
        record = mapping(document(entry))
        line = record.get("line")
        if isinstance(line, str):
            raw = line.encode("utf-8", "surrogateescape")
            yield Letter(raw, label(record, "reason") or "", number(record, "at") or 0.0)


def exhume(directory: Path, segment: Path) -> int:
    """Put every dead letter back into the spool, as the segment `segment`; returns how many.

    The segment stands under its name before the letters are removed: a crash in between sends them twice, which
    the table absorbs.
    """
    with _alone(directory):
        entries = list(letters(directory))
        if entries:
            new = segment.with_suffix(".new")
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(b"".join(letter.line.rstrip(b"\n") + b"\n" for letter in entries))
            os.replace(new, segment)
            path(directory).unlink()
    return len(entries)
