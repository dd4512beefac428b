"""The process-wide limiter from the settings, and the API for applications that enforce limits themselves."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple, Unpack

from spanledger.context.baggage import dimension_value
from spanledger.limits.dimensions import normalize_policy
from spanledger.limits.estimate.worst_case import max_cost_picousd
from spanledger.limits.limiter import Limiter
from spanledger.limits.policy import Dimensions, Policy
from spanledger.limits.policy_documents import PolicyError, load
from spanledger.limits.reservations import Decision
from spanledger.limits.store.memory import MemoryStore
from spanledger.limits.store.protocol import MAX_PICOUSD, StoreError
from spanledger.limits.store.redis import DEADLINE_SECONDS, SETTLEMENT_DEADLINE_SECONDS, RedisStore
from spanledger.runtime import forks, settings
from spanledger.runtime.guard import log, quietly
from spanledger.semconv.dimensions import LIMIT_DIMENSIONS, LimitDimensions

_lock = threading.Lock()
_cached_limiter: tuple[Limiter | None] | None = None
"""The limiter from the settings, once created; (None,): limits are off."""


def limiter_from_settings() -> Limiter | None:
    """The limiter of this process, from the settings; None if limits are off or the settings are invalid (logged).

    SPANLEDGER_LIMITS names a file of budgets; SPANLEDGER_REDIS_URL a Redis where they are published, and where all
    processes count. Either is enough. With Redis alone the hooks authorize every call.
    """
    global _cached_limiter
    cache_entry = _cached_limiter
    if cache_entry is None:
        with _lock:
            if _cached_limiter is None:
                _cached_limiter = (_build_limiter(),)
            cache_entry = _cached_limiter
    return cache_entry[0]


def current_limiter() -> Limiter | None:
    """The limiter of this process, if it was created."""
    return _cached_limiter[0] if _cached_limiter is not None else None


def reset() -> None:
    """Drop the limiter: the settings have changed, or this is a forked child, which needs its own locks and connections."""
    global _lock, _cached_limiter
    _lock, _cached_limiter = threading.Lock(), None


forks.in_child(reset)


def _build_limiter() -> Limiter | None:
    with quietly("reading the settings of limits"):
        path, url = settings.setting("limits"), settings.setting("redis_url")
        if (path is None and url is None) or settings.enabled("disabled"):
            return None
        try:
            policy = normalize_policy(load(path)) if path is not None else Policy(enforce=True)
            limiter = (
                Limiter(policy, MemoryStore())
                if url is None
                else Limiter(
                    policy,
                    RedisStore(url, _redis_deadline()),
                    settlement_store=RedisStore(url, max(_redis_deadline(), SETTLEMENT_DEADLINE_SECONDS)),
                )
            )
        except (PolicyError, StoreError) as error:
            log.error("no limits are enforced: %s", error)
            return None
        _register_exit_hook(limiter.close)
        return limiter
    return None


def _redis_deadline() -> float:
    """`SPANLEDGER_REDIS_TIMEOUT_MS` in seconds, at most 10: how long a call may wait for Redis."""
    configured = settings.setting("redis_timeout_ms")
    if configured is None:
        return DEADLINE_SECONDS
    try:
        milliseconds = int(configured)
    except ValueError:
        milliseconds = 0
    if not 1 <= milliseconds <= 10_000:
        log.error("SPANLEDGER_REDIS_TIMEOUT_MS is %r, not 1 to 10000 milliseconds: 20 are used", configured)
        return DEADLINE_SECONDS
    return milliseconds / 1000


def _register_exit_hook(callback: Callable[[], object]) -> None:
    atexit.register(callback)
    forks.at_worker_exit(callback)


class _StaticEstimate(NamedTuple):
    """An estimate from figures that the application supplies."""

    provider: str
    model: str
    max_output_tokens: int
    replaceable: bool = True

    def max_cost(self, model: str, input_tokens: int) -> int | None:
        return max_cost_picousd(self.provider, model, input_tokens, self.max_output_tokens)

    def count_prompt_tokens(self) -> int | None:
        return None


def check_request_allowed(
    *,
    provider: str,
    model: str,
    input_tokens: int,
    max_output_tokens: int,
    **dimensions: Unpack[LimitDimensions],
) -> dict[str, Any]:
    """Check whether a request is allowed; if so, reserve its maximum cost until `record_actual_cost`.

    Args:
        provider: gen_ai.provider.name ("openai", "anthropic", "gcp.gemini").
        model: the requested model.
        input_tokens: of the prompt (`text_tokens`, or `body_tokens` for a whole body, in `spanledger.limits.estimate.token_bound`,
            give an upper bound).
        max_output_tokens: the maximum of the response.
        dimensions: user, feature, tenant, tier, request_id, session, conversation (`LimitDimensions`); None: unattributed.

    Returns:
        {"allowed": bool, "reason": str, "retry_after_seconds": int, "reservation": str, "warnings": list of str,
        "model": the replacement model, or ""}. Without limits, and after an internal error, the request is allowed.

    Raises:
        TypeError: a keyword is not a dimension of budgets.
    """
    given = Dimensions(**dimensions)
    with quietly("checking limits"):
        limiter = limiter_from_settings()
        if limiter is not None:
            attributes = [row.attribute for row in LIMIT_DIMENSIONS.values()]
            stored = {name: dimension_value(name, value) for name, value in zip(attributes, given, strict=True)}
            request_estimate = _StaticEstimate(provider, model, max_output_tokens)
            estimate = request_estimate.max_cost(model, input_tokens)
            return limiter.check(
                Dimensions.of_attributes(stored), estimate, input_tokens, max_output_tokens, request_estimate
            ).as_dict()
    return Decision(True).as_dict()


def record_actual_cost(reservation: str, cost_usd: Decimal | float | str) -> bool:
    """Settle an allowed request with its actual cost; 0 if it failed.

    Args:
        reservation: from `check_request_allowed`; "" is ignored.
        cost_usd: in USD, from `spanledger.pricing.quote` or the provider; 0 to 1,000,000.

    Returns:
        Whether the store has it; a cost that is reported twice counts once. False also for a reservation of another
        process: the process that reserves must settle.
    """
    with quietly("recording a cost"):
        limiter = limiter_from_settings()
        if limiter is not None and reservation:
            cost = _picousd(cost_usd)
            if cost is None:
                log.error("record_actual_cost: %r is not a valid cost in USD; it is not counted", cost_usd)
                return False
            return limiter.settle(reservation, cost)
    return False


def _picousd(cost_usd: Decimal | float | str) -> int | None:
    try:
        cost = Decimal(str(cost_usd)).scaleb(12)
    except InvalidOperation:
        return None
    return int(cost) if cost.is_finite() and 0 <= cost <= MAX_PICOUSD else None
