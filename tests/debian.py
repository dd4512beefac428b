"""Programs that tests need and Debian has, installed where they lack."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def program(name: str, package: str = "") -> str:
    """The path of a program, from the package of its name or of another."""
    path = shutil.which(name)
    if path is None:
        with (Path(tempfile.gettempdir()) / "spanledger-apt.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
            path = shutil.which(name) or _installed(name, package or name)
    assert path, f"tests need {name}: apt-get install {package or name}"
    return path


def _installed(name: str, package: str) -> str | None:
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    for words in (["update"], ["install", "--yes", "--no-install-recommends", package]):
        subprocess.run([*sudo, "apt-get", "--quiet", *words], check=True, capture_output=True)
    return shutil.which(name)
