"""gevent and eventlet: no stream hangs, whenever the standard library is patched, and every call is a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from matrix.environments import ledger, python, ran
from spanledger_clickhouse.demo.loopback_provider import Provider

PACKAGES = ("openai", "gevent", "eventlet")


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_streams_end_and_are_rows(library: str, order: str, provider: Provider, tmp_path: Path):
    texts = ran(python("greenlets", *PACKAGES), "greenlets.py", provider, tmp_path, library, order)
    calls = 7 if order == "after" else 6
    assert len(texts) == len(provider.sold) == len(ledger(tmp_path)) == calls
    assert sorted(row["outcome"] for row in ledger(tmp_path)) == ["aborted", *["ok"] * (calls - 1)]
