"""Advisory locks on files, and what takes their place on a file system that has none.

A lock says that a process still holds a file: it ends with the process, however that ends. A network file system without
a lock manager, and some FUSE mounts, answer ENOLCK or ENOTSUP. There a file counts as abandoned some time after its last
write.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from enum import Enum
from typing import Final

try:
    import fcntl
except ImportError:  # Windows, WebAssembly
    fcntl = None

IS_POSIX: Final = fcntl is not None
"""Whether this system has what the spool needs."""

ABANDONED_SECONDS: Final = 600.0
"""A writer that has written nothing for that long, twice segments.SEGMENT_SECONDS, begins a new file with its next row."""


class Lock(Enum):
    """The outcome of an attempt."""

    HELD = 1
    BUSY = 2
    """Another open file holds it."""
    UNSUPPORTED = 3
    """The file system has no locks."""


def try_lock(fd: int, *, shared: bool = False) -> Lock:
    """Take the lock of an open file, without waiting for it; it is let go when the file is closed."""
    if fcntl is None:
        return Lock.UNSUPPORTED
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return Lock.BUSY
    except OSError:
        return Lock.UNSUPPORTED
    return Lock.HELD


def wait_for_lock(fd: int) -> None:
    """Take the lock of an open file, however long that takes; where there are none, return at once."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)


def unlock(fd: int) -> None:
    """Let go of the lock of an open file, for every child that has inherited the file as well."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)


def is_abandoned(fd: int, *, shared: bool = False) -> bool:
    """Whether no process writes the file any more; if its file system has locks, its lock is taken to find out."""
    lock = try_lock(fd, shared=shared)
    if lock is Lock.UNSUPPORTED:  # also where a network file system wants a file that is open for writing
        return time.time() - os.fstat(fd).st_mtime > ABANDONED_SECONDS
    return lock is Lock.HELD
