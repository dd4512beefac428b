"""What is spent and what is held of each budget: in this process (`memory_store.py`), or in Redis for all (`redis_store.py`).

An amount is *held* from the moment that a call is let through until its cost is known; then it is *spent*. What is held
for longer than HOLD_SECONDS was abandoned (its process died) and is free again. Amounts are picodollars.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

HOLD_SECONDS: Final = 2400.0
"""A call that has taken this long will not come back: three attempts of 600 s are what SDKs wait by default (openai 3.57)."""
DONE_SECONDS: Final = 600.0
"""How long a store remembers that a cost is counted, for when it is told again because no answer came."""
MAX_PICOUSD: Final = 10**18
"""A million dollars: no call costs more, and sums of such amounts stay within 64 bits for a long time."""


class StoreError(Exception):
    """The store did not answer in time, or at all.

    Attributes:
        doubtful: whether it may have done all the same what it was asked.
        refused: whether it says no to this, and would say so again; it is there for others.
    """

    def __init__(self, message: str, *, doubtful: bool = False, refused: bool = False) -> None:
        super().__init__(message)
        self.doubtful = doubtful
        self.refused = refused


class Account(NamedTuple):
    """One budget's amount in one window."""

    key: str
    limit_picousd: int
    """More than this is not spent and held in it together."""
    lives_seconds: int
    """How long its figures are of use from when they are first touched: until the window is over, and a little."""
    shared: bool = True
    """Whether it is everybody's, not one of many (of a budget per user)."""


class Reserved(NamedTuple):
    """What became of an amount that was to be held."""

    full: int | None
    """The index of the first account that has no room for it; None: it is held in all."""
    spent: Sequence[int] = ()
    """Of each account, what is spent so far; what is held does not count."""


class Controls(NamedTuple):
    """What people have told every process."""

    stopped: frozenset[str] = frozenset()
    """What is stopped by hand, as "feature=summarize"."""
    published: str = ""
    """Budgets, as a JSON document of `policy.policy`'s form."""


class Store(Protocol):
    @property
    def remote(self) -> bool:
        """Whether an answer takes time, and may not come."""
        ...

    def reserve(self, reservation: str, accounts: Sequence[Account], amount: int) -> Reserved:
        """Hold `amount` in every account, or in none of them.

        Raises:
            StoreError: it is not known whether it is held.
        """
        ...

    def settle(
        self,
        reservation: str,
        accounts: Sequence[Account],
        held: int,
        spent: int,
        *,
        late: bool = False,
        cross_process: bool = False,
    ) -> Sequence[int]:
        """Free the amount that is `held`, if it still is, and count `spent`; what is spent of each account now.

        Args:
            reservation: counted once, however often it is told.
            accounts: of the reservation.
            held: picodollars.
            spent: picodollars.
            late: whether the cost has waited, so that it may be among what the ledger was levelled with (`at_least`).
            seen: whether others may tell of it too, under the same name, as long as the windows last.

        Raises:
            StoreError: it is not known whether it is counted.
        """
        ...

    def first(self, account: Account, what: str) -> bool:
        """Whether this is said of an account for the first time, over all that use the store. Raises StoreError."""
        ...

    def balance(self, key: str) -> tuple[int, int]:
        """(spent, held) of an account. Raises StoreError."""
        ...

    def controls(self) -> Controls:
        """What people have told every process. Raises StoreError."""
        ...
