"""The limiter that the settings describe, and two functions for code that enforces by itself."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from spanledger.context.baggage import identity
from spanledger.limits.dimensions import ATTRIBUTES, named
from spanledger.limits.estimate.worst_case import worst_picousd
from spanledger.limits.limiter import Decision, Limiter
from spanledger.limits.policy import Policy, Who
from spanledger.limits.policy_documents import PolicyError, load
from spanledger.limits.store.memory import MemoryStore
from spanledger.limits.store.protocol import MAX_PICOUSD, StoreError
from spanledger.limits.store.redis import SETTLING_SECONDS, RedisStore
from spanledger.runtime import settings
from spanledger.runtime.guard import log, quietly

_lock = threading.Lock()
_cached_limiter: tuple[Limiter | None] | None = None
"""What the settings describe, once it was made."""


def configured() -> Limiter | None:
    """The limiter that the settings describe; None where they ask for none, or make no sense (it is logged). One a process.

    SPANLEDGER_LIMITS names a file of budgets; SPANLEDGER_REDIS_URL a Redis where they are published, and where all
    processes count. Either is enough. With a Redis alone the doors ask for every call.
    """
    global _cached_limiter
    cache_entry = _cached_limiter
    if cache_entry is None:
        with _lock:
            if _cached_limiter is None:
                _cached_limiter = (_make(),)
            cache_entry = _cached_limiter
    return cache_entry[0]


def present() -> Limiter | None:
    """The limiter of this process, if anybody has asked for it."""
    return _cached_limiter[0] if _cached_limiter is not None else None


def reset() -> None:
    """Forget it: the settings have changed, or this is a forked child, which has locks, connections and holds of its own."""
    global _lock, _cached_limiter
    _lock, _cached_limiter = threading.Lock(), None


os.register_at_fork(after_in_child=reset)


def _make() -> Limiter | None:
    with quietly("reading the settings of limits"):
        path, url = settings.setting("limits"), settings.setting("redis_url")
        if (path is None and url is None) or settings.enabled("disabled"):
            return None
        try:
            policy = named(load(path)) if path is not None else Policy(enforce=True)
            limiter = (
                Limiter(policy, MemoryStore())
                if url is None
                else Limiter(policy, RedisStore(url), settling=RedisStore(url, SETTLING_SECONDS))
            )
        except (PolicyError, StoreError) as error:
            log.error("no limits are enforced: %s", error)
            return None
        _at_the_end(limiter.close)
        return limiter
    return None


def _at_the_end(act: Callable[[], object]) -> None:
    """Have it done when this process ends. A worker of multiprocessing or billiard (Celery) runs none of atexit's."""
    atexit.register(act)
    for name in ("multiprocessing.util", "billiard.util"):
        module: Any = sys.modules.get(name)
        if module is not None:
            module.Finalize(None, act, exitpriority=100)


class _Told(NamedTuple):
    """What the application says that it will ask."""

    provider: str
    model: str
    max_output_tokens: int
    replaceable: bool = True

    def price(self, model: str, read: int) -> int | None:
        return worst_picousd(self.provider, model, read, self.max_output_tokens)

    def sharper(self) -> int | None:
        return None


def check_request_allowed(
    *,
    provider: str,
    model: str,
    input_tokens: int,
    max_output_tokens: int,
    user: str | None = None,
    feature: str | None = None,
    tenant: str | None = None,
    tier: str | None = None,
) -> dict[str, Any]:
    """Whether a request may be made; if so, what it may cost at most is held until `record_actual_cost`.

    Args:
        provider: gen_ai.provider.name ("openai", "anthropic", "gcp.gemini").
        model: as it is asked for.
        input_tokens: of the prompt (`spanledger.limits.sizes.text_tokens`, or `body_tokens` of a whole body, gives a bound).
        max_output_tokens: that may be answered.
        user: whose budgets count it; None: nobody's.
        feature: the feature.
        tenant: the tenant.
        tier: the customer tier.

    Returns:
        {"allowed": bool, "reason": str, "retry_after_seconds": int, "reservation": str, "warnings": list of str,
        "model": the model to ask instead, or ""}. Without limits, and whatever goes wrong in here, it is allowed.
    """
    with quietly("checking limits"):
        limiter = configured()
        if limiter is not None:
            dimension_values = {"tenant": tenant, "tier": tier, "feature": feature, "user": user}
            who = Who(**{name: identity(ATTRIBUTES[name], value) for name, value in dimension_values.items()})
            request_estimate = _Told(provider, model, max_output_tokens)
            estimate = request_estimate.price(model, input_tokens)
            return limiter.check(who, estimate, input_tokens, max_output_tokens, request_estimate).as_dict()
    return Decision(True).as_dict()


def record_actual_cost(reservation: str, cost_usd: Decimal | float | str) -> bool:
    """Tell what a request that was allowed has cost: 0 where it failed.

    Args:
        reservation: of `check_request_allowed`; "" changes nothing.
        cost_usd: in USD, as `spanledger.pricing.quote` or the provider says; from 0 to a million.

    Returns:
        Whether the store has it; said twice, it counts once. False also of a reservation that another process made: who has
        asked tells.
    """
    with quietly("recording a cost"):
        limiter = configured()
        if limiter is not None and reservation:
            cost = _picousd(cost_usd)
            if cost is None:
                log.error("record_actual_cost: %r is no cost in USD, and is not counted", cost_usd)
                return False
            return limiter.settle(reservation, cost)
    return False


def _picousd(cost_usd: Decimal | float | str) -> int | None:
    try:
        cost = Decimal(str(cost_usd)).scaleb(12)
    except InvalidOperation:
        return None
    return int(cost) if cost.is_finite() and 0 <= cost <= MAX_PICOUSD else None
