"""Build the bundled price snapshot from litellm wheels, which are read as archives and never installed.

    python tools/build_prices.py --download 1.109.1
    python tools/build_prices.py litellm-1.105.0-….whl litellm-1.109.1-….whl     (oldest first)

Keeps cost fields only. Refuses a table that shrank by more than a tenth, reports rates that moved more
than fivefold, and moves keys that disappeared to the retired prices with the version that had them last.
A rate that changed is kept in the entry's `_history` with the day of the release that changed it, so that
a call of an earlier day is priced as it was then. `_first_seen` and `_last_seen` name releases; their
dates stand in `_meta.releases`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DATA = ROOT / "instrumentation/spanledger/pricing/data"
LOCK = ROOT / "requirements/litellm.lock"
TOOLS = ROOT / ".tools"
TABLE = "litellm/model_prices_and_context_window_backup.json"
DENIED = ("1.82.7", "1.82.8", "1.107.")
KEPT = re.compile(
    r"cost|pricing|multiplier|billing_unit|^(litellm_provider|mode|deprecation_date|provider_specific_entry)$"
)
NOT_RATES = {"mode", "deprecation_date"}
"""Fields whose change is no change of price."""
NOT_MODELS = {"sample_spec", "fallback_generalizations", "aliases"}

Entry = dict[str, Any]
Models = dict[str, Entry]


class RefusedError(Exception):
    """A table that must not become the snapshot."""


def trimmed(entry: Entry) -> Entry:
    """The fields that decide a price; numbers stay text as the table wrote them."""
    return {name: value for name, value in sorted(entry.items()) if KEPT.search(name)}


def rates(entry: Entry) -> Entry:
    return {name: value for name, value in entry.items() if not name.startswith("_") and name not in NOT_RATES}


def changes(former: Entry, entry: Entry) -> Entry:
    """Fields of a former entry that the new one has with another value, within objects as well."""
    changed: Entry = {}
    for name, value in former.items():
        later = entry.get(name, value)
        if isinstance(value, dict) and isinstance(later, dict):
            inner = changes(value, later)
            if inner:
                changed[name] = inner
        elif value != later:
            changed[name] = value
    return changed


def moved(old: Models, new: Models) -> list[str]:
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


def succeed(old: Models, new: Models, old_version: str, version: str, day: date) -> Models:
    """The entries of `new`, with what `old` knew of their past."""
    for key, entry in new.items():
        former = old.get(key)
        if former is None:
            entry["_first_seen"] = version
            continue
        entry["_first_seen"] = former.get("_first_seen", old_version)
        # A field that a release adds is the table learning more, not a price that changed.
        changed = changes(rates(former), entry)
        history = [{**changed, **state} for state in former.get("_history", [])]
        if changed:
            history.append({"_until": day.isoformat(), **changed})
        if history:
            entry["_history"] = history
    return new


class Snapshot:
    """The live and the retired prices, release by release."""

    def __init__(self, live: tuple[Entry, Models], retired: tuple[Entry, Models]) -> None:
        self.meta, self.models = live
        self.retired = retired[1]

    def take(self, version: str, day: date, data: bytes, *, shrink: bool = False) -> None:
        """Make a release's table the live one.

        Raises:
            RefusedError: it is a compromised release's, or it shrank by more than a tenth.
        """
        if version.startswith(DENIED):
            raise RefusedError(f"litellm {version} is a compromised release; its table is not used")
        table = json.loads(data, parse_float=str, parse_int=str)
        models = {key: trimmed(entry) for key, entry in table.items() if key not in NOT_MODELS}
        if len(models) < 0.9 * len(self.models) and not shrink:
            raise RefusedError(
                f"the table shrank from {len(self.models)} to {len(models)} models (--shrink to take it)"
            )
        for line in moved(self.models, models):
            print("moved more than fivefold:", line, file=sys.stderr)
        before = self.meta.get("version", version)
        gone = {key: {**e, "_last_seen": before} for key, e in self.models.items() if key not in models}
        self.retired = {key: e for key, e in {**self.retired, **gone}.items() if key not in models}
        self.models = succeed(self.models, models, before, version, day)
        self.meta = {
            "version": version,
            "date": day.isoformat(),
            "sha256": hashlib.sha256(data).hexdigest(),
            "license": "MIT, litellm",
            "releases": {**self.meta.get("releases", {}), version: day.isoformat()},
        }

    def write(self, directory: Path) -> None:
        retired = {"version": f"absent from {self.meta['version']}", "license": "MIT, litellm"}
        for name, meta, models in (("prices", self.meta, self.models), ("retired", retired, self.retired)):
            text = json.dumps({"_meta": meta, **dict(sorted(models.items()))}, separators=(",", ":"), ensure_ascii=True)
            path = directory / f"{name}.json.gz"
            path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
            print(f"{path.name}: {len(models)} models, {path.stat().st_size / 1024:.0f} KiB")


def load(path: Path) -> tuple[Entry, Models]:
    if not path.exists():
        return {}, {}
    found = json.loads(gzip.decompress(path.read_bytes()))
    return found.pop("_meta", {}), found


def released(wheel: zipfile.ZipFile) -> date | None:
    """When a wheel was built, from its bill of materials or its files' times; None where neither says."""
    for name in wheel.namelist():
        if "/sboms/" in name:
            stamp = json.loads(wheel.read(name)).get("metadata", {}).get("timestamp", "")
            return date.fromisoformat(stamp[:10])
    year, month, day = wheel.getinfo(TABLE).date_time[:3]
    return date(year, month, day) if year > 2020 else None


def download(version: str) -> Path:
    """Fetch a wheel whose hash the index states, and record that hash in `requirements/litellm.lock`."""
    if version.startswith(DENIED):
        raise RefusedError(f"litellm {version} is a compromised release; it is not downloaded")
    lock = ["pip", "compile", "-", "--no-deps", "--generate-hashes", "--no-header", "--no-annotate"]
    subprocess.run(
        [TOOLS / "bin/uv", *lock, "--quiet", "--no-emit-index-url", "--output-file", LOCK],
        input=f"litellm=={version}\n",
        text=True,
        check=True,
    )
    target = TOOLS / "litellm"
    fetch = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", target]
    subprocess.run([TOOLS / "bin/python", "-m", "pip", *fetch, "--requirement", LOCK], check=True)
    return next(target.glob(f"litellm-{version}-*.whl"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="*", type=Path, help="litellm wheels, oldest first")
    parser.add_argument("--download", metavar="VERSION", help="fetch this release's wheel, checked against its hash")
    parser.add_argument(
        "--date", type=date.fromisoformat, help="when the table was current, where the wheel has no date"
    )
    parser.add_argument("--shrink", action="store_true", help="accept a table that shrank by more than a tenth")
    parser.add_argument("--fresh", action="store_true", help="start from nothing instead of the present snapshot")
    arguments = parser.parse_args()
    live = ({}, {}) if arguments.fresh else load(DATA / "prices.json.gz")
    snapshot = Snapshot(live, load(DATA / "retired.json.gz"))
    try:
        wheels = [*arguments.wheels, *([download(arguments.download)] if arguments.download else [])]
        if not wheels:
            parser.error("name a wheel, or --download VERSION")
        for path in wheels:
            with zipfile.ZipFile(path) as wheel:
                day = released(wheel) or arguments.date or date.today()
                snapshot.take(path.name.split("-")[1], day, wheel.read(TABLE), shrink=arguments.shrink)
    except RefusedError as refusal:
        parser.error(str(refusal))
    DATA.mkdir(parents=True, exist_ok=True)
    snapshot.write(DATA)
    return 0


if __name__ == "__main__":
    sys.exit(main())
