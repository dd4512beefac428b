"""What this process has recorded already, and what it will be told of later: both bounded, both thread-safe.

A poll, a batch's results, a resumed stream and a manual `record()` may show the same thing any number of
times; here it counts once. Across processes the row itself does that (`rows.py`: the same record has the
same key in the table).
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

CAPACITY: Final = 100_000

Value = TypeVar("Value")


class Recorded:
    """Providers' ids met last, and response objects that are alive."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._keys: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._objects: dict[int, weakref.ref[Any]] = {}
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """In a forked child: a lock that no thread of the parent holds."""
        self._lock = threading.Lock()

    def first(self, provider: str, name: str) -> bool:
        """Whether this id of this provider is met for the first time."""
        key = (provider, name)
        with self._lock:
            if key in self._keys:
                return False
            self._keys[key] = None
            if len(self._keys) > self._capacity:
                self._keys.popitem(last=False)
            return True

    def hold(self, value: Any) -> None:
        """Remember an object for as long as it lives: a freed one's `id()` may be another's.

        What cannot be referred to weakly is not remembered.
        """
        name = id(value)
        with suppress(TypeError):
            self._objects[name] = weakref.ref(value, lambda _: self._objects.pop(name, None))

    def holds(self, value: Any) -> bool:
        held = self._objects.get(id(value))
        return held is not None and held() is value


class Expected(Generic[Value]):
    """Values kept under a name until they are asked for, the oldest forgotten first."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def after_fork(self, own: Callable[[Value], Value]) -> None:
        """In a forked child: a lock that no thread of the parent holds, and of each value what is the child's."""
        self._lock = threading.Lock()
        self._values = OrderedDict((key, own(value)) for key, value in self._values.items())

    def keep(self, key: Hashable, value: Value) -> None:
        """Keep the first value told of `key`: what asks about it later knows less."""
        with self._lock:
            self._values.setdefault(key, value)
            if len(self._values) > self._capacity:
                self._values.popitem(last=False)

    def get(self, key: Hashable) -> Value | None:
        with self._lock:
            return self._values.get(key)

    def pop(self, key: Hashable) -> Value | None:
        """The value, which is kept no longer."""
        with self._lock:
            return self._values.pop(key, None)
