"""`tools/build_prices.py`: builds the snapshot from the table of a release, and keeps removed models."""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
import zipfile
from datetime import UTC, date, datetime

import pytest

from conftest import ROOT
from spanledger.pricing import price_table, quote
from spanledger.pricing.price_table import Prices, Table

pytestmark = pytest.mark.services

spec = importlib.util.spec_from_file_location("build_prices", ROOT / "tools/build_prices.py")
build_prices = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build_prices)

PLAIN = {"litellm_provider": "openai", "mode": "chat", "max_tokens": 5}


def entry(price: str, **more: str) -> dict[str, str]:
    return {**PLAIN, "input_cost_per_token": price, **more}


def releases(*tables: dict) -> build_prices.Snapshot:
    snapshot = build_prices.Snapshot(({}, {}), ({}, {}))
    for month, models in enumerate(tables, 1):
        snapshot.take(f"1.{month}.0", date(2026, month, 1), json.dumps(models).encode(), shrink=True)
    return snapshot


def test_only_fields_that_affect_a_price_are_kept():
    snapshot = releases({"gpt": entry("1e-06"), "sample_spec": {}})
    assert snapshot.models == {
        "gpt": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": "1e-06", "_first_seen": "1.1.0"}
    }


def test_a_removed_model_is_retired_with_its_last_release():
    snapshot = releases({"old": entry("1e-06"), "new": entry("2e-06")}, {"new": entry("2e-06")})
    assert set(snapshot.models) == {"new"}
    assert (snapshot.retired["old"]["_first_seen"], snapshot.retired["old"]["_last_seen"]) == ("1.1.0", "1.1.0")


def test_a_model_that_returns_is_no_longer_retired():
    snapshot = releases({"a": entry("1e-06"), "b": entry("1e-06")}, {"b": entry("1e-06")}, {"a": entry("1e-06")})
    assert "a" not in snapshot.retired


def test_a_call_is_priced_as_of_its_time():
    snapshot = releases(
        {"gpt": entry("4e-06")},
        {"gpt": entry("3e-06", output_cost_per_token="8e-06")},
        {"gpt": entry("2e-06", output_cost_per_token="6e-06")},
    )
    assert snapshot.models["gpt"]["_history"] == [
        {"_until": "2026-02-01", "input_cost_per_token": "4e-06", "output_cost_per_token": "8e-06"},
        {"_until": "2026-03-01", "input_cost_per_token": "3e-06", "output_cost_per_token": "8e-06"},
    ]
    live = Table("bundled", "1.3.0", "", None, "", snapshot.models)
    prices = Prices(live, Table("retired", "", "", None, "", {}), price_table.NO_OVERRIDES)
    quoted = [
        quote("openai", "gpt", {"input": 1}, at=at, table=prices)
        for at in (datetime(2026, 1, 31, 23, 59, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC), None)
    ]
    assert [(q.total_picousd, q.flags) for q in quoted] == [
        (4_000_000, ("exact", "former")), (3_000_000, ("exact", "former")), (2_000_000, ("exact",)),
    ]  # fmt: skip


def test_a_table_that_shrinks_is_refused():
    snapshot = releases({str(n): entry("1e-06") for n in range(20)})
    with pytest.raises(build_prices.RefusedError, match="shrank from 20 to 1"):
        snapshot.take("1.9.0", date(2026, 9, 1), json.dumps({"1": entry("1e-06")}).encode())


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.107.0", "1.107.3"])
def test_a_compromised_release_is_neither_downloaded_nor_read(version):
    with pytest.raises(build_prices.RefusedError, match="compromised"):
        build_prices.download(version)
    with pytest.raises(build_prices.RefusedError, match="compromised"):
        releases().take(version, date(2026, 1, 1), b"{}")


def test_rates_that_change_more_than_fivefold_are_reported(capsys):
    releases({"gpt": entry("1e-06")}, {"gpt": entry("1e-05")})
    assert "moved more than fivefold: gpt.input_cost_per_token: 1e-06 -> 1e-05" in capsys.readouterr().err


def test_a_wheel_is_read_as_an_archive(tmp_path):
    wheel = tmp_path / "litellm-1.82.7-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(build_prices.TABLE, json.dumps({"gpt": entry("1e-06")}))
    done = subprocess.run(
        [sys.executable, ROOT / "tools/build_prices.py", wheel], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "compromised" in done.stderr


def test_the_snapshot_has_the_dates_of_its_models():
    found = json.loads(gzip.decompress((build_prices.DATA / "prices.json.gz").read_bytes()))
    meta = found.pop("_meta")
    assert meta["releases"][meta["version"]] == meta["date"]
    assert {e["_first_seen"] for e in found.values()} <= set(meta["releases"])
    retired = json.loads(gzip.decompress((build_prices.DATA / "retired.json.gz").read_bytes()))
    retired.pop("_meta")
    assert all(e.get("_last_seen") for e in retired.values())
