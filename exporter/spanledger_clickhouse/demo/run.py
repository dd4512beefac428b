"""The demo: an unmodified application, its load, and what Spanledger knows of it afterwards.

Starts a loopback provider and `app.py` under `opentelemetry-instrument`, sends it requests of several users, and asks the
`spanledger` command where the money went. None of it leaves the machine, or reads this user's settings.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final

import httpx

from spanledger_clickhouse.demo.loopback_provider import Provider

BIN: Final = Path(sys.executable).parent
COMMAND: Final = (sys.executable, "-m", "spanledger_clickhouse.cli")
FEATURES: Final = ("summarize", "chat", "search", "upload")
USERS: Final = ("ada", "bob", "chloe", "dmitri", "eve")
MARKER: Final = ".spanledger-demo"
"""A file of the demo's directory: nothing else is deleted."""
START_SECONDS: Final = 60
OWN_SETTINGS: Final = ("SPANLEDGER_", "OTEL_", "OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_", "XDG_STATE_HOME")


class DemoError(Exception):
    """The demo cannot run; the message says what to do."""


def environment(provider: Provider, state: Path) -> dict[str, str]:
    """What the application is started with: keys and addresses of the three SDKs, and where rows wait."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OWN_SETTINGS)}
    return {
        **inherited,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "OPENAI_API_KEY": "sk-demo",
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "ANTHROPIC_API_KEY": "sk-demo",
        "ANTHROPIC_BASE_URL": provider.url,
        "GEMINI_API_KEY": "demo",
        "GOOGLE_GEMINI_BASE_URL": provider.url,
        "OTEL_SERVICE_NAME": "demo",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=demo",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "XDG_STATE_HOME": str(state),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        # OpenAI chat streams state their usage only if asked to; hosts other than OpenAI's opt in.
        "SPANLEDGER_INCLUDE_USAGE_HOSTS": "127.0.0.1",
    }


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(env: dict[str, str], directory: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the application exactly as its users do, from a copy in `directory`; returns it and its address.

    Raises:
        DemoError: it ended, or does not answer.
    """
    application = directory / "app.py"
    application.write_bytes((resources.files("spanledger_clickhouse.demo") / "app.py").read_bytes())
    port = free_port()
    command = ["opentelemetry-instrument", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
    try:
        process = subprocess.Popen([BIN / command[0], *command[1:]], cwd=directory, env=env)
    except OSError as error:
        raise DemoError(f"{BIN / command[0]} cannot be started: {error.strerror}") from error
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            httpx.get(f"{url}/health", timeout=1, trust_env=False)
        except httpx.TransportError:
            if process.poll() is not None:
                raise DemoError("the application did not start: its own message is above") from None
            time.sleep(0.1)
        else:
            return process, url
    stop(process)
    raise DemoError(f"the application did not answer within {START_SECONDS} seconds")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the application."""
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def send(client: httpx.Client, url: str, number: int) -> tuple[str, str]:
    """Send one request of a user; returns (request id, trace id). Every tenth is refused once by the provider."""
    feature, user = FEATURES[number % 4], USERS[number * 7 % 5]
    request_id = f"req-{number:04d}"
    text = f"document {number} of {user}, {feature}, {request_id}" + (" [429]" if number % 10 == 9 else "")
    headers = {"x-user": user, "x-request-id": request_id}
    if feature == "search":
        answer = client.post(f"{url}/search", params={"text": text}, headers=headers)
    else:
        answer = client.post(f"{url}/{feature}", content=text, headers=headers)
    answer.raise_for_status()
    return request_id, answer.headers["x-trace-id"]


def load(url: str, requests: int) -> dict[str, str]:
    """Send requests, eight at a time; returns request id -> trace id."""
    with httpx.Client(timeout=60, trust_env=False) as client, ThreadPoolExecutor(8) as pool:
        return dict(pool.map(partial(send, client, url), range(requests)))


def _ask(env: dict[str, str], directory: Path, *arguments: str) -> str:
    """What a command answers."""
    done = subprocess.run([*COMMAND, *arguments], env=env, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"spanledger {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def _show(env: dict[str, str], directory: Path, *arguments: str) -> None:
    """Run a command that answers the reader, in the width of the terminal."""
    print(f"$ spanledger {' '.join(arguments)}", flush=True)
    if subprocess.run([*COMMAND, *arguments], env=env, cwd=directory, check=False).returncode:
        raise DemoError(f"spanledger {' '.join(arguments)} failed: its message is above")
    print()


def _prepare(directory: Path) -> None:
    """Make the demo's directory anew."""
    if directory.is_symlink():
        raise DemoError(f"{directory} is a link: choose a directory, with --keep")
    if directory.exists():
        if not (directory / MARKER).exists() and any(directory.iterdir()):
            raise DemoError(f"{directory} is not a directory of the demo: choose one that does not exist, with --keep")
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    (directory / MARKER).touch()


def run(requests: int, directory: Path) -> bool:
    """Run the demo, and print it; returns whether the ledger's sum is the provider's to the picodollar.

    Args:
        requests: how many requests the application serves.
        directory: where the application, the spool and the ledger are kept; an earlier demo there is deleted.

    Raises:
        DemoError: it cannot run here.
    """
    _prepare(directory)
    provider = Provider().start()
    env = environment(provider, directory)
    print(f"1. A provider on this machine: {provider.url}")
    print("2. The application: opentelemetry-instrument uvicorn app:app", flush=True)
    app, url = start(env, directory)
    print(f"   It answers at {url}. One of its background jobs loses its context: that is the point of")
    print("   the demo. Expect one warning below, which names the line of code:", flush=True)
    try:
        load(url, requests)
        time.sleep(0.5)  # background jobs that answered before they were done
    finally:
        stop(app)
    print(f"3. {requests} requests of {len(USERS)} users made {len(provider.sold)} calls. Where did the money go?\n")
    for by in ("feature", "user", "model"):
        _show(env, directory, "spend", "--by", by)
    top = json.loads(_ask(env, directory, "spend", "--by", "request", "--top", "1", "--json"))[0]["request_id"]
    _show(env, directory, "request", top)
    _show(env, directory, "who-forgot")
    total = "SELECT sum(cost_usd) AS usd, count() AS calls FROM llm_calls FINAL"
    row = json.loads(_ask(env, directory, "sql", total, "--json"))[0]
    true = Decimal(sum(sold.picousd or 0 for sold in provider.sold)).scaleb(-12)
    same = Decimal(row["usd"]) == true and row["calls"] == len(provider.sold)
    print(f"the ledger:   {row['usd']} USD in {row['calls']} calls")
    print(f"the provider: {true} USD in {len(provider.sold)} calls  -> {'the same' if same else 'NOT THE SAME'}")
    print("(Its rows have the flag proxy: a host that is not a provider's own is priced by list, as an estimate.)\n")
    print("In the browser: spanledger ui, with the same XDG_STATE_HOME.")
    print(f"The database is {directory / 'spanledger' / 'ledger'}. Ask it more:")
    command = BIN / "spanledger"
    here = Path.cwd()
    shown = command.relative_to(here) if command.is_relative_to(here) else command
    print(f"  XDG_STATE_HOME={directory} {shown} sql \\")
    print('    "SELECT feature, model, sum(cost_usd) FROM llm_calls FINAL GROUP BY feature, model ORDER BY 3 DESC"')
    return same
