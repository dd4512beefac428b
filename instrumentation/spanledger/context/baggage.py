"""Reads the attribution of a call from OpenTelemetry baggage; where it is missing, records reason and call site.

Baggage keys and span attributes have the same names (`attributes.py`); values are cut to 256
printable characters. A missing dimension stays missing: the span says why, and which code made the call
(`call_site.py`). `scopes.py` is how an application puts it there.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from functools import lru_cache
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context

from spanledger.context.call_site import call_site
from spanledger.context.open_scopes import Current, current
from spanledger.runtime import settings
from spanledger.runtime.untrusted_json import DIGEST, MAX_LABEL, label
from spanledger.semconv import attributes as a
from spanledger.semconv.dimensions import BAGGAGE_KEYS, DIMENSIONS, LIMIT_DIMENSIONS

EXPECTED_ATTRIBUTES: Final = tuple(row.attribute for row in DIMENSIONS.values() if row.expected)
"""User, feature and request: a call that has these three is fully attributed."""

MAX_LABELS: Final = 16

BUDGET_KEYS: Final = {
    key: name for key, name in BAGGAGE_KEYS.items() if name in {row.attribute for row in LIMIT_DIMENSIONS.values()}
}
"""Baggage keys of the dimensions that budgets know."""

BUSINESS_UNIT_KEYS: Final = {a.UNIT_NAME: str, a.UNIT_ID: str, a.UNIT_QUANTITY: float, a.UNIT_MEASURE: str}
"""What `spanledger.unit` puts into baggage -> the type of the attribute."""

ATTRIBUTION_KEYS: Final = frozenset({*BAGGAGE_KEYS, *BUSINESS_UNIT_KEYS})


def is_attribution_key(key: str) -> bool:
    """Whether a baggage key carries attribution."""
    return key in ATTRIBUTION_KEYS or key.startswith(a.LABEL_PREFIX)


def attribution_attributes(context: Context | None) -> dict[str, Any]:
    """Span attributes for the baggage in `context` (None: the current one).

    Complete baggage costs one pass over it; otherwise `spanledger.attribution.reason` says
    `context_lost` (no parent span and no baggage), `no_baggage` (a parent, but nobody set it) or
    `partial`, or `stale` (whoever set it is over), and `code.*` names the calling code.
    """
    attributes: dict[str, Any] = {}
    labels = 0
    counts = current(context)
    for key, value in counts.entries.items():
        name = BAGGAGE_KEYS.get(key)
        if name is None:
            if key.startswith(a.LABEL_PREFIX):
                if labels < MAX_LABELS and _is_label_allowed(key):
                    labels += 1
                    _set_dimension(attributes, key[: len(a.LABEL_PREFIX) + 64], value)
            elif key in BUSINESS_UNIT_KEYS:
                _set_dimension(attributes, key, value)
            continue
        if key == name or (name not in attributes and name not in counts.entries):
            _set_dimension(attributes, name, value)
    if a.UNIT_QUANTITY in attributes:
        _parse_quantity(attributes)
    user = attributes.get(a.USER_ID)
    if user is not None and (key := _hashing_key()) is not None:
        attributes[a.USER_ID] = pseudonym(user, key)
    missing = [name for name in EXPECTED_ATTRIBUTES if name not in attributes]
    if missing:
        attributes[a.ATTRIBUTION_REASON] = _reason(context, counts, bool(attributes))
        attributes[a.ATTRIBUTION_MISSING] = missing
        attributes.update(call_site())
    return attributes


def _reason(context: Context | None, counts: Current, has_some: bool) -> str:
    if counts.is_stale:
        return "stale"
    if has_some:
        return "partial"
    return "no_baggage" if trace.get_current_span(context).get_span_context().is_valid else "context_lost"


def budget_dimensions(context: Context | None) -> dict[str, str]:
    """The budget dimensions of a call made in `context` (None: the current one), attribute -> value as stored on the
    row; missing dimensions are left out."""
    attributes: dict[str, Any] = {}
    entries = current(context).entries
    for key, value in entries.items():
        name = BUDGET_KEYS.get(key)
        if name is not None and (key == name or (name not in attributes and name not in entries)):
            _set_dimension(attributes, name, value)
    user = attributes.get(a.USER_ID)
    if user is not None and (secret := _hashing_key()) is not None:
        attributes[a.USER_ID] = pseudonym(user, secret)
    return attributes


_label = lru_cache(maxsize=4096)(label)


def dimension_value(name: str, value: str | None) -> str | None:
    """A value of a dimension as it stands on rows: cleaned, and hashed where user ids are."""
    text = _dimension_text(value)
    if text is not None and name == a.USER_ID and (secret := _hashing_key()) is not None:
        return pseudonym(text, secret)
    return text


def is_missing(value: object) -> bool:
    """Whether a value in baggage names nobody: None or False, as `set_baggage("user.id", user and user.id)` leaves
    them there, blank text, or one of SPANLEDGER_ANONYMOUS."""
    if value is None or value is False:
        return True
    if not isinstance(value, str):
        return False
    text = (_label(value) or "").strip()
    return not text or text.lower() in _anonymous()


def _dimension_text(value: object) -> str | None:
    """A value in baggage as it stands on rows; None where it is missing."""
    if is_missing(value):
        return None
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception:  # noqa: BLE001 - the application's own
        return None
    cleaned = _label(text)
    if cleaned is not None and len(cleaned) < len(text) <= MAX_LABEL and any(map(_is_mark, text)):
        # Two names that differ in what is not seen (a zero-width space) are two; control characters are nobody's name.
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:DIGEST]
        return f"{cleaned[: MAX_LABEL - DIGEST - 1]}~{digest}"
    return cleaned


def _is_mark(character: str) -> bool:
    return not character.isprintable() and unicodedata.category(character) not in ("Cc", "Cs", "Zs", "Zl", "Zp")


def _set_dimension(attributes: dict[str, Any], name: str, value: object) -> None:
    text = _dimension_text(value)
    if text is not None:
        attributes[name] = text


def _parse_quantity(attributes: dict[str, Any]) -> None:
    """The quantity of a unit as a number, or not at all."""
    try:
        quantity = float(attributes.pop(a.UNIT_QUANTITY))
    except ValueError:
        return
    if 0 < quantity < 1e15:
        attributes[a.UNIT_QUANTITY] = quantity


@lru_cache(maxsize=1)
def _anonymous() -> frozenset[str]:
    return frozenset(name.strip().lower() for name in (settings.setting("anonymous") or "").split(",") if name.strip())


@lru_cache(maxsize=1)
def _allowed_labels() -> frozenset[str] | None:
    configured = settings.setting("labels")
    return frozenset(name.strip() for name in configured.split(",")) if configured else None


def _is_label_allowed(key: str) -> bool:
    allowed = _allowed_labels()
    return allowed is None or key.removeprefix(a.LABEL_PREFIX) in allowed


@lru_cache(maxsize=1)
def _hashing_key() -> bytes | None:
    configured = settings.setting("hash_user_id")
    return configured.encode() if configured else None


def pseudonym(user: str, key: bytes) -> str:
    """A user id as 32 hex digits of its HMAC-SHA256: the same user is the same, and only the key leads back to it."""
    return hmac.new(key, user.encode(), hashlib.sha256).hexdigest()[:32]
