"""Calls that are recorded by hand, without a network; the fixture `by_hand` gives them to the ledger of a test."""

from __future__ import annotations

import itertools

import spanledger
from conftest import Recorded
from spanledger.context.open_scopes import current

_numbers = itertools.count()
"""Of all tests of a process: a response that was recorded before is recorded no more."""


def ask(name: str = "by-hand-") -> None:
    """One billed answer."""
    response_id = f"{name}{next(_numbers)}"
    spanledger.record(
        provider="openai", model="gpt-4.1-mini", usage={"input": 10, "output": 5}, response_id=response_id
    )


def user() -> object:
    """Who counts now."""
    return current().entries.get("user.id")


def users(ledger: Recorded) -> list[tuple[str | None, str]]:
    """(user, reason) of each row."""
    return [(row["user_id"], row["attribution_reason"]) for row in ledger.rows]
