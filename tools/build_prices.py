"""Build the bundled price snapshot from a litellm wheel, which is read as an archive and never installed.

    python tools/build_prices.py litellm-1.109.1-...whl

Keeps cost fields only. Refuses a table that shrank by more than a tenth, reports rates that moved more
than fivefold, and moves keys that disappeared to the retired prices with the version that had them last.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import sys
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "instrumentation/spanledger/pricing/data"
TABLE = "litellm/model_prices_and_context_window_backup.json"
DENIED = ("1.82.7", "1.82.8", "1.107.")
KEPT = re.compile(
    r"cost|pricing|multiplier|billing_unit|^(litellm_provider|mode|deprecation_date|provider_specific_entry)$"
)
NOT_MODELS = {"sample_spec", "fallback_generalizations", "aliases"}


def trimmed(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields that decide a price; numbers stay text as the table wrote them."""
    return {name: value for name, value in sorted(entry.items()) if KEPT.search(name)}


def write(name: str, meta: dict[str, Any], models: dict[str, Any]) -> None:
    text = json.dumps({"_meta": meta, **dict(sorted(models.items()))}, separators=(",", ":"), ensure_ascii=True)
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / name).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{name}: {len(models)} models, {(DATA / name).stat().st_size / 1024:.0f} KiB")


def load(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        return {}, {}
    found = json.loads(gzip.decompress(path.read_bytes()))
    return found.pop("_meta", {}), found


def moved(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Rates that changed more than fivefold: a mistake in the table more often than a new price."""
    found: list[str] = []
    for key in sorted(old.keys() & new.keys()):
        for field in sorted(old[key].keys() & new[key].keys()):
            before, after = old[key][field], new[key][field]
            if isinstance(before, str) and isinstance(after, str) and "cost" in field:
                low, high = sorted((float(before), float(after)))
                if high and (not low or high / low > 5):
                    found.append(f"{key}.{field}: {before} -> {after}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "wheel", type=Path, help="a litellm wheel (pip download --no-deps --only-binary=:all: litellm==X)"
    )
    parser.add_argument("--date", type=date.fromisoformat, default=date.today(), help="when this table was current")
    parser.add_argument("--retired", type=Path, help="further retired prices to start from (.json.gz)")
    arguments = parser.parse_args()
    version = arguments.wheel.name.split("-")[1]
    if version.startswith(DENIED):
        parser.error(f"litellm {version} is a compromised release")
    with zipfile.ZipFile(arguments.wheel) as wheel:
        data = wheel.read(TABLE)
    table = json.loads(data, parse_float=str, parse_int=str)
    models = {key: trimmed(entry) for key, entry in table.items() if key not in NOT_MODELS}
    old_meta, old = load("prices.json.gz")
    if len(models) < 0.9 * len(old):
        parser.error(f"the table shrank from {len(old)} to {len(models)} models; not written")
    for line in moved(old, models):
        print("moved more than fivefold:", line, file=sys.stderr)
    _, retired = load("retired.json.gz")
    if arguments.retired:
        retired |= json.loads(gzip.decompress(arguments.retired.read_bytes()))
        retired.pop("_meta", None)
    gone = {key: {**entry, "_last_seen": old_meta["version"]} for key, entry in old.items() if key not in models}
    retired = {key: entry for key, entry in {**retired, **gone}.items() if key not in models}
    first_seen = {key: entry.get("_first_seen") or old_meta.get("version") for key, entry in old.items()}
    for key, entry in models.items():
        if first_seen.get(key):
            entry["_first_seen"] = first_seen[key]
    meta = {"version": version, "date": arguments.date.isoformat(), "sha256": hashlib.sha256(data).hexdigest()}
    write("prices.json.gz", {**meta, "license": "MIT, litellm"}, models)
    write("retired.json.gz", {"version": f"absent from {version}", "license": "MIT, litellm"}, retired)
    return 0


if __name__ == "__main__":
    sys.exit(main())
