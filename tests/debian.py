"""Programs that tests need and Debian has, installed where they lack."""

from __future__ import annotations

import os
import shutil
import subprocess


def program(name: str, package: str = "") -> str:
    """The path of a program, from the package of its name or of another."""
    path = shutil.which(name)
    if path is None:
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        for words in (["update"], ["install", "--yes", "--no-install-recommends", package or name]):
            subprocess.run([*sudo, "apt-get", "--quiet", *words], check=True, capture_output=True)
        path = shutil.which(name)
    assert path, f"tests need {name}: apt-get install {package or name}"
    return path
