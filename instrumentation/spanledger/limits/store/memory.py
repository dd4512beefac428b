"""In-process store: budgets that are not shared with other processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from spanledger.limits.store.protocol import HOLD_SECONDS, BudgetCounter, Controls, ReserveResult
from spanledger.runtime.guard import log

MAX_ACCOUNTS: Final = 100_000
"""Maximum number of counters in memory."""
SWEEP_SECONDS: Final = 60.0


@dataclass(slots=True, eq=False)
class _Balance:
    until: float
    shared: bool = True
    spent: int = 0
    used: int = 0
    """Spent plus held."""
    alerts: set[str] = field(default_factory=set[str])


EMPTY_BALANCE: Final = _Balance(0.0)
"""The balance of an unused counter."""


class MemoryStore:
    """Budget counters in memory. Thread-safe."""

    @property
    def remote(self) -> bool:
        return False

    def __init__(self) -> None:
        self._balances: dict[str, _Balance] = {}
        self._holds: dict[str, tuple[int, float, list[_Balance]]] = {}
        """Reservation -> (amount, expiry, balances), in creation order."""
        self._sweep_at = 0.0
        self._lock = threading.Lock()

    def reserve(self, reservation: str, counters: Sequence[BudgetCounter], amount: int) -> ReserveResult:
        now = time.monotonic()
        balances: list[_Balance] = []
        spent: list[int] = []
        with self._lock:
            if self._holds:
                self._release_expired(now)
            get_balance = self._balances.get
            for key, limit, *_ in counters:
                balance = get_balance(key) or EMPTY_BALANCE
                if balance.used + amount > limit:
                    return ReserveResult(len(balances))
                balances.append(balance)
                spent.append(balance.spent)
            if EMPTY_BALANCE in balances:
                balances = self._get_or_create(counters)
            for balance in balances:
                balance.used += amount
            self._holds[reservation] = amount, now + HOLD_SECONDS, balances
        return ReserveResult(None, spent)

    def settle(  # the reservation has its amount, and nothing reconciles this store
        self,
        reservation: str,
        counters: Sequence[BudgetCounter],
        held: int,  # noqa: ARG002
        spent: int,
        *,
        delayed: bool = False,  # noqa: ARG002
        cross_process: bool = False,  # noqa: ARG002
    ) -> Sequence[int]:
        sums: list[int] = []
        with self._lock:
            amount, _, balances = self._holds.pop(reservation, None) or (0, 0.0, self._get_or_create(counters))
            for balance in balances:
                balance.used += spent - amount
                balance.spent += spent
                sums.append(balance.spent)
        return sums

    def balance(self, key: str) -> tuple[int, int]:
        with self._lock:
            balance = self._balances.get(key)
            return (balance.spent, balance.used - balance.spent) if balance else (0, 0)

    def claim_alert(self, counter: BudgetCounter, alert: str) -> bool:
        with self._lock:
            alerts = self._get_or_create([counter])[0].alerts
            if alert in alerts:
                return False
            alerts.add(alert)
            return True

    def controls(self) -> Controls:
        return Controls()  # kill switches and published budgets need Redis

    def _get_or_create(self, counters: Sequence[BudgetCounter]) -> list[_Balance]:
        now = time.monotonic()
        return [self._balances.get(counter.key) or self._create(counter, now) for counter in counters]

    def _create(self, counter: BudgetCounter, now: float) -> _Balance:
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            self._balances = {key: balance for key, balance in self._balances.items() if balance.until > now}
        if len(self._balances) >= MAX_ACCOUNTS:
            self._evict()
        new_balance = self._balances[counter.key] = _Balance(now + counter.ttl_seconds, counter.shared)
        return new_balance

    def _evict(self) -> None:
        """Evict one in ten: counters per dimension value first, by the end of their window, then by the least spent."""
        log.warning("limits: more than %d users (tenants, ...) at once; the smallest are evicted", MAX_ACCOUNTS)
        ranked = sorted(
            (balance.until, balance.used, key) for key, balance in self._balances.items() if not balance.shared
        ) or [(balance.until, balance.used, key) for key, balance in self._balances.items()]
        for _, _, key in ranked[: max(1, MAX_ACCOUNTS // 10)]:
            del self._balances[key]

    def _release_expired(self, now: float) -> None:
        """Release expired reservations."""
        while self._holds:
            oldest = next(iter(self._holds))
            amount, until, balances = self._holds[oldest]
            if until > now:
                return
            del self._holds[oldest]
            for balance in balances:
                balance.used -= amount
