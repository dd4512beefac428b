"""Virtual environments of other generations: Spanledger beside old SDKs, frameworks, other instrumentors."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from spanledger_clickhouse.demo.loopback_provider import Provider, Sold
from spanledger_clickhouse.rows.rows import COLUMNS, rows

ROOT = Path(__file__).parent.parent.parent
UV = ROOT / ".tools/bin/uv"
HERE = Path(__file__).parent

COMMON = ("opentelemetry-distro",)


@cache
def wheel() -> Path:
    """The wheel of this checkout, built once in a run."""
    out = Path(tempfile.mkdtemp(prefix="spanledger-wheel-"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    [built] = out.glob("*.whl")
    return built


def python_with_wheel(name: str, *packages: str, interpreter: str | Path = sys.executable) -> Path:
    """The Python of `.matrix/<name>`, with the wheel and `packages` installed as their users do: no editable checkout."""
    home = ROOT / ".matrix" / name
    wanted = json.dumps([*packages, hashlib.sha256(wheel().read_bytes()).hexdigest()])
    ready = home / ".ready"
    if not ready.exists() or ready.read_text() != wanted:
        subprocess.run([UV, "venv", "--quiet", "--clear", "--python", interpreter, home], check=True)
        install = [UV, "pip", "install", "--quiet", "--python", home / "bin/python"]
        done = subprocess.run([*install, wheel(), *packages], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        ready.write_text(wanted)
    return home / "bin/python"


def python(name: str, *packages: str) -> Path:
    """The Python of `.matrix/<name>`, with Spanledger and `packages` installed."""
    home = ROOT / ".matrix" / name
    wanted = json.dumps(packages)
    ready = home / ".ready"
    if not ready.exists() or ready.read_text() != wanted:
        subprocess.run([UV, "venv", "--quiet", "--allow-existing", "--python", sys.executable, home], check=True)
        overrides = home / "overrides.txt"
        overrides.write_text("certifi\n")  # litellm's newest releases ask for a newer one than some indexes have
        install = [UV, "pip", "install", "--quiet", "--python", home / "bin/python", "--override", overrides]
        subprocess.run([*install, "--editable", ROOT, *COMMON, *packages], check=True, capture_output=True)
        ready.write_text(wanted)
    return home / "bin/python"


def environment(interpreter: Path, provider: Provider, state: Path) -> dict[str, str]:
    """The variables of a program: the SDKs ask the loopback provider, the spool is in `state`."""
    path = f"{interpreter.parent}{os.pathsep}{os.environ['PATH']}"
    return {
        "PATH": path,
        "HOME": str(state),
        "XDG_STATE_HOME": str(state),
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OPENAI_API_KEY": "k",
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_BASE_URL": provider.url,
        "GEMINI_API_KEY": "k",
        "GOOGLE_API_KEY": "k",
        "GOOGLE_GEMINI_BASE_URL": provider.url,
        "SPANLEDGER_INCLUDE_USAGE_HOSTS": "127.0.0.1",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PROVIDER": provider.url,
    }


def ran(
    interpreter: Path,
    program: str,
    provider: Provider,
    state: Path,
    *arguments: str,
    instrument: bool = True,
    serves: str = "",
) -> list[str]:
    """Run a program of this folder, under `opentelemetry-instrument` or by itself; returns the words that it prints.

    `serves`: the provider for which an HTTP client that is no SDK takes the loopback provider.
    """
    env = environment(interpreter, provider, state)
    if serves:
        env["SPANLEDGER_MODEL_HOSTS"] = f"{provider.url.partition('//')[2]}={serves}"
    start = [interpreter.parent / "opentelemetry-instrument"] if instrument else []
    command = [*start, interpreter, HERE / program, *arguments]
    done = subprocess.run(command, env=env, cwd=state, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for complaint in ("the application is unaffected", "NOT recorded"):
        assert complaint not in done.stderr, done.stderr[-4000:]
    return done.stdout.split()


def ledger(state: Path, pattern: str = "spanledger/spool/*.jsonl") -> list[dict[str, Any]]:
    return [
        dict(zip(COLUMNS, row, strict=True))
        for file in state.glob(pattern)
        for line in file.read_bytes().splitlines()
        for row in rows(line)
    ]


def counted(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row counts, as the provider counts it."""
    written = row["cache_write_tokens"] + row["cache_write_1h_tokens"]
    total = row["input_uncached_tokens"] + row["cache_read_tokens"] + written
    return row["response_model"] or row["request_model"], total, row["cache_read_tokens"], row["output_text_tokens"]


def sold(item: Sold) -> tuple[Any, ...]:
    return item.model, item.input, item.cache_read, item.output


def agree(provider: Provider, state: Path) -> None:
    """Exactly one row for each answer that was sold, with its figures."""
    found = ledger(state)
    assert Counter(map(counted, found)) == Counter(map(sold, provider.sold))
    assert {row["usage_source"] for row in found} == {"exact"}
