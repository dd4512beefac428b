"""The page in a real browser (Debian's Chromium): charts are drawn, axe finds nothing, nothing is wider than a phone, and a keyboard
is enough to get from a request to a call. `browse.py` also takes pictures, for docs/images."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import synthetic
from debian import program
from matrix.environments import HERE, python_with_wheel
from spanledger_clickhouse.database.connection import open_client, resolve_target


def test_the_page_in_a_browser(tmp_path: Path):
    browser = program("chromium")
    interpreter = python_with_wheel("browser", "playwright", "axe-playwright-python")
    dsn = f"chdb://{tmp_path}/ledger"
    with open_client(resolve_target(dsn)) as client:
        synthetic.open_shop(client, resolve_target(dsn), datetime.now(UTC))
    env = {
        **os.environ,
        "SPANLEDGER_DSN": dsn,
        "SPANLEDGER_SPOOL_DIR": str(tmp_path / "spool"),
        "XDG_STATE_HOME": str(tmp_path),
    }
    command = [sys.executable, "-u", "-m", "spanledger_clickhouse.cli", "ui", "--no-open"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            line = server.stderr.readline()
            address = re.search(r"http://\S+", line)
            assert address, line
            done = subprocess.run(
                [interpreter, HERE / "browse.py", browser, address[0]],
                env={**os.environ, "TMPDIR": "/tmp"},
                capture_output=True,
                text=True,
                check=False,
                timeout=400,
            )
        finally:
            server.terminate()
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert seen["console"] == []
    assert seen["call"].startswith("Call ")
    assert {name: page for name, page in seen["pages"].items() if page["wider"] > 0 or page["violations"]} == {}
    assert all(seen["pages"][f"spend-{width}"]["charts"] == 3 for width in (1280, 768, 390))
