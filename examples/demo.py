"""The demo: an unmodified application, its load, and what Spanledger knows of it afterwards.

    python examples/demo.py [--requests 60] [--keep DIRECTORY]

Starts a loopback provider and `examples/fastapi_app` under `opentelemetry-instrument`, sends it requests
of several users, and asks the `spanledger` command where the money went. Exit status 1 where the ledger's
sum is not the provider's to the picodollar.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import httpx
from loopback_provider import Provider

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
FEATURES = ("summarize", "chat", "search", "upload")
USERS = ("ada", "bob", "chloe", "dmitri", "eve")


def environment(provider: Provider, state: Path) -> dict[str, str]:
    """What the application is started with: keys and addresses of the three SDKs, and where rows wait."""
    return {
        **os.environ,
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
        # OpenAI chat streams state their usage only if asked to; hosts other than OpenAI's opt in.
        "SPANLEDGER_INCLUDE_USAGE_HOSTS": "127.0.0.1",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(env: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """The application exactly as its users start it."""
    port = free_port()
    command = [BIN / "opentelemetry-instrument", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
    path = f"{BIN}{os.pathsep}{env['PATH']}"
    process = subprocess.Popen(command, cwd=HERE / "fastapi_app", env={**env, "PATH": path})
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            httpx.get(f"{url}/health", timeout=1)
        except httpx.TransportError:
            if process.poll() is not None:
                raise SystemExit("the application did not start") from None
            time.sleep(0.1)
        else:
            return process, url
    process.terminate()
    raise SystemExit("the application did not answer within 30 seconds")


def send(client: httpx.Client, url: str, number: int) -> tuple[str, str]:
    """One request of a user; returns (request id, trace id). Every tenth is refused once by the provider."""
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
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(8) as pool:
        return dict(pool.map(lambda number: send(client, url, number), range(requests)))


def spanledger(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [BIN / "spanledger", *arguments], env=env, cwd=HERE, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"spanledger {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=60, help="how many requests to send (default 60)")
    parser.add_argument("--keep", type=Path, default=HERE.parent / ".demo", help="where the ledger is kept")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.keep, ignore_errors=True)
    provider = Provider().start()
    env = environment(provider, arguments.keep.absolute())
    print(f"1. A provider on this machine: {provider.url}")
    app, url = start(env)
    print(f"2. The application: opentelemetry-instrument uvicorn app:app   ({url})")
    print("   One of its background jobs loses its context on purpose. Spanledger's log names the line:", flush=True)
    try:
        load(url, arguments.requests)
        time.sleep(0.5)  # background jobs that answered before they were done
    finally:
        app.terminate()
        app.wait(timeout=20)
    print(
        f"3. {arguments.requests} requests of {len(USERS)} users made {len(provider.sold)} calls. Where did the money go?\n"
    )
    for by in ("feature", "user", "model"):
        print(spanledger(env, "spend", "--by", by))
    dearest = json.loads(spanledger(env, "spend", "--by", "request", "--top", "1", "--json"))[0]["request_id"]
    print(spanledger(env, "request", dearest))
    print(spanledger(env, "who-forgot"))
    row = json.loads(
        spanledger(env, "sql", "SELECT sum(cost_usd) AS usd, count() AS calls FROM llm_calls FINAL", "--json")
    )[0]
    true = Decimal(sum(sold.picousd or 0 for sold in provider.sold)).scaleb(-12)
    same = Decimal(row["usd"]) == true and row["calls"] == len(provider.sold)
    print(f"the ledger:   {row['usd']} USD in {row['calls']} calls")
    print(f"the provider: {true} USD in {len(provider.sold)} calls  -> {'the same' if same else 'NOT THE SAME'}\n")
    print(f"The database is {arguments.keep.absolute() / 'spanledger' / 'ledger'}. Ask it more:")
    print(
        f"  XDG_STATE_HOME={arguments.keep} {BIN.relative_to(Path.cwd()) if BIN.is_relative_to(Path.cwd()) else BIN}/spanledger sql \\"
    )
    print('    "SELECT feature, model, sum(cost_usd) FROM llm_calls FINAL GROUP BY feature, model ORDER BY 3 DESC"')
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
