"""Usages of every model with LiteLLM's own price for them (data/README.md)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ORACLE = Path(__file__).parent / "data/price-oracle.jsonl.gz"


def oracle() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(line, vector of its usage) of the data set."""
    lines = gzip.decompress(ORACLE.read_bytes()).splitlines()
    vectors = json.loads(lines[0])["_meta"]["vectors"]
    for line in lines[1:]:
        row = json.loads(line)
        yield row, vectors[row["v"]]
