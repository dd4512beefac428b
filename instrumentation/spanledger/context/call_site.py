"""Finds the call site of a call: the first frame that is neither an SDK, a framework nor the standard library."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Final

from spanledger.semconv import attributes as a

Site = dict[str, str | int]

_pinned: ContextVar[Site | None] = ContextVar("spanledger_call_site", default=None)


@contextmanager
def pinned(site: Site) -> Generator[None]:
    """Give `site` for every call of the block: it is recorded in a thread of ours, but was made elsewhere."""
    token = _pinned.set(site)
    try:
        yield
    finally:
        _pinned.reset(token)


def call_site() -> Site:
    """`code.file.path`, `code.line.number` and `code.function.name` of the code that made the call."""
    known = _pinned.get()
    if known is not None:
        return known
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


USER, LIBRARY, INFRASTRUCTURE = "user", "library", "machinery"

_kinds: dict[str, str] = {}
"""File name -> what kind of code it holds."""

_PACKAGE_DIR: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep  # the package, not this folder
_STDLIB_DIRS: Final = tuple(
    {os.path.join(path, "") for name in ("stdlib", "platstdlib") if (path := sysconfig.get_path(name))}
)
_SITE_PACKAGES: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_SDKS: Final = ("openai", "anthropic", "google", "opentelemetry", "httpx", "httpx2", "httpcore", "tenacity", "wrapt")
"""Installed packages that are never the caller; any other may be the application itself."""


def _kind(path: str) -> str:
    """User code, an installed library (which may be the application itself), or SDK and interpreter."""
    if path.startswith((_PACKAGE_DIR, "<frozen")):
        return INFRASTRUCTURE
    for site in _SITE_PACKAGES:
        _, separator, below = path.rpartition(site)
        if separator:
            package = below.partition(os.sep)[0].removesuffix(".py")
            return INFRASTRUCTURE if package in _SDKS or package == "spanledger" else LIBRARY
    return INFRASTRUCTURE if path.startswith(_STDLIB_DIRS) else USER
