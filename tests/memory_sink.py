"""A sink in memory, and calls whose rows it gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import openai

from conftest import Recorded
from spanledger_clickhouse.database.insert import PoisonError
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.rows.rows import Row, rows
from spanledger_clickhouse.ship.sinks import SpoolLine


def record(ledger: Recorded, provider: Provider, calls: int = 3) -> list[Row]:
    with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
        for number in range(calls):
            client.embeddings.create(model="text-embedding-3-small", input=f"text {number}")
    return [row for line in ledger.lines for row in rows(line)]


class Got:
    """A sink in memory; `refuses` and `down` are what it does not take."""

    shown = "memory"

    def __init__(self, refuses: Callable[[Row], bool] = lambda row: False) -> None:
        self.rows: list[Row] = []
        self.sends = 0
        self.refuses = refuses

    def send(self, lines: Sequence[SpoolLine]) -> None:
        self.sends += 1
        rows = [row for line in lines for row in line.contents.rows]
        if any(map(self.refuses, rows)):
            raise PoisonError("it will not")
        self.rows += rows

    def expired(self) -> None:
        pass

    def on_idle(self) -> None:
        pass

    def close(self) -> None:
        """Nothing to close."""
