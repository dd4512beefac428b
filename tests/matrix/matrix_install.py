"""The wheel installs with the pip releases that people have, not only with the newest resolver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from matrix.environments import UV

IMPORTS = "import spanledger.bootstrap, opentelemetry.instrumentation.threading, spanledger_clickhouse.cli"


def old_pip(version: str, home: Path) -> Path:
    """The Python of an empty environment that has nothing but one release of pip."""
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, home], check=True)
    subprocess.run([UV, "pip", "install", "--quiet", "--python", home / "bin/python", f"pip=={version}"], check=True)
    return home / "bin/python"


def install(python: Path, *words: str | Path) -> None:
    """Run `pip install`; its own message is that of the failure."""
    done = subprocess.run([python, "-m", "pip", "install", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("pip", ["23.2", "24.0", "24.3", "25.0"])
def test_an_older_pip_resolves_the_wheel(pip: str, wheel: Path, tmp_path: Path):
    install(old_pip(pip, tmp_path), "--dry-run", wheel)


def test_pip_24_installs_the_wheel_into_an_empty_environment(wheel: Path, tmp_path: Path):
    python = old_pip("24.0", tmp_path)
    install(python, wheel)
    subprocess.run([python, "-c", IMPORTS], check=True, cwd=tmp_path, env={"HOME": str(tmp_path)})
