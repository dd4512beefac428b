"""Exception barrier: the one broad `except` of Spanledger. Failures are swallowed, counted and logged once per kind.

`with quietly("reading a response"):` swallows an exception raised inside, counts it in `failures`, and
logs it once per kind: the operation, the exception's type and its location. The message is not logged, because it
could quote content.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections import Counter
from contextlib import suppress
from types import TracebackType

log = logging.getLogger("spanledger")

failures: Counter[tuple[str, str]] = Counter()
"""(what was being done, exception type) -> how often it failed in this process."""


class Deliberate(Exception):  # noqa: N818 - the base of what is meant to be seen
    """An exception that the host requested (strict mode): `quietly` re-raises it."""


class quietly:  # noqa: N801 - reads as a statement
    """Context manager that keeps an `Exception` from reaching the host application."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            return False
        if not isinstance(error, Exception) or isinstance(error, Deliberate):
            return False
        key = (self._doing, type(error).__name__)
        failures[key] += 1
        if failures[key] == 1:
            place = traceback.extract_tb(trace)[-1] if trace else None
            location = f"{place.filename}:{place.lineno}" if place else "?"
            with suppress(Exception):  # a handler of the application
                log.error(
                    "%s failed with %s at %s; the application is unaffected, "
                    "the ledger may lack this call. Further failures of this kind are counted, not logged.",
                    self._doing,
                    type(error).__name__,
                    location,
                )
        return True


def say(text: str) -> None:
    """Write a line to stderr, where there is one that takes it; before logging is set up, for a start that fails."""
    with suppress(Exception):
        sys.stderr.flush()
        os.write(sys.stderr.fileno(), f"spanledger: {text}\n".encode(errors="replace"))  # nothing stays in the buffer
