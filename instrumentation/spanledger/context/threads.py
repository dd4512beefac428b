"""Threads, timers and executors begin with the context of whoever starts them, as tasks of asyncio do.

OpenTelemetry's instrumentation of `threading` does the same, but each release of it pins one release of all other
instrumentations: as a dependency it would keep Spanledger out of environments that have another one
(docs/decisions/0020). Where it is installed too, the context is attached twice, which changes nothing.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial, wraps
from types import BuiltinMethodType, MethodType
from typing import Any, Final, cast

from opentelemetry import context
from opentelemetry.context import Context

from spanledger.context.open_scopes import Taken, handed_over, taken
from spanledger.runtime.replaced_functions import ReplacedFunctions

OWN_THREADS: Final = "spanledger-"
"""Begin of the names of our own threads, which belong to no request."""

_patched: Final = ReplacedFunctions()
_running: Final = threading.local()


def is_pooled() -> bool:
    """Whether this is a function that a pool runs for its caller, or the main thread; not what a thread was started for."""
    if getattr(_running, "is_pooled", False):
        return True
    thread = threading.current_thread()
    return thread is threading.main_thread() or type(thread).__module__.startswith("anyio.")


def takes_from_queue(function: Any) -> bool:
    """Whether what a pool will run is the `get` of a queue: whoever asked for it gets what comes."""
    called: Any = function
    if type(function) is partial and called.args and _is_run_of_context(called.func):
        called = called.args[0]  # of `asyncio.to_thread`
    # By its type only: an argument of the application's may be an object that does something when it is asked for anything.
    return type(called) is MethodType and issubclass(type(called.__self__), queue.Queue)


def _is_run_of_context(function: Any) -> bool:
    return type(function) is BuiltinMethodType and type(function.__self__) is contextvars.Context


def carry_context() -> None:
    """Patch `threading.Thread` and `ThreadPoolExecutor`, once, unless the user has switched that off."""
    disabled = os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").replace(" ", "").split(",")
    if not _patched and "threading" not in disabled and "*" not in disabled:
        _patched.replace(threading.Thread, "start", _carrying_start)
        _patched.replace(ThreadPoolExecutor, "submit", _carrying_submit)


def stop_carrying() -> None:
    """Undo `carry_context`; a function that somebody else has patched since stays as it is."""
    _patched.restore()


def _carrying_start(start: Callable[..., None]) -> Callable[..., None]:
    @wraps(start)
    def start_with_context(thread: threading.Thread) -> None:
        is_bound, before = False, None
        with suppress(Exception):  # a thread of another kind: it starts as it would without us
            before = vars(thread).get("run")
            is_bound = _bind_context(thread)
        try:
            start(thread)
        except BaseException:
            if is_bound:
                _restore_run(thread, before)
            raise

    return start_with_context


def _bind_context(thread: threading.Thread) -> bool:
    """Let a thread run in the current context, whatever its class says of `run`; whether it will."""
    current = handed_over(context.get_current())
    target: Any = getattr(thread, "_target", None)
    if (
        not current
        or thread.name.startswith(OWN_THREADS)
        or getattr(target, "__module__", "") == "multiprocessing.pool"
    ):
        return False  # a worker of a pool that has no functions of its own (ThreadPool): it serves whoever comes
    run = thread.run
    taken_before = taken.get().number
    before = vars(thread).get("run")
    """What somebody else, such as Sentry, has put there."""

    def run_with_context(thread: threading.Thread) -> None:
        _restore_run(thread, before)  # the thread must not keep itself alive
        taken.set(Taken(taken_before))
        _call_in(current, run)

    thread.run = MethodType(run_with_context, thread)
    return True


def _restore_run(thread: threading.Thread, before: Any) -> None:
    if before is None:
        vars(thread).pop("run", None)
    else:
        vars(thread)["run"] = before


def _carrying_submit(submit: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(submit)
    def submit_with_context(self: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        # An empty context, too: the worker has that of the request in which it was started.
        current = handed_over(context.get_current())
        with suppress(RuntimeError):
            if takes_from_queue(function):
                mark = Taken(taken.get().number, is_expected=True)
                taken.set(mark)
                if type(function) is partial:  # `asyncio.to_thread` has copied the context before
                    cast("Any", function).func.__self__.run(taken.set, mark)
        return submit(self, _call_for, taken.get(), current, function, *args, **kwargs)

    return submit_with_context


def _call_for(mark: Taken, current: Context, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """In a worker of a pool: in the context of whoever has submitted it, whoever started the worker."""
    was_pooled, token = getattr(_running, "is_pooled", False), taken.set(mark)
    _running.is_pooled = True
    try:
        return _call_in(current, function, *args, **kwargs)
    finally:
        _running.is_pooled = was_pooled
        taken.reset(token)


def _call_in(current: Context, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    token = context.attach(current)
    try:
        return function(*args, **kwargs)
    finally:
        context.detach(token)
