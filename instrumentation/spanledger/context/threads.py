"""Threads, timers and executors begin with the context of whoever starts them, as tasks of asyncio do.

OpenTelemetry's instrumentation of `threading` does the same, but each release of it pins one release of all other
instrumentations: as a dependency it would keep Spanledger out of environments that have another one
(docs/decisions/0020). Where it is installed too, the context is attached twice, which changes nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any, Final

from opentelemetry import context
from opentelemetry.context import Context

OWN_THREADS: Final = "spanledger-"
"""Begin of the names of our own threads, which belong to no request."""


def carry_context() -> None:
    """Patch `threading.Thread` and `ThreadPoolExecutor`, once, unless the user has switched that off."""
    disabled = os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").replace(" ", "").split(",")
    if "threading" in disabled or "*" in disabled or hasattr(threading.Thread.start, "__spanledger__"):
        return
    threading.Thread.start = _marked(_carrying_start(threading.Thread.start))
    ThreadPoolExecutor.submit = _marked(_carrying_submit(ThreadPoolExecutor.submit))


def stop_carrying() -> None:
    """Undo `carry_context`."""
    for owner, name in ((threading.Thread, "start"), (ThreadPoolExecutor, "submit")):
        current = getattr(owner, name)
        if hasattr(current, "__spanledger__"):
            setattr(owner, name, current.__wrapped__)


def _marked(function: Callable[..., Any]) -> Any:
    function.__dict__["__spanledger__"] = True
    return function


def _carrying_start(start: Callable[..., None]) -> Callable[..., None]:
    @wraps(start)
    def start_with_context(thread: threading.Thread) -> None:
        current = context.get_current()
        if current and not thread.name.startswith(OWN_THREADS):
            run = thread.run  # of a subclass, too

            def run_with_context() -> None:
                del thread.run  # the thread must not keep itself alive
                _call_in(current, run)

            thread.run = run_with_context
        start(thread)

    return start_with_context


def _carrying_submit(submit: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(submit)
    def submit_with_context(self: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        current = context.get_current()
        if not current:
            return submit(self, function, *args, **kwargs)
        return submit(self, _call_in, current, function, *args, **kwargs)

    return submit_with_context


def _call_in(current: Context, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    token = context.attach(current)
    try:
        return function(*args, **kwargs)
    finally:
        context.detach(token)
