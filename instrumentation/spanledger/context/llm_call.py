"""Marks a context as being inside a request to an LLM provider, for as long as that request is being sent."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry.context import Context

CALL_KEY = otel_context.create_key("spanledger-call")
"""Key of the `Outbound` of a context inside a request to an LLM provider."""


class Outbound:
    """A request to an LLM provider that is being sent; over when its function has returned, whoever keeps its context."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = True


def in_call(context: Context | None = None) -> bool:
    """Whether `context` (by default the current one) is that of a request to an LLM provider."""
    request = otel_context.get_value(CALL_KEY, context)
    return isinstance(request, Outbound) and request.open


@contextmanager
def outbound() -> Generator[None]:
    """Mark what runs inside as a request to an LLM provider that is not a billed call: no baggage is injected into it."""
    request = Outbound()
    token = otel_context.attach(otel_context.set_value(CALL_KEY, request))
    try:
        yield
    finally:
        request.open = False
        otel_context.detach(token)
