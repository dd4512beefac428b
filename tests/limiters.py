"""Limiters, budgets and accounts, as tests of limits make them."""

from __future__ import annotations

import contextlib
import time
from functools import partial

from spanledger.limits.limiter import Limiter
from spanledger.limits.policy import BLOCK, Budget, Policy
from spanledger.limits.store import redis as redis_store
from spanledger.limits.store.protocol import BudgetCounter, Store, StoreError
from spanledger.limits.store.redis import RedisStore

USD = 10**12
"""In picodollars."""

blocking = partial(Budget, action=BLOCK)


def account(key: str = "a", usd: float = 1, seconds: int = 60) -> BudgetCounter:
    return BudgetCounter(key, int(usd * USD), seconds)


def limiter_of(store: Store, *budgets: Budget, **caps: int) -> Limiter:
    return Limiter(Policy(budgets, **caps), store)


def account_of_limiter(limiter: Limiter) -> str:
    """Key of the first account that a limiter has checked; it has checked one set of dimensions."""
    [plan] = limiter._policy_feed._matches[1].values()
    return plan.accounts[0].key


def account_in_redis(store: RedisStore, pattern: str) -> str:
    """Key of the only account whose Redis key matches."""
    [key] = [key.decode() for key in store._client.keys(pattern) if not key.endswith((b":holds", b":told", b":seen"))]
    return key.removeprefix(redis_store.PREFIX)


def eventually(condition, seconds: float = 10) -> bool:
    """Whether a condition is met within so many seconds; a store that does not answer is asked again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(StoreError):
            if condition():
                return True
        time.sleep(0.02)
    return False
