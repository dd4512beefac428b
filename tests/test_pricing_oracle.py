"""Prices against LiteLLM's own results: every model and usage, to the picodollar it can represent.

Rows with a quirk code hit an error of LiteLLM's calculator (`QUIRKS` says which); there we do not
follow it, and a snapshot says how often we agree all the same.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import UTC, date, datetime
from importlib import resources
from typing import Any

from price_oracle import ORACLE, oracle
from spanledger.pricing import Price, quote

QUIRKS = {
    "Q1": "invents a batch price of half for models without one; so do we, and flag it batch_estimated",
    "Q2": "bills cached tokens at nothing in that fallback",
    "Q3": "ignores long context in that fallback",
    "Q4": "bills one-hour cache writes in a batch at the five-minute rate",
    "Q5": "bills cached tokens at the full batch input rate where there is no cached batch rate",
    "Q6": "the same for cache writes",
    "Q7": "falls to the standard long-context rate where a tier has none",
    "Q8": "bills standard for a tier without a price; so do we, and flag it tier_estimated",
    "Q9": "replaces an output price of 0 by the image-token price",
    "Q12": "takes the zero-priced 128k fields of Vertex models for free tokens",
    "Q13": "mixes units of images and tokens",
    "Q14": "mixes units of characters and tokens",
    "Q15": "xAI: reasoning is added to an output that may include it",
    "Q17": "prices off-peak by the clock of the machine that asks",
    "Q18": "Perplexity: ignores cache rates and tiers",
    "Q19": "Fireworks: half the input rate for cache reads",
    "Q20": "Fireworks: drops the tier",
    "Q21": "tiered prices with no input",
}


HELD = datetime(2026, 11, 15, 8, tzinfo=UTC)
"""When the prices held from which the oracle was made."""
PUT_RIGHT = {"azure_ai/jais-30b-chat"}
"""Models whose price was published wrong, and put right by a later release (`corrections.toml`)."""


def quoted(row: dict[str, Any], vector: dict[str, Any]) -> Price:
    geo = vector.get("geo") or vector.get("data_residency") or vector.get("vertex_location") or ""
    at = datetime.fromisoformat(vector["at"]) if "at" in vector else HELD
    return quote(
        row["p"], row["m"], vector["usage"], tier=vector["tier"] or "", geo=geo, speed=vector.get("speed") or "", at=at
    )


def agrees(price: Price, row: dict[str, Any]) -> bool:
    """Within the precision of the oracle's floats."""
    expected = row["i"] + row["o"]
    return price.total_picousd is not None and abs(price.total_picousd / 1e12 - expected) <= 1e-11 + 2e-9 * expected


def test_the_oracle_was_made_from_the_bundled_table():
    """It holds for the day on which this release's prices did, which the bundled history has."""
    made_from = json.loads(gzip.decompress(ORACLE.read_bytes()).splitlines()[0])["_meta"]["litellm"]
    snapshot = json.loads(gzip.decompress((resources.files("spanledger.pricing") / "data/prices.json.gz").read_bytes()))
    releases = {version: date.fromisoformat(day) for version, day in snapshot["_meta"]["releases"].items()}
    later = [day for day in releases.values() if day > releases[made_from]]
    assert releases[made_from] <= HELD.date() < min(later)


def test_every_row_without_a_quirk_agrees():
    rows = [(row, vector) for row, vector in oracle() if "q" not in row]
    differing = [(row, price) for row, vector in rows if not agrees(price := quoted(row, vector), row)]
    assert len(rows) == 21561
    assert [(row, price) for row, price in differing if row["m"] not in PUT_RIGHT] == []
    assert {row["m"] for row, _ in differing} == PUT_RIGHT


def test_rows_with_a_quirk_are_a_snapshot_and_their_quirk_is_known():
    outcomes: Counter[str] = Counter()
    for row, vector in oracle():
        if "q" in row:
            assert set(row["q"]) <= set(QUIRKS)
            price = quoted(row, vector)
            outcomes["agrees" if agrees(price, row) else "differs" if price.priced else price.status] += 1
    # A change of a rule must say here how many of LiteLLM's errors it follows. What has no price here are
    # image models: LiteLLM charges their text output as image tokens (Q9), we say that there is no price.
    assert outcomes == {"agrees": 4719, "differs": 1410, "unpriced:no_price": 207}
