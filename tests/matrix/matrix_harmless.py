"""Never worse than none: every style runs with and without Spanledger, and a program sees no difference."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from matrix.environments import HERE, environment, ledger, python
from spanledger_clickhouse.demo.loopback_provider import Provider

PACKAGES = ("openai", "anthropic", "google-genai", "httpx", "requests", "uvloop", "trio", "gevent")
MODES = {
    "plain": ("plain", ()),
    "warnings are errors": ("plain", ("-W", "error")),
    "development mode": ("plain", ("-X", "dev")),
    "profiled": ("profile", ()),
    "gevent": ("gevent", ()),
    "uvloop": ("uvloop", ()),
    "trio": ("trio", ()),
}
"""Name -> mode of the program, options of the interpreter."""
COMPARED = {"openai": 38, "anthropic": 9, "google": 8, "http": 7}
"""Styles of each SDK, and of HTTP clients without one, that are compared; and asynchronous ones."""
KEPT_OBJECTS = 3.0
"""Objects of ours that a call may leave behind: its id, for as long as it is remembered."""
OUR_DESCRIPTORS = 6


def watched(interpreter: Path, mode: str, options: tuple[str, ...], state: Path, *, ours: bool) -> dict[str, Any]:
    """What a program sees of every style."""
    provider = Provider().start()
    try:
        host = provider.url.partition("//")[2]
        env = {
            **environment(interpreter, provider, state),
            "SPANLEDGER_DISABLED": "false" if ours else "true",
            "SPANLEDGER_MODEL_HOSTS": f"{host}=anthropic,127.0.0.1:9=anthropic",
            "SPANLEDGER_START_LINE": "false",
            "OTEL_SERVICE_NAME": "harmless",
            "ANTHROPIC_OPEN_TELEMETRY": "false",
        }
        # The launcher starts the interpreter anew: its options go by way of the environment.
        env |= {"PYTHONWARNINGS": "error"} if "error" in options else {}
        env |= {"PYTHONDEVMODE": "1"} if "dev" in options else {}
        command = [interpreter.parent / "opentelemetry-instrument", interpreter, HERE / "harmless.py", mode]
        done = subprocess.run(command, env=env, cwd=state, capture_output=True, text=True, check=False, timeout=250)
        assert done.returncode == 0, done.stderr[-4000:]
        assert bool(ledger(state)) is ours
        seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1].replace(host, "HOST"))
        return seen
    finally:
        provider.shutdown()
        provider.server_close()


def interpreters() -> list[Path | None]:
    """The environment's Python, and free-threaded ones where there are some."""
    found = [shutil.which(name) for name in ("python3.13t", "python3.14t")]
    return [None, *(Path(path) for path in found if path)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interpreter", interpreters(), ids=str)
def test_a_program_sees_no_difference(mode: str, interpreter: Path | None, tmp_path: Path):
    own = (
        python("harmless", *PACKAGES) if interpreter is None else python(f"harmless-{interpreter.name}", *PACKAGES[:5])
    )
    name, options = MODES[mode]
    without, with_us = (
        watched(own, name, options, _made(tmp_path / side), ours=side == "with") for side in ("without", "with")
    )
    different = {
        style: (without["seen"].get(style), with_us["seen"].get(style))
        for style in without["seen"].keys() | with_us["seen"].keys()
        if without["seen"].get(style) != with_us["seen"].get(style)
    }
    assert not different, json.dumps(different)[:6000]
    assert {sdk: _styles(with_us, sdk) for sdk in COMPARED} == COMPARED
    assert with_us["warnings"] == without["warnings"]
    strange = [thread for thread in with_us["threads"] if not thread.startswith("spanledger-")]
    assert len(strange) <= len(without["threads"])
    assert with_us["descriptors"] <= without["descriptors"] + OUR_DESCRIPTORS
    assert with_us["kept"] <= without["kept"] + KEPT_OBJECTS


def _styles(watched: dict[str, Any], prefix: str) -> int:
    return sum(style.startswith(f"{prefix} ") for style in watched["seen"])


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
