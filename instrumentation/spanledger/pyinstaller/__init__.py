"""What PyInstaller needs to know of Spanledger: it finds this package by its entry point."""

from __future__ import annotations

import os


def hook_directories() -> list[str]:
    """Where the hooks are (entry point `pyinstaller40: hook-dirs`)."""
    return [os.path.dirname(__file__)]
