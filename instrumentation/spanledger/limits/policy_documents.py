"""Parses and validates policy documents: TOML files, and the JSON that `spanledger budget publish` writes to Redis.

    # limits.toml, named by SPANLEDGER_LIMITS; the published JSON has the same schema
    enforce = true            # authorize every SDK call; default: only where your code asks

    [[budget]]
    name = "a user's hour"
    per = "user"              # one budget per user; or  scope = { feature = "summarize" }  for a shared one
    window = "hour"           # hour, day, month
    amount_usd = 1
    zone = "Europe/Berlin"    # default: UTC
    action = "block"          # warn (default): alert only; downgrade: use a cheaper model; block: refuse
    at = 0.95                 # share of the amount at which the action starts; default: downgrade 0.95, block 1
    thresholds = [0.8, 1.0]   # default: 0.8, 0.9, 0.95, 1.0
    fail_closed = true        # default: if the store does not respond, the call is allowed

    [features.summarize]      # or features."*": every feature without its own table
    downgrade = { "gpt-5.4" = "gpt-5.4-mini" }
    pinned = true             # never downgraded
    critical = true           # never downgraded, never refused
    max_output_tokens = 500   # and max_input_tokens, max_stream_seconds

    [request]
    max_input_tokens = 32000
    max_output_tokens = 4096
    assumed_output_tokens = 4096   # for a call that sets no maximum
    max_stream_seconds = 300       # a stream that takes longer is closed

The dimensions are `LimitDimensions` of `semconv/dimensions.py`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import UTC, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from spanledger.limits.periods import WINDOWS
from spanledger.limits.policy import ACTIONS, WARN, Budget, Policy, Rule, sorted_by_window
from spanledger.runtime.untrusted_json import Json, items, mapping
from spanledger.semconv.dimensions import LIMIT_DIMENSIONS


class PolicyError(Exception):
    """A policy document is invalid; the message names the location and the expected form."""


def load(path: str) -> Policy:
    """Load a policy from a TOML file.

    Raises:
        PolicyError: the file cannot be read or is invalid.
    """
    import tomllib  # not needed without limits

    try:
        with open(os.path.expanduser(path), "rb") as file:
            document = tomllib.load(file, parse_float=Decimal)
    except OSError as error:
        raise PolicyError(f"SPANLEDGER_LIMITS={path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, not UTF-8, or nested too deeply
        raise PolicyError(f"{path} is not valid TOML: {error}") from error
    return policy_from_document(document, path)


def policy_from_json(text: str) -> Policy:
    """Parse a published JSON document ("": an empty policy). Raises as `load` does."""
    if not text:
        return Policy()
    try:
        document: object = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise PolicyError("the published budgets are not valid JSON") from error
    if not isinstance(document, dict):
        raise PolicyError("the published budgets are not a JSON object")
    return policy_from_document(cast("Json", document), "the published budgets")


def policy_from_document(document: Json, path: str = "limits") -> Policy:
    """Build a policy from a parsed document. Raises as `load` does."""
    unknown = document.keys() - {"budget", "features", "request", "enforce"}
    if unknown:
        raise PolicyError(
            f"{path}: {min(unknown)!r} is not a valid key; use enforce, [[budget]], [features.NAME] and [request]"
        )
    enforce = _flag(document, "enforce", path)
    if not isinstance(document.get("budget", []), list):
        raise PolicyError(f"{path}: a budget table starts with [[budget]], in double brackets")
    budgets = [
        budget_from_table(cast("Json", budget_table), f"{path}, budget {n}")
        for n, budget_table in enumerate(items(document, "budget"), 1)
    ]
    names = Counter(parsed_budget.name for parsed_budget in budgets)
    duplicate = next((name for name, count in names.items() if count > 1), None)
    if duplicate is not None:
        raise PolicyError(f"{path}: duplicate budget name {duplicate!r}")
    caps = _table(document, "request", path)
    _reject_unknown_keys(
        caps,
        {"max_input_tokens", "max_output_tokens", "assumed_output_tokens", "max_stream_seconds"},
        f"{path}, request",
    )
    features = {
        name: rule_from_table(feature_table, f"{path}, feature {name!r}")
        for name, feature_table in _table(document, "features", path).items()
    }
    return Policy(
        sorted_by_window(budgets),
        _cap(caps, "max_input_tokens", path),
        _cap(caps, "max_output_tokens", path),
        _cap(caps, "assumed_output_tokens", path) or Policy.assumed_output_tokens,
        enforce,
        features,
        _cap(caps, "max_stream_seconds", path, "seconds"),
    )


def budget_from_table(table: Json, location: str) -> Budget:
    """Build a budget from its table.

    Args:
        table: the parsed table.
        location: its name in error messages.

    Raises:
        PolicyError: the table is invalid.
    """
    if not isinstance(cast("object", table), dict):
        raise PolicyError(f"{location} is no table")
    _reject_unknown_keys(
        table,
        {"name", "window", "amount_usd", "scope", "per", "zone", "fail_closed", "action", "thresholds", "at"},
        location,
    )
    name, window, per = table.get("name"), table.get("window"), table.get("per", "")
    if not isinstance(name, str) or not name.strip():
        raise PolicyError(f"{location} has no name")
    if any(not _is_text(text) for text in (name, *mapping(table, "scope").values())):
        raise PolicyError(f"{location}: name and scope must be valid UTF-8 text")
    if window not in WINDOWS:
        raise PolicyError(f"{location}: window = {window!r}; use {', '.join(WINDOWS)}")
    if per and per not in LIMIT_DIMENSIONS:
        raise PolicyError(f"{location}: per = {per!r}; use {', '.join(LIMIT_DIMENSIONS)}")
    action = table.get("action", WARN)
    if action not in ACTIONS:
        raise PolicyError(f"{location}: action = {action!r}; use {', '.join(ACTIONS)}")
    return Budget(
        name,
        str(window),
        _picousd(table.get("amount_usd"), location),
        _scope(table, location),
        str(per),
        _zone(table.get("zone"), location),
        _flag(table, "fail_closed", location),
        str(action),
        _thresholds(table, location),
        _share(table["at"], f"{location}: at") if "at" in table else None,
    )


def rule_from_table(entry: object, location: str) -> Rule:
    """Build the rule of a feature. Arguments and errors as for `budget_from_table`."""
    if not isinstance(entry, dict):
        raise PolicyError(f"{location} is no table")
    table = cast("Json", entry)
    _reject_unknown_keys(
        table,
        {"downgrade", "pinned", "critical", "max_input_tokens", "max_output_tokens", "max_stream_seconds"},
        location,
    )
    models = _table(table, "downgrade", location)
    if not all(isinstance(model, str) and model for model in models.values()):
        raise PolicyError(f'{location}: downgrade must be a table of models, e.g. {{ "gpt-5.4" = "gpt-5.4-mini" }}')
    return Rule(
        {model: str(other) for model, other in models.items()},
        _flag(table, "pinned", location),
        _flag(table, "critical", location),
        _cap(table, "max_input_tokens", location),
        _cap(table, "max_output_tokens", location),
        _cap(table, "max_stream_seconds", location, "seconds"),
    )


def _reject_unknown_keys(table: Json, keys: set[str], location: str) -> None:
    unknown = table.keys() - keys
    if unknown:
        raise PolicyError(f"{location}: {min(unknown)!r} is not a valid key; use {', '.join(sorted(keys))}")


def _table(table: Json, key: str, location: str) -> Json:
    if not isinstance(table.get(key, {}), dict):
        raise PolicyError(f"{location}: {key} is no table")
    return mapping(table, key)


def _flag(table: Json, key: str, location: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise PolicyError(f"{location}: {key} must be true or false")
    return value


def _scope(table: Json, location: str) -> dict[str, str]:
    scope = mapping(table, "scope")
    invalid_key = next(
        (key for key, value in scope.items() if key not in LIMIT_DIMENSIONS or not isinstance(value, str)), None
    )
    if invalid_key is not None or ("scope" in table and not scope):
        raise PolicyError(f"{location}: scope must be a table of {', '.join(LIMIT_DIMENSIONS)}, with text values")
    return {key: str(value) for key, value in scope.items()}


def _thresholds(table: Json, location: str) -> tuple[float, ...]:
    thresholds = table.get("thresholds", Budget.thresholds)
    if not isinstance(thresholds, list | tuple):
        raise PolicyError(f"{location}: thresholds = {thresholds!r}; use shares such as [0.8, 1.0]")
    return tuple(
        sorted({float(_share(value, f"{location}: thresholds")) for value in cast("list[object]", thresholds)})
    )


def _share(value: object, location: str) -> Decimal:
    number = not isinstance(value, bool) and isinstance(value, int | float | Decimal)
    share = Decimal(str(value)) if number else Decimal(0)
    if not share.is_finite() or not Decimal("0.000001") <= share <= 10:
        raise PolicyError(f"{location} = {value!r}; use shares such as 0.8 or 1")
    return share


def _picousd(value: Any, location: str) -> int:
    try:
        amount = Decimal(str(value)) if not isinstance(value, bool) else Decimal(0)
    except InvalidOperation:
        amount = Decimal(0)
    if not amount.is_finite() or not Decimal("0.000001") <= amount < 10**6:
        raise PolicyError(f"{location}: amount_usd = {value}; use dollars from 0.000001 and below a million")
    if amount != round(amount, 6):
        raise PolicyError(f"{location}: amount_usd = {value} has more than six decimal places")
    return int(amount.scaleb(12))


def _is_text(value: object) -> bool:
    """Whether a text can be stored: it has no lone surrogates (from bytes that are not UTF-8)."""
    return not isinstance(value, str) or value.encode("utf-8", "replace").decode() == value


def _zone(value: Any, location: str) -> tzinfo:
    if value is None or value == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        zone = ZoneInfo(str(value))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        zone = None
    if zone is None or str(zone) == "localtime":  # it differs per machine
        raise PolicyError(f"{location}: zone = {value!r} is not a valid time zone; use e.g. Europe/Berlin")
    return zone


def _cap(caps: Json, name: str, location: str, unit: str = "tokens") -> int | None:
    value = caps.get(name)
    if value is not None and (type(value) is not int or not 0 < value < 2**53):
        raise PolicyError(f"{location}: {name} = {value!r}; use a number of {unit}")
    return value
