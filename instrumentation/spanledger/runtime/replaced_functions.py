"""Replaces functions of Python's own classes, and puts the originals back where nobody else has replaced ours since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ReplacedFunctions:
    """The functions that are replaced now."""

    def __init__(self) -> None:
        self._replaced: list[tuple[type, str, object, object]] = []
        """(class, name, our function, the original one)."""

    def __len__(self) -> int:
        return len(self._replaced)

    def replace(self, cls: type, name: str, make: Callable[[Any], object]) -> None:
        """Replace `cls.name` by `make(original)`; a class that is not written in Python (gevent's queue) stays as it is."""
        original = getattr(cls, name)
        ours = make(original)
        try:
            setattr(cls, name, ours)
        except TypeError:
            return
        self._replaced.append((cls, name, ours, original))

    def restore(self) -> None:
        for cls, name, ours, original in self._replaced:
            if getattr(cls, name) is ours:
                setattr(cls, name, original)
        self._replaced.clear()
