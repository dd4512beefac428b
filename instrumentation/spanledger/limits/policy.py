"""Limits as data: what may be spent, on what, in which window; and what a single request may ask for.

    # limits.toml, named by SPANLEDGER_LIMITS
    enforce = true            # every call of the SDKs asks by itself; default: only your code

    [[limit]]
    name = "a user's hour"
    per = "user"              # each user has one; or  scope = { feature = "summarize" }  for one of them all
    window = "hour"           # hour, day, month
    amount_usd = 1
    zone = "Europe/Berlin"    # default: UTC
    action = "block"          # or "warn": tell of the thresholds, refuse nothing
    thresholds = [0.8, 1.0]   # default: 0.8, 0.9, 0.95, 1.0
    fail_closed = true        # default: where the store does not answer, the call passes

    [request]
    max_input_tokens = 32000
    max_output_tokens = 4096
    assumed_output_tokens = 4096   # of a call that sets no maximum

Dimensions are those of attribution: tenant, tier, feature, user.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any, Final, cast

from spanledger.limits.windows import WINDOWS
from spanledger.reading import Json, items, mapping

CAPS: Final = ("max_input_tokens", "max_output_tokens", "assumed_output_tokens")
DIMENSIONS: Final = ("tenant", "tier", "feature", "user")
BLOCK: Final = "block"
WARN: Final = "warn"


class PolicyError(Exception):
    """The file of limits makes no sense; the message names the place and what is wanted."""


@dataclass(frozen=True)
class Limit:
    """An amount that may be spent in each window."""

    name: str
    window: str
    amount_picousd: int
    scope: Mapping[str, str] = field(default_factory=dict[str, str])
    """Dimension -> the value that a request must have for the limit to count it; empty: every request."""
    per: str = ""
    """A dimension each of whose values has the amount for itself."""
    zone: tzinfo = UTC
    fail_closed: bool = False
    """Whether a request is refused where the store does not answer."""
    action: str = BLOCK
    """block | warn: what becomes of a request that has no room."""
    thresholds: tuple[float, ...] = (0.8, 0.9, 0.95, 1.0)
    """Shares of the amount that are told of, each once in a window over all processes."""

    def counts(self, request: Mapping[str, str | None]) -> bool:
        """Whether a request of these dimensions is counted. One without a user is nobody's: no limit per user counts it."""
        if self.per and not request.get(self.per):
            return False
        return all(request.get(dimension) == value for dimension, value in self.scope.items())

    def bucket(self, request: Mapping[str, str | None]) -> str:
        """Which of the limit's amounts a request is taken from."""
        return f"{self.name}\x1f{request[self.per]}" if self.per else self.name


@dataclass(frozen=True)
class Policy:
    """All limits, the shortest window first, and what one request may ask for (tokens; None: anything)."""

    limits: tuple[Limit, ...] = ()
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    assumed_output_tokens: int = 4096
    """What a call that sets no maximum is taken to answer at most."""
    enforce: bool = False
    """Whether the doors ask for every call; else only the application's code does."""


def load(path: str) -> Policy:
    """The policy of a TOML file.

    Raises:
        PolicyError: it cannot be read, or something in it is no limit.
    """
    import tomllib  # not needed where there are no limits

    try:
        with open(os.path.expanduser(path), "rb") as file:
            found = tomllib.load(file, parse_float=Decimal)
    except OSError as error:
        raise PolicyError(f"SPANLEDGER_LIMITS={path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOMLDecodeError, or no UTF-8
        raise PolicyError(f"{path} is not valid TOML: {error}") from error
    return policy(found, path)


def policy(found: Json, path: str = "limits") -> Policy:
    """The policy that a parsed TOML document describes; raises as `load` does."""
    unknown = found.keys() - {"limit", "request", "enforce"}
    if unknown:
        raise PolicyError(f"{path}: {min(unknown)!r} is not known: use enforce, [[limit]] and [request]")
    enforce = found.get("enforce", False)
    if not isinstance(enforce, bool):
        raise PolicyError(f"{path}: enforce is true or false")
    limits = [_limit(cast("Json", each), f"{path}, limit {n}") for n, each in enumerate(items(found, "limit"), 1)]
    names = [limit.name for limit in limits]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PolicyError(f"{path}: two limits are named {twice!r}")
    caps = mapping(found, "request")
    limits.sort(key=lambda limit: WINDOWS.index(limit.window))
    most_read, most_written, assumed = (_cap(caps, name, path) for name in CAPS)
    return Policy(tuple(limits), most_read, most_written, assumed or Policy.assumed_output_tokens, enforce)


def _limit(each: Json, where: str) -> Limit:
    if not isinstance(cast("object", each), dict):
        raise PolicyError(f"{where} is no table")
    unknown = each.keys() - {
        "name",
        "window",
        "amount_usd",
        "scope",
        "per",
        "zone",
        "fail_closed",
        "action",
        "thresholds",
    }
    if unknown:
        raise PolicyError(f"{where}: {min(unknown)!r} is not known")
    name, window, per = each.get("name"), each.get("window"), each.get("per", "")
    if not isinstance(name, str) or not name:
        raise PolicyError(f"{where} has no name")
    if window not in WINDOWS:
        raise PolicyError(f"{where}: window = {window!r}; use {', '.join(WINDOWS)}")
    if per and per not in DIMENSIONS:
        raise PolicyError(f"{where}: per = {per!r}; use {', '.join(DIMENSIONS)}")
    scope = mapping(each, "scope")
    wrong = next((key for key, value in scope.items() if key not in DIMENSIONS or not isinstance(value, str)), None)
    if wrong is not None or ("scope" in each and not scope):
        raise PolicyError(f"{where}: scope is a table of {', '.join(DIMENSIONS)}, each a text")
    fail_closed = each.get("fail_closed", False)
    if not isinstance(fail_closed, bool):
        raise PolicyError(f"{where}: fail_closed is true or false")
    action = each.get("action", BLOCK)
    if action not in (BLOCK, WARN):
        raise PolicyError(f"{where}: action = {action!r}; use block or warn")
    texts = {key: str(value) for key, value in scope.items()}
    return Limit(name, str(window), _picousd(each.get("amount_usd"), where), texts, str(per), _zone(each.get("zone"), where), fail_closed,
                 str(action), _thresholds(each, where))  # fmt: skip


def _thresholds(each: Json, where: str) -> tuple[float, ...]:
    found = each.get("thresholds", Limit.thresholds)
    values: list[float] = []
    for value in cast("list[object]", found) if isinstance(found, list | tuple) else [None]:
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not 0 < value <= 10:
            raise PolicyError(f"{where}: thresholds = {found!r}; use shares such as [0.8, 1.0]")
        values.append(float(value))
    return tuple(sorted(values))


def _picousd(value: Any, where: str) -> int:
    try:
        amount = Decimal(str(value)) if not isinstance(value, bool) else Decimal(0)
    except InvalidOperation:
        amount = Decimal(0)
    if not amount.is_finite() or not 0 < amount < 10**6:
        raise PolicyError(f"{where}: amount_usd = {value!r}; use dollars above zero and below a million")
    return int(amount.scaleb(12))


def _zone(value: Any, where: str) -> tzinfo:
    if value is None:
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(str(value))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise PolicyError(f"{where}: zone = {value!r} is no time zone; use e.g. Europe/Berlin") from None


def _cap(caps: Json, name: str, path: str) -> int | None:
    value = caps.get(name)
    if value is not None and (type(value) is not int or value <= 0):
        raise PolicyError(f"{path}: {name} = {value!r}; use a number of tokens")
    return value
