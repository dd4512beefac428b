"""Deduplicates responses by provider and id, and remembers pending asynchronous jobs. Both are bounded and thread-safe.

A poll, a batch's results, a resumed stream and a manual `record()` may show the same thing any number of
times; here it counts once. Across processes the row itself does that (`rows.py`: the same record has the
same key in the table).
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

CAPACITY: Final = 100_000

Value = TypeVar("Value")
Figures = TypeVar("Figures", bound=tuple[int, ...])


class SeenResponses:
    """The most recently seen response ids by provider, and the response objects that are still alive."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._keys: OrderedDict[tuple[str, str], int | None] = OrderedDict()
        self._objects: dict[int, weakref.ref[Any]] = {}
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """In a forked child: a lock that no thread of the parent holds."""
        self._lock = threading.Lock()

    def add_if_new(self, provider: str, name: str) -> bool:
        """Add an id; returns whether it is seen for the first time."""
        key = (provider, name)
        with self._lock:
            if key in self._keys:
                return False
            self._keys[key] = None
            if len(self._keys) > self._capacity:
                self._keys.popitem(last=False)
            return True

    def repeats(self, provider: str, name: str, figures: int) -> bool:
        """Add an id with a hash of its figures; returns whether it was there with the same figures."""
        key = (provider, name)
        with self._lock:
            known = self._keys.get(key)
            self._keys[key] = figures
            if len(self._keys) > self._capacity:
                self._keys.popitem(last=False)
            return known == figures

    def contains(self, provider: str, name: str) -> bool:
        """Whether an id was added."""
        with self._lock:
            return (provider, name) in self._keys

    def add_object(self, value: Any) -> None:
        """Remember an object for as long as it lives: a freed one's `id()` may be another's.

        What cannot be referred to weakly is not remembered.
        """
        name = id(value)
        with suppress(TypeError):
            self._objects[name] = weakref.ref(value, lambda _: self._objects.pop(name, None))

    def contains_object(self, value: Any) -> bool:
        held = self._objects.get(id(value))
        return held is not None and held() is value


class PendingJobs(Generic[Value]):
    """Bounded map of pending jobs, read when their results arrive; the oldest are evicted first."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def after_fork(self, own: Callable[[Value], Value]) -> None:
        """In a forked child: a lock that no thread of the parent holds, and of each value what is the child's."""
        self._lock = threading.Lock()
        self._values = OrderedDict((key, own(value)) for key, value in self._values.items())

    def put_if_absent(self, key: Hashable, value: Value) -> Value | None:
        """Store a value unless `key` has one, which is returned then: the first request knows more than later polls."""
        with self._lock:
            known = self._values.get(key)
            if known is None:
                self._values[key] = value
                if len(self._values) > self._capacity:
                    self._values.popitem(last=False)
            return known

    def put(self, key: Hashable, value: Value) -> None:
        """Store a value in place of any other."""
        if self.put_if_absent(key, value) is not None:
            self.replace(key, value)

    def replace(self, key: Hashable, value: Value) -> None:
        """Store another value, if `key` still has one."""
        with self._lock:
            if key in self._values:
                self._values[key] = value

    def get(self, key: Hashable) -> Value | None:
        with self._lock:
            return self._values.get(key)

    def pop(self, key: Hashable) -> Value | None:
        """Remove and return the value."""
        with self._lock:
            return self._values.pop(key, None)


class GrowingRecords(Generic[Figures]):
    """What was last stated of things whose figures grow (a hosted agent's session), bounded."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._stated: OrderedDict[Hashable, tuple[int, Figures]] = OrderedDict()
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """In a forked child: a lock that no thread of the parent holds."""
        self._lock = threading.Lock()

    def replace(self, key: Hashable, created: int, value: Figures) -> tuple[int, Figures | None]:
        """Store a statement, unless there is a greater one.

        Returns:
            When the thing was created, by the first statement, and the statement before.
        """
        with self._lock:
            first, before = self._stated.pop(key, (created, None))
            self._stated[key] = first, value if before is None else max(before, value)
            if len(self._stated) > self._capacity:
                self._stated.popitem(last=False)
            return first, before


class Sessions:
    """What is paid for by the session: the most recently begun ones."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._began: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """In a forked child: a lock that no thread of the parent holds."""
        self._lock = threading.Lock()

    def begins(self, name: str, seconds: float) -> bool:
        """Whether a use of `name` begins a session, because none began within so many seconds."""
        now = time.monotonic()
        with self._lock:
            began = self._began.get(name)
            if began is not None and now < began + seconds:
                return False
            self._began[name] = now
            self._began.move_to_end(name)
            if len(self._began) > self._capacity:
                self._began.popitem(last=False)
            return True
