"""The limiter that the settings describe, and two functions for code that enforces by itself."""

from __future__ import annotations

import atexit
import os
from decimal import Decimal
from functools import lru_cache
from typing import Any

from spanledger import settings
from spanledger.guard import log, quietly
from spanledger.limits.documents import PolicyError, load
from spanledger.limits.estimate import worst_picousd
from spanledger.limits.limiter import Decision, Limiter, Question
from spanledger.limits.policy import Policy
from spanledger.limits.store import MemoryStore, RedisStore, StoreError


@lru_cache(maxsize=1)
def configured() -> Limiter | None:
    """The limiter that the settings describe; None where they ask for none, or make no sense (it is logged).

    SPANLEDGER_LIMITS names a file of budgets; SPANLEDGER_REDIS_URL a Redis where they are published, and where all
    processes count. Either is enough. With a Redis alone the doors ask for every call.
    """
    with quietly("reading the settings of limits"):
        path, url = settings.setting("limits"), settings.setting("redis_url")
        if (path is None and url is None) or settings.enabled("disabled"):
            return None
        try:
            policy = load(path) if path is not None else Policy(enforce=True)
            made = Limiter(policy, RedisStore(url) if url is not None else MemoryStore())
        except (PolicyError, StoreError) as error:
            log.error("no limits are enforced: %s", error)
            return None
        atexit.register(made.close)
        return made
    return None


os.register_at_fork(after_in_child=configured.cache_clear)  # a child has locks, connections and reservations of its own


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
        input_tokens: of the prompt (`spanledger.limits.estimate.text_tokens` gives a bound).
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
            request = {"user": user, "feature": feature, "tenant": tenant, "tier": tier}

            def price(name: str, read: int) -> int | None:
                return worst_picousd(provider, name, read, max_output_tokens)

            question = Question(model, price, lambda: None)
            estimate = price(model, input_tokens)
            return limiter.check(request, estimate, input_tokens, max_output_tokens, question).as_dict()
    return Decision(True).as_dict()


def record_actual_cost(reservation: str, cost_usd: Decimal | float | str) -> bool:
    """Tell what a request that was allowed has cost: 0 where it failed.

    Args:
        reservation: of `check_request_allowed`; "" changes nothing.
        cost_usd: in USD, as `spanledger.pricing.quote` or the provider says.

    Returns:
        Whether it was counted; said twice, it counts once.
    """
    with quietly("recording a cost"):
        limiter = configured()
        if limiter is not None and reservation:
            return limiter.settle(reservation, int(Decimal(str(cost_usd)).scaleb(12)))
    return False
