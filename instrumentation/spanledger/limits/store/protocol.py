"""The store protocol: spent and held amounts per budget, in-process (`memory.py`) or shared in Redis (`redis.py`).

An amount is *held* from the admission of a call until its cost is known; then it is *spent*. An amount that is
held longer than HOLD_SECONDS was abandoned (its process died) and is released. Amounts are picodollars.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

HOLD_SECONDS: Final = 2400.0
"""A call that has taken this long is considered abandoned: three attempts of 600 s are what SDKs wait by default (openai 3.57)."""
DEDUP_SECONDS: Final = 600.0
"""How long a store remembers a settled cost, to deduplicate retries after a timeout."""
MAX_PICOUSD: Final = 10**18
"""A million dollars: no call costs more, and sums of such amounts stay within 64 bits for a long time."""


class StoreError(Exception):
    """A request to the store failed or timed out.

    Attributes:
        outcome_unknown: whether the store may have executed the request in spite of the error.
        refused: whether the store rejects this request permanently, but serves others.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False, refused: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown
        self.refused = refused


class BudgetCounter(NamedTuple):
    """The counter of one budget in one window."""

    key: str
    limit_picousd: int
    """Upper limit of spent plus held."""
    ttl_seconds: int
    """Time to live from the first update: until the window ends, plus a grace period."""
    shared: bool = True
    """Whether the budget has one counter for all, not one per dimension value."""


class ReserveResult(NamedTuple):
    """The result of `reserve`."""

    full_index: int | None
    """Index of the first exhausted counter; None: the amount is held in all of them."""
    spent: Sequence[int] = ()
    """Spent amount of each counter, without held amounts."""


class Controls(NamedTuple):
    """Kill switches and published budgets, shared by all processes."""

    stopped: frozenset[str] = frozenset()
    """Active kill switches, as "feature=summarize"."""
    published: str = ""
    """Budgets, as a JSON document (see `policy_documents.policy_from_json`)."""


class Store(Protocol):
    @property
    def remote(self) -> bool:
        """Whether requests cross the network, and can time out."""
        ...

    def reserve(self, reservation: str, counters: Sequence[BudgetCounter], amount: int) -> ReserveResult:
        """Hold `amount` in every counter, or in none of them.

        Raises:
            StoreError: the amount may or may not be held.
        """
        ...

    def settle(
        self,
        reservation: str,
        counters: Sequence[BudgetCounter],
        held: int,
        spent: int,
        *,
        delayed: bool = False,
        cross_process: bool = False,
    ) -> Sequence[int]:
        """Release the `held` amount, if it is still held, and count `spent`. Returns the spent amount of each counter.

        Args:
            reservation: idempotency key; it counts once.
            counters: of the reservation.
            held: picodollars.
            spent: picodollars.
            delayed: whether the cost has waited, so that a reconciliation with the ledger (`raise_to`) may include it.
            cross_process: whether other processes may report it too, with the same key, until the windows end.

        Raises:
            StoreError: the cost may or may not be counted.
        """
        ...

    def claim_alert(self, counter: BudgetCounter, alert: str) -> bool:
        """Claim an alert of a counter. Returns True once across all processes. Raises StoreError."""
        ...

    def balance(self, key: str) -> tuple[int, int]:
        """(spent, held) of a counter. Raises StoreError."""
        ...

    def controls(self) -> Controls:
        """Read kill switches and published budgets. Raises StoreError."""
        ...
