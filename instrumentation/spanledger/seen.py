"""What this process has recorded already, and what it will be told of later: both bounded, both thread-safe.

A poll, a batch's results, a resumed stream and a manual `record()` may show the same thing any number of
times; here it counts once. Across processes the row itself does that (`rows.py`: the same record has the
same key in the table).
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Final, Generic, TypeVar

CAPACITY: Final = 100_000

Value = TypeVar("Value")


class Seen:
    """The keys met last."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._keys: OrderedDict[Hashable, None] = OrderedDict()
        self._lock = threading.Lock()

    def first(self, key: Hashable) -> bool:
        """Whether `key` is met for the first time."""
        with self._lock:
            if key in self._keys:
                return False
            self._keys[key] = None
            if len(self._keys) > self._capacity:
                self._keys.popitem(last=False)
            return True


class Expected(Generic[Value]):
    """Values kept under a name until they are asked for, the oldest forgotten first."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, key: Hashable, value: Value) -> None:
        """Keep the first value told of `key`: what asks about it later knows less."""
        with self._lock:
            self._values.setdefault(key, value)
            if len(self._values) > self._capacity:
                self._values.popitem(last=False)

    def get(self, key: Hashable) -> Value | None:
        with self._lock:
            return self._values.get(key)


class Objects:
    """Objects by identity, held weakly: a freed one's id may be another's."""

    def __init__(self) -> None:
        self._held: dict[int, weakref.ref[Any]] = {}

    def add(self, value: Any) -> None:
        """Remember `value`; what cannot be referred to weakly is not remembered."""
        name = id(value)
        try:
            self._held[name] = weakref.ref(value, lambda _: self._held.pop(name, None))
        except TypeError:
            return

    def __contains__(self, value: Any) -> bool:
        held = self._held.get(id(value))
        return held is not None and held() is value
