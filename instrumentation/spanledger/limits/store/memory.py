"""Budgets of this process alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from spanledger.limits.store.protocol import HOLD_SECONDS, Account, Controls, Reserved
from spanledger.runtime.guard import log

MAX_ACCOUNTS: Final = 100_000
"""What is remembered at once."""
SWEEP_SECONDS: Final = 60.0


@dataclass(slots=True, eq=False)
class _Balance:
    until: float
    shared: bool = True
    spent: int = 0
    used: int = 0
    """What is spent and held."""
    alerts: set[str] = field(default_factory=set[str])


NOTHING_SPENT: Final = _Balance(0.0)
"""Of an account that has not been touched."""


class MemoryStore:
    """Budgets of this process alone."""

    @property
    def remote(self) -> bool:
        return False

    def __init__(self) -> None:
        self._balances: dict[str, _Balance] = {}
        self._holds: dict[str, tuple[int, float, list[_Balance]]] = {}
        """Reservation -> (amount, when it counts as abandoned, where), in the order in which they were made."""
        self._sweep_at = 0.0
        self._lock = threading.Lock()

    def reserve(self, reservation: str, accounts: Sequence[Account], amount: int) -> Reserved:
        now = time.monotonic()
        balances: list[_Balance] = []
        spent: list[int] = []
        with self._lock:
            if self._holds:
                self._free(now)
            get_balance = self._balances.get
            for key, limit, *_ in accounts:
                balance = get_balance(key) or NOTHING_SPENT
                if balance.used + amount > limit:
                    return Reserved(len(balances))
                balances.append(balance)
                spent.append(balance.spent)
            if NOTHING_SPENT in balances:
                balances = self._found(accounts)
            for balance in balances:
                balance.used += amount
            self._holds[reservation] = amount, now + HOLD_SECONDS, balances
        return Reserved(None, spent)

    def settle(  # the hold knows its amount, and nothing levels this store
        self,
        reservation: str,
        accounts: Sequence[Account],
        held: int,  # noqa: ARG002
        spent: int,
        *,
        late: bool = False,  # noqa: ARG002
        cross_process: bool = False,  # noqa: ARG002
    ) -> Sequence[int]:
        sums: list[int] = []
        with self._lock:
            amount, _, balances = self._holds.pop(reservation, None) or (0, 0.0, self._found(accounts))
            for balance in balances:
                balance.used += spent - amount
                balance.spent += spent
                sums.append(balance.spent)
        return sums

    def balance(self, key: str) -> tuple[int, int]:
        with self._lock:
            balance = self._balances.get(key)
            return (balance.spent, balance.used - balance.spent) if balance else (0, 0)

    def first(self, account: Account, what: str) -> bool:
        with self._lock:
            alerts = self._found([account])[0].alerts
            if what in alerts:
                return False
            alerts.add(what)
            return True

    def controls(self) -> Controls:
        return Controls()  # people speak to every process, by way of Redis

    def _found(self, accounts: Sequence[Account]) -> list[_Balance]:
        now = time.monotonic()
        return [self._balances.get(account.key) or self._new(account, now) for account in accounts]

    def _new(self, account: Account, now: float) -> _Balance:
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            self._balances = {key: balance for key, balance in self._balances.items() if balance.until > now}
        if len(self._balances) >= MAX_ACCOUNTS:
            self._make_room()
        new_balance = self._balances[account.key] = _Balance(now + account.lives_seconds, account.shared)
        return new_balance

    def _make_room(self) -> None:
        """Forget one in ten: of what is not everybody's, whose window ends first, and who has spent least."""
        log.warning("limits: more than %d users (tenants, ...) at once: the smallest are forgotten", MAX_ACCOUNTS)
        ranked = sorted((balance.until, balance.used, key) for key, balance in self._balances.items() if not balance.shared) or [
            (balance.until, balance.used, key) for key, balance in self._balances.items()
        ]
        for _, _, key in ranked[: max(1, MAX_ACCOUNTS // 10)]:
            del self._balances[key]

    def _free(self, now: float) -> None:
        """What was abandoned is held no longer."""
        while self._holds:
            oldest = next(iter(self._holds))
            amount, until, balances = self._holds[oldest]
            if until > now:
                return
            del self._holds[oldest]
            for balance in balances:
                balance.used -= amount
