"""A directory of this user alone, in the place for temporary files, where everybody may write."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def temporary_dir() -> Path:
    """`spanledger-<user number>` in $TMPDIR, by default in /tmp. It may not exist, or belong to somebody else."""
    return Path(os.environ.get("TMPDIR") or "/tmp", f"spanledger-{os.getuid()}")  # noqa: S108 - see is_private


def make(directory: Path) -> None:
    """Make a directory with its parents; if it is below `temporary_dir()`, that one for this user alone.

    Raises:
        OSError: it cannot be made, or others may write there.
    """
    private = temporary_dir()
    if private == directory or private in directory.parents:
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not is_private(private):
            raise PermissionError(errno.EACCES, "not a directory of this user alone", str(private))
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)


def is_private(directory: Path) -> bool:
    """Whether a directory exists that belongs to this user and that nobody else may read or write; no link."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def may_hold_rows(directory: Path) -> bool:
    """Whether what is in a spool can only be this user's: it is not below a temporary directory that others may write."""
    private = temporary_dir()
    return private not in directory.parents or is_private(private)
