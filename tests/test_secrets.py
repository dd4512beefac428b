"""No secret of a setting, and no text of a prompt or an answer, is in a file, a log, an error, an alert or a command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from canned import Canned
from empty_ledger import empty_ledger
from spanledger_clickhouse.demo.loopback_provider import Provider

pytestmark = pytest.mark.services

CANARY = "canary7Qx"
SECRETS = {
    "SPANLEDGER_DSN": f"clickhouse://{CANARY}dsn@127.0.0.1:9/llm",
    "SPANLEDGER_OTLP_HEADERS": f"Authorization=Bearer {CANARY}otlp",
    "SPANLEDGER_REDIS_URL": f"redis://:{CANARY}redis@127.0.0.1:9/0",
    "SPANLEDGER_SLACK_WEBHOOK": f"http://127.0.0.1:9/{CANARY}slack",
    "SPANLEDGER_PAGERDUTY_KEY": f"{CANARY}pagerduty",
    "SPANLEDGER_ALERT_WEBHOOK": f"http://127.0.0.1:9/hook?token={CANARY}hook",
    "SPANLEDGER_ALERT_WEBHOOK_SECRET": f"{CANARY}signature",
    "SPANLEDGER_GATEWAY_TOKENS": f"acme={CANARY}gateway0123456789",
    "SPANLEDGER_HASH_USER_ID": f"{CANARY}salt",
    "OPENAI_API_KEY": f"{CANARY}openai",
}
"""Settings that hold a secret, each with a text that appears nowhere else."""

APPLICATION = f"""
import openai, spanledger, sys
from opentelemetry import baggage, context
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", max_retries=0)
with spanledger.attribution(user="ada", feature="search"):
    client.chat.completions.create(model="gpt-4.1-mini", messages=[{{"role": "user", "content": "{CANARY}prompt"}}])
    try:
        client.post("/nowhere/{CANARY}path", cast_to=object, body={{"x": "{CANARY}body"}})
    except openai.OpenAIError:
        pass
print(spanledger.flush(1))
"""


def scripts(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def in_files(directory: Path) -> list[str]:
    return [str(file) for file in directory.rglob("*") if file.is_file() and CANARY.encode() in file.read_bytes()]


@pytest.mark.parametrize("destination", ["clickhouse", "collector"])
def test_an_application_keeps_and_logs_no_secret(destination: str, provider: Provider, tmp_path: Path):
    state = tmp_path / "state"
    environment = {**os.environ, **SECRETS, "XDG_STATE_HOME": str(state), "OTEL_TRACES_EXPORTER": "none",
                   "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "SPANLEDGER_SPOOL_DIR": ""}  # fmt: skip
    if destination == "collector":
        environment["SPANLEDGER_OTLP_ENDPOINT"] = f"http://user:{CANARY}collector@127.0.0.1:9"
    words = [scripts("opentelemetry-instrument"), sys.executable, "-X", "dev", "-c", APPLICATION, provider.url]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert CANARY not in done.stderr
    assert "False" in done.stdout, "the destination is away"
    assert [file.suffix for file in state.glob("spanledger/spool*/*") if file.suffix == ".jsonl"]
    assert in_files(state) == []


COMMANDS = (
    ("doctor",), ("ship",), ("ship", "--dead"), ("spend",), ("top",), ("report",), ("budget", "list"), ("budget", "publish"),
    ("guard", "--once"), ("stop", "user=ada"), ("prices", "status"), ("migrate",), ("sql", "SELECT 1"),
    ("gateway", "--host", "0.0.0.0", "--port", "0", "--tokens-file", "/nowhere"),
)  # fmt: skip


@pytest.mark.parametrize("ledger_is", ["away", "there"])
def test_no_command_shows_a_secret(ledger_is: str, tmp_path: Path):
    environment = {**os.environ, **SECRETS, "XDG_STATE_HOME": str(tmp_path / "state"), "SPANLEDGER_SPOOL_DIR": ""}
    if ledger_is == "there":
        environment["SPANLEDGER_DSN"] = empty_ledger(tmp_path / "chdb").dsn
    shown: list[str] = []
    for words in COMMANDS:
        done = subprocess.run(
            [scripts("spanledger"), *words], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert "Traceback" not in done.stderr, (words, done.stderr)
        shown += [f"{words}: {line}" for line in (done.stdout + done.stderr).splitlines() if CANARY in line]
    assert shown == []
    assert in_files(tmp_path / "state") == []


def test_an_alert_carries_no_secret_but_its_own_key(tmp_path: Path):
    """What a webhook gets: neither the ledger's address nor another destination's key."""
    receiver = Canned()
    receiver.answers["/hook"] = {}
    environment = {**os.environ, **SECRETS, "XDG_STATE_HOME": str(tmp_path / "state"), "SPANLEDGER_SPOOL_DIR": "",
                   "SPANLEDGER_DSN": empty_ledger(tmp_path / "chdb").dsn, "SPANLEDGER_REDIS_URL": "",
                   "SPANLEDGER_ALERT_WEBHOOK": f"{receiver.url}/hook"}  # fmt: skip
    program = (
        "from datetime import UTC, datetime\n"
        "from spanledger_clickhouse.database import insert\n"
        "from spanledger_clickhouse.database.connection import open_client, resolve_target\n"
        "from synthetic import call\n"
        "from decimal import Decimal\n"
        "target = resolve_target()\n"
        "row = call(start_time=datetime.now(UTC), cost_usd=Decimal(50))\n"
        "with open_client(target) as client: insert.insert(client, target, [tuple(row.values())])\n"
    )
    tests = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", program], env={**environment, "PYTHONPATH": tests}, check=True, timeout=120)
    for words in (("budget", "set", "all", "10"), ("guard", "--once")):
        subprocess.run([scripts("spanledger"), *words], env=environment, capture_output=True, timeout=120, check=False)
    sent = [str(body) for _, _, body in receiver.asked]
    receiver.close()
    assert sent, "the budget is exhausted"
    assert [body for body in sent if CANARY in body] == []
