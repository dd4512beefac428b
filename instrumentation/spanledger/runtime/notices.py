"""Logs each condition of the host once per process, and appends it to a file, which `spanledger doctor` reads.

The file `notices.log` stands in the spool. Its lines are JSON: `{"at": Unix seconds, "service": ..., "pid": ..., "text": ...}`.
It is written where rows are written: by the spool's thread, where it has one.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from spanledger.runtime.guard import log
from spanledger.runtime.untrusted_json import label, mapping, number, parse_json

FILE_NAME: Final = "notices.log"
"""Not `.jsonl`: it is no segment."""
MAX_FILE_BYTES: Final = 64 << 10
"""A longer file is begun again."""
MAX_NOTICES: Final = 100
"""Further ones of a process are dropped: hosts and paths may be many."""

_logged_at: dict[str, float] = {}
_unwritten: deque[str] = deque()


def add(text: str, level: int = logging.WARNING) -> None:
    """Log a condition, with what to do about it, unless this process has said so before."""
    if text in _logged_at or len(_logged_at) >= MAX_NOTICES:
        return
    _logged_at[text] = time.time()
    _unwritten.append(text)
    with suppress(Exception):  # a filter or handler of the application
        log.log(level, "%s", text)


def write(directory: Path, service: str) -> None:
    """Append what was added since to the file in `directory`. Raises OSError where the disk refuses."""
    if not _unwritten:
        return
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(directory / FILE_NAME, flags, 0o600)
    try:
        if os.fstat(fd).st_size > MAX_FILE_BYTES:
            os.ftruncate(fd, 0)
        while _unwritten:
            text = _unwritten[0]
            line = {"at": round(_logged_at.get(text, 0)), "service": service, "pid": os.getpid(), "text": text}
            os.write(fd, json.dumps(line).encode() + b"\n")
            _unwritten.popleft()
    finally:
        os.close(fd)


def reset() -> None:
    """In a forked child: what the parent has said need not be said again; what it has not written is its to write."""
    _unwritten.clear()


class Notice(NamedTuple):
    """A condition that a process has met."""

    at: float
    """Unix seconds."""
    service: str
    text: str


def read(directory: Path) -> list[Notice]:
    """The newest notice of each service and text, the oldest first; empty if there is no file."""
    try:
        fd = os.open(directory / FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            lines = file.read(2 * MAX_FILE_BYTES).splitlines()
    except OSError:
        return []
    newest: dict[tuple[str, str], Notice] = {}
    for line in lines:
        with suppress(ValueError, RecursionError):
            entry = mapping(parse_json(line))
            notice = Notice(
                number(entry.get("at")) or 0.0, label(entry.get("service")) or "", str(entry.get("text"))[:1000]
            )
            newest[notice.service, notice.text] = notice
    return sorted(newest.values())
