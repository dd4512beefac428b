"""Who caused a call: read from OpenTelemetry baggage, and where it is missing, which code lost it.

Baggage keys and span attributes have the same names (`attributes.py`); values are cut to 256
printable characters. A missing dimension stays missing: the span says why, and names the first frame
of the call stack that is neither an SDK, a framework nor the standard library.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from types import FrameType
from typing import Final

from opentelemetry import baggage, trace
from opentelemetry.context import Context

from spanledger import attributes as a
from spanledger.reading import label

DIMENSIONS: Final = (
    a.USER_ID,
    a.SESSION_ID,
    a.CONVERSATION_ID,
    a.REQUEST_ID,
    a.FEATURE,
    a.TENANT_ID,
    a.CUSTOMER_TIER,
)
EXPECTED: Final = (a.USER_ID, a.FEATURE, a.REQUEST_ID)
"""Who, for what, and in which request: a call that has these three is fully attributed."""

MAX_LABELS: Final = 16

KEYS: Final = {**{name: name for name in DIMENSIONS}, **a.BAGGAGE_ALIASES}


def attribution(context: Context | None) -> dict[str, str | int | list[str]]:
    """Span attributes for the baggage in `context` (None: the current one).

    Complete baggage costs one pass over it; otherwise `spanledger.attribution.reason` says
    `context_lost` (no parent span and no baggage), `no_baggage` (a parent, but nobody set it) or
    `partial`, and `code.*` names the calling code.
    """
    found: dict[str, str | int | list[str]] = {}
    labels = 0
    for key, value in baggage.get_all(context).items():
        name = KEYS.get(key)
        if name is None:
            if not key.startswith(a.LABEL_PREFIX) or labels >= MAX_LABELS:
                continue
            labels += 1
            name = key[: len(a.LABEL_PREFIX) + 64]
        if key == name or name not in found:
            text = label(value if isinstance(value, str) else str(value))
            if text is not None:
                found[name] = text
    missing = [name for name in EXPECTED if name not in found]
    if missing:
        parent = trace.get_current_span(context).get_span_context()
        reason = "partial" if found else "no_baggage" if parent.is_valid else "context_lost"
        found[a.ATTRIBUTION_REASON] = reason
        found[a.ATTRIBUTION_MISSING] = missing
        found.update(call_site())
    return found


def call_site() -> dict[str, str | int]:
    """`code.file.path`, `code.line.number` and `code.function.name` of the code that made the call."""
    frame: FrameType | None = sys._getframe(1)
    fallback: FrameType | None = None
    while frame is not None:
        kind = _kinds.get(frame.f_code.co_filename)
        if kind is None:
            kind = _kinds[frame.f_code.co_filename] = _kind(frame.f_code.co_filename)
        if kind == USER:
            break
        if kind == LIBRARY and fallback is None:
            fallback = frame
        frame = frame.f_back
    frame = frame or fallback
    if frame is None:
        return {}
    code = frame.f_code
    return {a.CODE_FILE: code.co_filename, a.CODE_LINE: frame.f_lineno, a.CODE_FUNCTION: code.co_qualname}


USER, LIBRARY, MACHINERY = "user", "library", "machinery"

_kinds: dict[str, str] = {}
"""File name -> what kind of code it holds."""

_HERE: Final = os.path.dirname(__file__) + os.sep
_STANDARD: Final = tuple(
    {os.path.join(path, "") for name in ("stdlib", "platstdlib") if (path := sysconfig.get_path(name))}
)
_SITE: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_SDKS: Final = ("openai", "anthropic", "google", "opentelemetry", "httpx", "httpx2", "httpcore", "tenacity", "wrapt")


def _kind(path: str) -> str:
    """User code, an installed library (which may be the application itself), or SDK and interpreter."""
    if path.startswith((_HERE, "<frozen")):
        return MACHINERY
    for site in _SITE:
        _, found, below = path.rpartition(site)
        if found:
            package = below.partition(os.sep)[0].removesuffix(".py")
            return MACHINERY if package in _SDKS or package == "spanledger" else LIBRARY
    return MACHINERY if path.startswith(_STANDARD) else USER
