"""A server that takes alerts, and the budgets and calls that cause them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from empty_ledger import empty_ledger
from spanledger_clickhouse.alerts import delivery_log
from spanledger_clickhouse.budgets import table as budget_table
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from spanledger_clickhouse.database.ledger import Ledger
from synthetic import call

MARCH = datetime(2026, 3, 1, tzinfo=UTC)


class Receiver(ThreadingHTTPServer):
    """Takes alerts, and answers what it has been sent to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        """Status of the next answers; then 200."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def bodies(self, path: str) -> list[Any]:
        return [json.loads(body) for url, _, body in self.got if url == f"/{path}"]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.server.answers.pop(0) if self.server.answers else 200
        self.server.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def open_ledger_of_alerts(path: Path) -> Iterator[Ledger]:
    """An empty ledger, open."""
    target = empty_ledger(path)
    with open_client(target) as client:
        client.command(f"USE `{target.database}`")
        yield Ledger(client, target)


_numbers = iter(range(10**9))


def spend(ledger: Ledger, at: datetime, usd: float | str, **columns: Any) -> None:
    columns = {"feature": "summarize", "user_id": "ada", **columns}
    row = call(start_time=at, span_id=f"{next(_numbers):016x}", cost_usd=Decimal(str(usd)), **columns)
    insert.insert(ledger.client, ledger.target, [tuple(row.values())])


def put(ledger: Ledger, name: str, usd: float, **fields: Any) -> None:
    budget_table.put(ledger, budget_table.parse_budget(name, **{"amount_usd": usd, "window": "month", **fields}))


def aged(ledger: Ledger, seconds: float, table: str = "budget_alerts", column: str = "at") -> None:
    """Make all rows of a table older."""
    rows = ledger.query(
        f"SELECT * REPLACE ({column} - toIntervalMillisecond({int(seconds * 1000)}) AS {column}) FROM {table}"
    )
    ledger.client.command(f"TRUNCATE TABLE spanledger.{table}")
    ledger.client.insert(f"spanledger.{table}", rows.rows, column_names=rows.columns)


def put_long_ago(ledger: Ledger, name: str, usd: float, **fields: Any) -> None:
    put(ledger, name, usd, **fields)
    aged(ledger, 366 * 86_400, "budgets", "updated_at")


def texts(done: list[delivery_log.DeliveryResult]) -> list[str]:
    return [result.text for result in done]
