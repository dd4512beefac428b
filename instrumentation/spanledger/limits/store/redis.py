"""Redis store: budget counters shared by all processes; one Lua script reserves an amount in all counters, or in none."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any, Final

from spanledger.limits.store.protocol import (
    DEDUP_SECONDS,
    HOLD_SECONDS,
    MAX_PICOUSD,
    BudgetCounter,
    Controls,
    ReserveResult,
    StoreError,
)
from spanledger.limits.store.redis_connection import CONNECT_SECONDS, with_connect_deadline

DEADLINE_SECONDS: Final = 0.02
"""Timeout for one step (connect, response); after it the budget's failure mode (open or closed) applies."""
SETTLEMENT_DEADLINE_SECONDS: Final = 2.0
"""The same for settlements, which block no call: a loaded machine takes longer than a call may wait, and a reservation
that is not settled is held for HOLD_SECONDS."""
PIPELINE_BATCH: Final = 1000
"""Counters per pipeline in a reconciliation."""
STOPPED_KEY: Final = "stopped"
PUBLISHED_KEY: Final = "budgets"
PUBLISHER_KEY: Final = "ledger"
PREFIX: Final = "spanledger:{limits}:"
"""The braces keep all keys in one slot, where one script may touch them all."""


class RedisStore:
    """Budget counters in Redis, shared by all processes (one server, or a primary; its keys must not be evicted)."""

    @property
    def remote(self) -> bool:
        return True

    def __init__(self, url: str, deadline: float = DEADLINE_SECONDS) -> None:
        """
        Args:
            url: redis://[user:password@]host:port/database, rediss:// for TLS, unix://.
            deadline: response timeout in seconds.

        Raises:
            StoreError: redis-py is not installed, or the URL is invalid.
        """
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise StoreError("limits in Redis need redis-py: pip install 'spanledger[redis]'") from error
        try:
            client: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
        except (ValueError, TypeError) as error:
            raise StoreError("SPANLEDGER_REDIS_URL is not a valid Redis URL; use redis://host:port/0") from error
        pool = client.connection_pool
        pool.connection_class = with_connect_deadline(
            pool.connection_class, deadline, lambda: redis.TimeoutError("connecting to it takes its time")
        )
        pool.connection_kwargs |= {  # overrides options in the URL
            "decode_responses": False,
            "socket_timeout": deadline,
            "socket_connect_timeout": CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
        }
        self._refusals: Any = redis.ResponseError, redis.BusyLoadingError, redis.AuthenticationError
        self._client = client
        self._reserve_script: Any = client.register_script(_lua("reserve"))
        self._settle_script: Any = client.register_script(_lua("settle"))
        self._raise_script: Any = client.register_script(_lua("raise_to"))

    @contextmanager
    def _mapped_errors(self) -> Generator[None]:
        """Map every driver and server error to StoreError."""
        try:
            yield
        except Exception as error:  # every error of driver or server means: not counted
            is_refusal = isinstance(error, self._refusals)
            outcome_unknown = not is_refusal and "connecting to" not in str(error)  # an unsent request was not executed
            # A specific class, or a code in capitals, is a server problem; WRONGTYPE and the rest concern this key only.
            is_server_error = type(error) is not self._refusals[0] or re.match(r"(?!WRONGTYPE)[A-Z]{3,}\b", str(error))
            refused = is_refusal and not is_server_error
            problem = "refuses" if is_refusal else "does not answer"
            raise StoreError(
                f"Redis {problem}: {type(error).__name__}", outcome_unknown=outcome_unknown, refused=refused
            ) from error

    def reserve(self, reservation: str, counters: Sequence[BudgetCounter], amount: int) -> ReserveResult:
        bounds = [figure for a in counters for figure in (a.limit_picousd, a.ttl_seconds * 1000)]
        hold = f"{reservation}:{amount}"
        full, *spent = self._run(
            self._reserve_script, reservation, counters, [hold, amount, int(HOLD_SECONDS * 1000), *bounds]
        )
        return ReserveResult(full) if full >= 0 else ReserveResult(None, [int(text) for text in spent])

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
        spent = min(spent, MAX_PICOUSD)
        ttls = [counter.ttl_seconds * 1000 for counter in counters]
        arguments = [
            f"{reservation}:{held}",
            held,
            spent,
            int(DEDUP_SECONDS * 1000),
            *ttls,
            int(delayed),
            int(cross_process),
        ]
        return [int(text) for text in self._run(self._settle_script, reservation, counters, arguments)]

    def claim_alert(self, counter: BudgetCounter, alert: str) -> bool:
        key = f"{PREFIX}{counter.key}:told"
        with self._mapped_errors():
            new = self._client.sadd(key, alert)
            self._client.expire(key, counter.ttl_seconds)
        return bool(new)

    def balance(self, key: str) -> tuple[int, int]:
        with self._mapped_errors():
            spent, held = self._client.hmget(PREFIX + key, "spent", "held")
        return int(spent or 0), int(held or 0)

    def controls(self) -> Controls:
        with self._mapped_errors(), self._client.pipeline(transaction=False) as pipeline:
            pipeline.smembers(PREFIX + STOPPED_KEY)
            pipeline.get(PREFIX + PUBLISHED_KEY)
            stopped, published = pipeline.execute()
        return Controls(frozenset(map(_text, stopped)), _text(published or b""))

    # --- for the CLI commands ---------------------------------------------------------------------------------

    def stop(self, scope: str) -> None:
        """Set the kill switch for `scope` ("feature=summarize") in every process. Raises StoreError."""
        with self._mapped_errors():
            self._client.sadd(PREFIX + STOPPED_KEY, scope)

    def resume(self, scope: str) -> None:
        """Lift a kill switch. Raises StoreError."""
        with self._mapped_errors():
            self._client.srem(PREFIX + STOPPED_KEY, scope)

    def publish(self, document: str, publisher: str = "") -> None:
        """Publish a policy document to every process (see `Controls`). `publisher`: the ledger it comes from.
        Raises StoreError."""
        with self._mapped_errors():
            self._client.mset({PREFIX + PUBLISHED_KEY: document, PREFIX + PUBLISHER_KEY: publisher})

    def publisher(self) -> str:
        """The ledger that published the budgets; "": unknown. Raises StoreError."""
        with self._mapped_errors():
            return _text(self._client.get(PREFIX + PUBLISHER_KEY) or b"")

    def raise_to(self, amounts: Sequence[tuple[BudgetCounter, int]]) -> None:
        """Reconcile counters: raise each spent amount to at least this many picodollars. Raises StoreError."""
        for start in range(0, len(amounts), PIPELINE_BATCH):
            with self._mapped_errors(), self._client.pipeline(transaction=False) as pipeline:
                for counter, spent in amounts[start : start + PIPELINE_BATCH]:
                    self._raise_script(
                        keys=[PREFIX + counter.key], args=[spent, counter.ttl_seconds * 1000], client=pipeline
                    )
                pipeline.execute()

    def _run(self, script: Any, reservation: str, counters: Sequence[BudgetCounter], arguments: list[Any]) -> Any:
        keys = [f"{PREFIX}done:{reservation}", *(PREFIX + counter.key for counter in counters)]
        with self._mapped_errors():
            return script(keys=keys, args=arguments)


def _lua(name: str) -> str:
    return (resources.files("spanledger.limits.store") / f"{name}.lua").read_text("utf-8")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
