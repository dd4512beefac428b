"""Loads the price table: source, version and age of the prices in force.

Precedence: the user's own rates (SPANLEDGER_PRICE_OVERRIDES) > `SPANLEDGER_PRICES_FILE` (a LiteLLM table as .json, or a litellm wheel, read as a zip
archive; none of its code is executed) > an installed litellm newer than the bundled snapshot > the
bundled snapshot; and for models that LiteLLM has dropped, the retired prices. Whichever it is, the former prices of the bundled
history stand behind it (a price has two times: since when it holds, and since when it is known), and `data/corrections.toml` before
it. An installed litellm is
found by its metadata and read from its files, never imported: importing it takes seconds and fetches
a table over the network. Its compromised releases are refused.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property, lru_cache
from importlib import metadata, resources
from io import BytesIO
from pathlib import Path
from typing import Final, cast

from spanledger.pricing.rates import Entry, attousd, compile_entry
from spanledger.runtime import notices, settings
from spanledger.runtime.guard import log
from spanledger.runtime.untrusted_json import Json, get_path, items, label, mapping

TABLE_IN_WHEEL: Final = "litellm/model_prices_and_context_window_backup.json"
COMPROMISED_RELEASES: Final = ("1.82.7", "1.82.8", "1.107.")
"""Releases of litellm that carried a payload (2026-03-24 and 1.107); their files are not even read."""
MAX_TABLE_BYTES: Final = 64 << 20
"""A table has 2 MB (litellm 1.110), a wheel 20 MB."""
MAX_NUMBER_CHARACTERS: Final = 40
MAX_EXPONENT: Final = 30

SELF_HOSTED_PROVIDERS: Final = frozenset({"ollama", "ollama_chat", "lemonade", "hosted_vllm", "vllm", "lm_studio"})
"""`litellm_provider` of self-hosted model servers: their model names are not vendor names."""
SPEECH_AND_SEARCH: Final = frozenset(
    {"audio_transcription", "audio_speech", "evaluation", "guardrail", "image_edit", "ocr", "search", "vector_store"}
)
"""`mode` of entries whose keys end in generic words ("base", "best")."""
GENERIC_NAMES: Final = frozenset(
    [
        "auto",
        "chat",
        "classify",
        "community",
        "compress",
        "container",
        "creative",
        "decisions",
        "default",
        "dev",
        "edit",
        "embeddings",
        "extract",
        "fast",
        "free",
        "latest",
        "models/",
        "preview",
        "query",
        "router",
        "standard",
        "style",
        "summarize",
        "ultra",
        "3.2",
    ]
)
"""Key suffixes that are also plausible names of self-hosted models."""
BEDROCK_VERSION: Final = re.compile(r"(?:-v\d+)?(?::\d+\w*)*$")


@dataclass(eq=False)
class Table:
    """Prices from one source."""

    source: str
    """file | litellm | bundled | retired."""
    version: str
    """The litellm release, or the file's name."""
    sha256: str
    """Of the table as LiteLLM published it."""
    dated: date | None
    """Publication date of this version, if known."""
    origin: str
    """The file it was read from."""
    models: dict[str, Json]
    past: Table | None = None
    """The bundled snapshot, where this is another table: its history, and its own prices if this is newer."""
    corrections: Corrections | None = None
    _entries: dict[str, Entry | None] = field(default_factory=dict[str, "Entry | None"])

    def entry(self, key: str) -> Entry | None:
        """The compiled entry of `key`, or None."""
        try:
            return self._entries[key]
        except KeyError:
            raw_entry = self.raw(key)
            entry = self._entries[key] = compile_entry(key, raw_entry) if raw_entry is not None else None
            return entry

    def raw(self, key: str) -> Json | None:
        """The entry of `key` as it counts: with its former prices, and corrected."""
        entry = self.models.get(key)
        if entry is None:
            return None
        former = self.past.models.get(key) if self.past is not None else None
        if former is not None and self.past is not None:
            # A file says nothing of when its prices began to hold: what is other than in the snapshot holds since that.
            day = self.dated if self.is_newer_than(self.past) else None if self.dated else self.past.dated
            entry = _with_history(entry, former, day)
        return entry if self.corrections is None else self.corrections.corrected(key, entry)

    def is_newer_than(self, other: Table) -> bool:
        """Whether it was published later; of tables without a version, by their day."""
        own, others = _version_key(self.version), _version_key(other.version)
        if own and others:
            return own > others
        return self.dated is not None and other.dated is not None and self.dated > other.dated

    @cached_property
    def folded(self) -> dict[str, str]:
        """Keys by their lower-case spelling."""
        return {key.lower(): key for key in self.models}


def _with_history(entry: Json, former: Json, day: date | None) -> Json:
    """An entry with the history that the bundled snapshot has of it, and with that snapshot's own price until `day`."""
    changed = {} if day is None else _changes(former, entry)
    history: list[object] = [{**changed, **mapping(state)} for state in items(former, "_history")]
    if changed and day is not None:
        history.append({"_until": day.isoformat(), **changed})
    return {**entry, "_history": history} if history else entry


NO_RATES: Final = frozenset({"mode", "deprecation_date"})


def _changes(former: Json, entry: Json) -> Json:
    """The fields of a former entry that a later one has with another value; what the later one adds was not known before."""
    changed: Json = {}
    for name, value in former.items():
        later = entry.get(name, value)
        if name.startswith("_") or name in NO_RATES or later == value or attousd(later) == attousd(value) is not None:
            continue
        if isinstance(value, dict) and isinstance(later, dict):
            inner = _changes(cast("Json", value), cast("Json", later))
            if inner:
                changed[name] = inner
        else:
            changed[name] = value
    return changed


@dataclass(frozen=True)
class Corrections:
    """`data/corrections.toml`: what is wrong in LiteLLM's table now, and what was when it was published."""

    prices: dict[str, list[tuple[Json, Json]]]
    """Key -> (values that are known to be wrong, the right ones)."""
    published: dict[str, list[tuple[str, frozenset[str]]]]
    """Key -> (the day until which it was published, the fields that were wrong)."""

    def corrected(self, key: str, entry: Json) -> Json:
        for wrong, right in self.prices.get(key, ()):
            if all(_is_equal(entry.get(name), value) for name, value in wrong.items()):
                entry = {name: value for name, value in {**entry, **right}.items() if value != ""}
        for until, names in self.published.get(key, ()):
            history: list[object] = [
                {
                    n: v
                    for n, v in mapping(state).items()
                    if n not in names or str(mapping(state).get("_until", "")) > until
                }
                for state in items(entry, "_history")
            ]
            entry = {**entry, "_history": history}
        return entry


def _is_equal(value: object, text: object) -> bool:
    return value is None if text == "" else attousd(value) == attousd(text) is not None


@lru_cache(maxsize=1)
def corrections() -> Corrections:
    """The corrections that ship with Spanledger."""
    file = resources.files("spanledger.pricing") / "data" / "corrections.toml"
    document = mapping(tomllib.loads(file.read_text(encoding="utf-8")))
    prices: dict[str, list[tuple[Json, Json]]] = {}
    published: dict[str, list[tuple[str, frozenset[str]]]] = {}
    for each in items(document, "price"):
        for key in items(each, "keys"):
            prices.setdefault(str(key), []).append((mapping(each, "was"), mapping(each, "set")))
    for each in items(document, "published"):
        until, names = str(get_path(each, "until")), frozenset(str(name) for name in items(each, "fields"))
        for key in items(each, "keys"):
            published.setdefault(str(key), []).append((until, names))
    return Corrections(prices, published)


def _numbers_as_text(data: bytes) -> Json:
    """Parse a table; numbers stay text, so that no price passes through a float.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has a number that is no price and no limit of a model.
    """
    try:
        return mapping(json.loads(data, parse_float=_number, parse_int=_number, parse_constant=_number))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _number(text: str) -> str:
    """A number of a table, as it is written."""
    _, _, exponent = text.lower().partition("e")
    if len(text) > MAX_NUMBER_CHARACTERS or text[-1] in "yN" or (exponent and abs(int(exponent)) > MAX_EXPONENT):
        raise ValueError(f"it has a number that is no price: {text[:20]}")
    return text


def _read_bytes(path: Path) -> bytes:
    """The content of a regular file of plausible size; raises OSError or ValueError."""
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file" if path.exists() else f"{path} does not exist")
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise ValueError(f"{path} is larger than {MAX_TABLE_BYTES >> 20} MB")
    return path.read_bytes()


def _models(raw_table: Json) -> dict[str, Json]:
    return {
        key: cast("Json", value) for key, value in raw_table.items() if isinstance(value, dict) and key != "sample_spec"
    }


def bundled() -> Table:
    """The snapshot that ships with Spanledger."""
    return _read_packaged("bundled", "prices.json.gz")


def retired() -> Table:
    """Prices of models that LiteLLM no longer lists, as it last listed them."""
    return _read_packaged("retired", "retired.json.gz")


def _read_packaged(source: str, name: str) -> Table:
    file = resources.files("spanledger.pricing") / "data" / name
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        notices.add(
            f"{file} is not part of this build: calls are recorded without a price, and `spanledger reprice` prices them "
            "later. A tool that freezes applications must collect the data files of spanledger"
        )
        raise
    document = mapping(json.loads(gzip.decompress(content)))
    meta = mapping(document.pop("_meta", None))
    day = label(meta, "date")
    return Table(
        source,
        label(meta, "version") or "",
        label(meta, "sha256") or "",
        date.fromisoformat(day) if day else None,
        name,
        cast("dict[str, Json]", document),
    )


def from_file(path: Path) -> Table:
    """A LiteLLM table, or the one inside a litellm wheel.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a LiteLLM price table, or it is a wheel of a compromised release.
    """
    if path.suffix == ".whl":
        version = path.stem.split("-")[1] if "-" in path.stem else ""
        if version.startswith(COMPROMISED_RELEASES):
            raise ValueError(f"litellm {version} is a compromised release; its files are not read")
        try:
            with zipfile.ZipFile(BytesIO(_read_bytes(path))) as wheel:
                if wheel.getinfo(TABLE_IN_WHEEL).file_size > MAX_TABLE_BYTES:
                    raise ValueError(f"the table in {path} is larger than {MAX_TABLE_BYTES >> 20} MB")
                data = wheel.read(TABLE_IN_WHEEL)
                built = _built(wheel)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"{path} does not contain {TABLE_IN_WHEEL}") from error
        except (RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked: {error}") from error
        return _read("file", f"litellm {version}", path, data, built)
    return _read("file", path.name, path, _read_bytes(path), None)


def _built(wheel: zipfile.ZipFile) -> date | None:
    """When a wheel was built, by its files' times; None where they are those of a reproducible build."""
    year, month, day = wheel.getinfo(TABLE_IN_WHEEL).date_time[:3]
    return date(year, month, day) if year > 2020 else None


def _read(source: str, version: str, path: Path, data: bytes, dated: date | None) -> Table:
    models = _models(_numbers_as_text(data))
    if not any("input_cost_per_token" in entry for entry in models.values()):
        raise ValueError(f"{path} is not a LiteLLM price table: no entry has input_cost_per_token")
    return Table(source, version, hashlib.sha256(data).hexdigest(), dated, str(path), models)


def installed(newer_than: str) -> Table | None:
    """The table of an installed litellm, if it is newer and not a compromised release."""
    try:
        distribution = metadata.distribution("litellm")
    except metadata.PackageNotFoundError:
        return None
    version = distribution.version
    if version.startswith(COMPROMISED_RELEASES):
        log.error(
            "litellm %s is installed and is a compromised release. Uninstall it; its prices are not used.", version
        )
        return None
    if _version_key(version) <= _version_key(newer_than):
        return None
    path = Path(str(distribution.locate_file(TABLE_IN_WHEEL)))
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
    return _read("litellm", version, path, _read_bytes(path), changed)


def _version_key(version: str) -> tuple[int, ...]:
    """Of a release of litellm; () of a file, whose name can have numbers, too."""
    release = RELEASE.fullmatch(version)
    return tuple(int(part) for part in release[1].split(".") if part.isdigit()) if release else ()


RELEASE: Final = re.compile(r"(?:litellm )?(\d+(?:\.\w+)+)")


@dataclass(frozen=True, eq=False)
class Overrides:
    """The user's own rates and names (`SPANLEDGER_PRICE_OVERRIDES`, a TOML file; docs/pricing.md)."""

    table: Table
    aliases: dict[str, str]
    """Deployment, ARN, tuned model or proxy name -> model name or key of the table."""
    unknown_sections: tuple[str, ...] = ()
    """Sections of the file that mean nothing."""
    problem: str = ""
    """Why the file is not used."""


NO_OVERRIDES: Final = Overrides(Table("override", "", "", None, "", {}), {})


def read_overrides() -> Overrides:
    """Read the file that `SPANLEDGER_PRICE_OVERRIDES` names; errors are logged, not raised."""
    configured = settings.setting("price_overrides")
    if not configured:
        return NO_OVERRIDES
    path = Path(configured).expanduser()
    try:
        data = _read_bytes(path)
        document = mapping(tomllib.loads(data.decode(), parse_float=_number))
    except (OSError, ValueError, RecursionError) as error:
        problem = f"cannot use SPANLEDGER_PRICE_OVERRIDES={path}: {error}"
        log.error("%s. It is ignored.", problem)
        return replace(NO_OVERRIDES, problem=problem)
    digest = hashlib.sha256(data).hexdigest()
    models = {key: mapping(value) for key, value in mapping(document, "models").items()}
    table = Table("override", digest[:12], digest, None, str(path), models)
    aliases = {name: str(model) for name, model in mapping(document, "aliases").items()}
    return Overrides(table, aliases, tuple(sorted(document.keys() - {"models", "aliases"})))


@dataclass(frozen=True, eq=False)
class Prices:
    """The table in force and the retired one behind it."""

    live: Table
    retired: Table
    overrides: Overrides
    problems: tuple[str, ...] = ()
    """Sources of prices that are configured, or there, and cannot be used."""

    @property
    def tables(self) -> tuple[Table, ...]:
        """In lookup order."""
        return (
            (self.overrides.table, self.live, self.retired)
            if self.overrides.table.models
            else (self.live, self.retired)
        )

    @cached_property
    def vendor_names(self) -> frozenset[str]:
        """Lower-case names of vendors' models: every key and its suffixes after a slash, Bedrock's also without region,
        vendor and version. Keys of self-hosted model servers are left out."""
        names: set[str] = set()
        for table in (self.live, self.retired):
            for key, entry in table.models.items():
                owner = str(entry.get("litellm_provider"))
                if owner in SELF_HOSTED_PROVIDERS or entry.get("mode") in SPEECH_AND_SEARCH:
                    continue
                lower = key.lower()
                names.update(suffixes(lower))
                if owner.startswith("bedrock"):
                    names.update(suffixes(BEDROCK_VERSION.sub("", lower.rpartition("/")[2]), "."))
        return frozenset(names - GENERIC_NAMES)


def suffixes(name: str, separator: str = "/") -> Iterator[str]:
    """`name`, and what follows each separator in it: "a/b/c", "b/c", "c"."""
    while name:
        yield name
        _, _, name = name.partition(separator)


def load() -> Prices:
    """Load the table in force; a source that cannot be read is logged, and the next one is used."""
    snapshot = bundled()
    overrides = read_overrides()
    problems = [overrides.problem] if overrides.problem else []
    configured = settings.setting("prices_file")
    candidates: list[tuple[str, Callable[[], Table | None]]] = []
    if configured:
        candidates.append((configured, lambda: from_file(Path(configured).expanduser())))
    candidates.append(("the installed litellm", lambda: installed(snapshot.version)))
    for name, read in candidates:
        try:
            table = read()
        except (OSError, ValueError) as error:
            problems.append(f"cannot use the prices of {name}: {error}")
            log.error("%s. The next price source is used.", problems[-1])
            continue
        if table is not None and table.version.startswith("litellm ") and snapshot.is_newer_than(table):
            notices.add(
                f"SPANLEDGER_PRICES_FILE: {table.version} is older than the bundled prices ({snapshot.version}), which are used. "
                "To price by a table of another day, `spanledger prices diff` shows what differs"
            )
        elif table is not None:
            table.past, table.corrections = snapshot, corrections()
            return Prices(table, retired(), overrides, tuple(problems))
    snapshot.corrections = corrections()
    return Prices(snapshot, retired(), overrides, tuple(problems))


_prices: Prices | None = None


def prices() -> Prices:
    """The prices in force, loaded at the first call (which `bootstrap` makes in a background thread).

    Concurrent first calls may both load; the results are equal.
    """
    global _prices
    if _prices is None:
        _prices = load()
    return _prices
