"""A function as AWS Lambda runs it: a handler, and a flush of the TracerProvider after each invocation.

Prints how many seconds each flush took.
"""

from __future__ import annotations

import time

from opentelemetry import trace

import questions


def handler(user: str) -> None:
    with questions.on_behalf_of(user):
        questions.plain(user)
        questions.streamed(user)


for user in ("ada", "bob", "cyd"):
    handler(user)
    began = time.monotonic()
    trace.get_tracer_provider().force_flush()
    print(round(time.monotonic() - began, 2))
