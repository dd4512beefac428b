"""Replaces functions of an SDK with wrappers, and restores them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

Hooks = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Class -> method -> the parameters that the patch relies on."""


def missing(module: ModuleType, hooks: Hooks) -> list[str]:
    """The hooks that this release of an SDK lacks, e.g. ["BaseClient._build_request(options)"]."""
    missing_hooks: list[str] = []
    for owner, methods in hooks.items():
        for method, needed in methods.items():
            function = getattr(getattr(module, owner, None), method, None)
            if function is None:
                missing_hooks.append(f"{owner}.{method}")
                continue
            parameters = inspect.signature(function).parameters
            missing_hooks += [f"{owner}.{method}({name})" for name in needed if name not in parameters]
    return missing_hooks


def _bindable(original: Any) -> Any:
    """A method as a function of its object: a peer's wrapper is a descriptor that wants to be bound."""
    if type(original) is FunctionType:  # not isinstance: a wrapper of wrapt's says that it is one
        return original

    def bound(owner: Any, *args: Any, **kwargs: Any) -> Any:
        return original.__get__(owner, type(owner))(*args, **kwargs)

    return bound


class Patches:
    """The functions replaced so far; `remove` puts the originals back, last first."""

    def __init__(self) -> None:
        self._originals: list[tuple[Any, str, Any]] = []

    def patch(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace `owner.name` by `make(original)`, which keeps its name and docstring."""
        original = owner.__dict__[name]
        wrapper = make(_bindable(original))
        wrapper.__wrapped__ = original
        wrapper.__name__, wrapper.__qualname__, wrapper.__doc__ = name, f"{owner.__name__}.{name}", original.__doc__
        setattr(owner, name, wrapper)
        self._originals.append((owner, name, original))

    def remove(self) -> None:
        for owner, name, original in reversed(self._originals):
            setattr(owner, name, original)
        self._originals.clear()
