"""Budgets as documents: TOML that an operator writes, JSON that `spanledger budget publish` puts into Redis.

    # limits.toml, named by SPANLEDGER_LIMITS; the same as JSON is what `spanledger budget publish` puts into Redis
    enforce = true            # every call of the SDKs asks by itself; default: only your code

    [[budget]]
    name = "a user's hour"
    per = "user"              # each user has one; or  scope = { feature = "summarize" }  for one of them all
    window = "hour"           # hour, day, month
    amount_usd = 1
    zone = "Europe/Berlin"    # default: UTC
    action = "block"          # warn (default): tell of the thresholds; downgrade: ask a cheaper model; block: refuse
    at = 0.95                 # the share of the amount from which it acts; default: 0.95 to downgrade, 1 to block
    thresholds = [0.8, 1.0]   # default: 0.8, 0.9, 0.95, 1.0
    fail_closed = true        # default: where the store does not answer, the call passes

    [features.summarize]      # or features."*": every feature that is not named
    downgrade = { "gpt-5.4" = "gpt-5.4-mini" }
    pinned = true             # never another model
    critical = true           # never another model, and never refused
    max_output_tokens = 500   # and max_input_tokens

    [request]
    max_input_tokens = 32000
    max_output_tokens = 4096
    assumed_output_tokens = 4096   # of a call that sets no maximum

Dimensions are those of attribution: tenant, tier, feature, user.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from spanledger.limits.periods import WINDOWS
from spanledger.limits.policy import ACTIONS, DIMENSIONS, WARN, Budget, Policy, Rule, in_order
from spanledger.runtime.untrusted_json import Json, items, mapping


class PolicyError(Exception):
    """A budget makes no sense; the message names the place and what is wanted."""


def load(path: str) -> Policy:
    """The policy of a TOML file.

    Raises:
        PolicyError: it cannot be read, or something in it is no budget.
    """
    import tomllib  # not needed where there are no limits

    try:
        with open(os.path.expanduser(path), "rb") as file:
            found = tomllib.load(file, parse_float=Decimal)
    except OSError as error:
        raise PolicyError(f"SPANLEDGER_LIMITS={path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, no UTF-8, or nested without end
        raise PolicyError(f"{path} is not valid TOML: {error}") from error
    return policy(found, path)


def published(text: str) -> Policy:
    """The policy of a published JSON document ("" is an empty one); raises as `load` does."""
    if not text:
        return Policy()
    try:
        found: object = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise PolicyError("the published budgets are no JSON") from error
    if not isinstance(found, dict):
        raise PolicyError("the published budgets are no JSON object")
    return policy(cast("Json", found), "the published budgets")


def policy(found: Json, path: str = "limits") -> Policy:
    """The policy that a parsed document describes; raises as `load` does."""
    unknown = found.keys() - {"budget", "features", "request", "enforce"}
    if unknown:
        raise PolicyError(
            f"{path}: {min(unknown)!r} is not known: use enforce, [[budget]], [features.NAME] and [request]"
        )
    enforce = _flag(found, "enforce", path)
    if not isinstance(found.get("budget", []), list):
        raise PolicyError(f"{path}: a budget begins with [[budget]], in double brackets")
    budgets = [budget(cast("Json", each), f"{path}, budget {n}") for n, each in enumerate(items(found, "budget"), 1)]
    names = [each.name for each in budgets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PolicyError(f"{path}: two budgets are named {twice!r}")
    caps = _table(found, "request", path)
    _known(caps, {"max_input_tokens", "max_output_tokens", "assumed_output_tokens"}, f"{path}, request")
    features = {name: rule(each, f"{path}, feature {name!r}") for name, each in _table(found, "features", path).items()}
    return Policy(
        in_order(budgets),
        _cap(caps, "max_input_tokens", path),
        _cap(caps, "max_output_tokens", path),
        _cap(caps, "assumed_output_tokens", path) or Policy.assumed_output_tokens,
        enforce,
        features,
    )


def budget(each: Json, where: str) -> Budget:
    """One budget.

    Args:
        each: its table.
        where: what messages call it.

    Raises:
        PolicyError: something in it makes no sense.
    """
    if not isinstance(cast("object", each), dict):
        raise PolicyError(f"{where} is no table")
    _known(
        each,
        {"name", "window", "amount_usd", "scope", "per", "zone", "fail_closed", "action", "thresholds", "at"},
        where,
    )
    name, window, per = each.get("name"), each.get("window"), each.get("per", "")
    if not isinstance(name, str) or not name.strip():
        raise PolicyError(f"{where} has no name")
    if any(not _is_text(text) for text in (name, *mapping(each, "scope").values())):
        raise PolicyError(f"{where}: its name and scope are not all UTF-8 text")
    if window not in WINDOWS:
        raise PolicyError(f"{where}: window = {window!r}; use {', '.join(WINDOWS)}")
    if per and per not in DIMENSIONS:
        raise PolicyError(f"{where}: per = {per!r}; use {', '.join(DIMENSIONS)}")
    action = each.get("action", WARN)
    if action not in ACTIONS:
        raise PolicyError(f"{where}: action = {action!r}; use {', '.join(ACTIONS)}")
    return Budget(
        name,
        str(window),
        _picousd(each.get("amount_usd"), where),
        _scope(each, where),
        str(per),
        _zone(each.get("zone"), where),
        _flag(each, "fail_closed", where),
        str(action),
        _thresholds(each, where),
        _share(each["at"], f"{where}: at") if "at" in each else None,
    )


def rule(each: object, where: str) -> Rule:
    """What holds for a feature; arguments and errors as of `budget`."""
    if not isinstance(each, dict):
        raise PolicyError(f"{where} is no table")
    found = cast("Json", each)
    _known(found, {"downgrade", "pinned", "critical", "max_input_tokens", "max_output_tokens"}, where)
    models = _table(found, "downgrade", where)
    if not all(isinstance(model, str) and model for model in models.values()):
        raise PolicyError(f'{where}: downgrade is a table of models, e.g. {{ "gpt-5.4" = "gpt-5.4-mini" }}')
    return Rule(
        {model: str(other) for model, other in models.items()},
        _flag(found, "pinned", where),
        _flag(found, "critical", where),
        _cap(found, "max_input_tokens", where),
        _cap(found, "max_output_tokens", where),
    )


def _known(found: Json, keys: set[str], where: str) -> None:
    unknown = found.keys() - keys
    if unknown:
        raise PolicyError(f"{where}: {min(unknown)!r} is not known; use {', '.join(sorted(keys))}")


def _table(found: Json, key: str, where: str) -> Json:
    if not isinstance(found.get(key, {}), dict):
        raise PolicyError(f"{where}: {key} is no table")
    return mapping(found, key)


def _flag(found: Json, key: str, where: str) -> bool:
    value = found.get(key, False)
    if not isinstance(value, bool):
        raise PolicyError(f"{where}: {key} is true or false")
    return value


def _scope(each: Json, where: str) -> dict[str, str]:
    scope = mapping(each, "scope")
    wrong = next((key for key, value in scope.items() if key not in DIMENSIONS or not isinstance(value, str)), None)
    if wrong is not None or ("scope" in each and not scope):
        raise PolicyError(f"{where}: scope is a table of {', '.join(DIMENSIONS)}, each a text")
    return {key: str(value) for key, value in scope.items()}


def _thresholds(each: Json, where: str) -> tuple[float, ...]:
    found = each.get("thresholds", Budget.thresholds)
    if not isinstance(found, list | tuple):
        raise PolicyError(f"{where}: thresholds = {found!r}; use shares such as [0.8, 1.0]")
    return tuple(sorted({float(_share(value, f"{where}: thresholds")) for value in cast("list[object]", found)}))


def _share(value: object, where: str) -> Decimal:
    number = not isinstance(value, bool) and isinstance(value, int | float | Decimal)
    share = Decimal(str(value)) if number else Decimal(0)
    if not share.is_finite() or not Decimal("0.000001") <= share <= 10:
        raise PolicyError(f"{where} = {value!r}; use shares such as 0.8 or 1")
    return share


def _picousd(value: Any, where: str) -> int:
    try:
        amount = Decimal(str(value)) if not isinstance(value, bool) else Decimal(0)
    except InvalidOperation:
        amount = Decimal(0)
    if not amount.is_finite() or not Decimal("0.000001") <= amount < 10**6:
        raise PolicyError(f"{where}: amount_usd = {value}; use dollars from 0.000001 and below a million")
    if amount != round(amount, 6):
        raise PolicyError(f"{where}: amount_usd = {value} has more than six decimal places")
    return int(amount.scaleb(12))


def _is_text(value: object) -> bool:
    """Whether a text can be kept: not one out of bytes that are no UTF-8."""
    return not isinstance(value, str) or value.encode("utf-8", "replace").decode() == value


def _zone(value: Any, where: str) -> tzinfo:
    if value is None or value == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        found = ZoneInfo(str(value))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        found = None
    if found is None or str(found) == "localtime":  # that is another one on each machine
        raise PolicyError(f"{where}: zone = {value!r} is no time zone; use e.g. Europe/Berlin")
    return found


def _cap(caps: Json, name: str, where: str) -> int | None:
    value = caps.get(name)
    if value is not None and (type(value) is not int or value <= 0):
        raise PolicyError(f"{where}: {name} = {value!r}; use a number of tokens")
    return value
