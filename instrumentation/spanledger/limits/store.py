"""What is spent and what is held of each limit: in this process, or in Redis for all processes.

An amount is *held* from the moment that a call is let through until its cost is known; then it is *spent*. What is held
for longer than HOLD_SECONDS was abandoned (its process died) and is free again. Amounts are picodollars.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, cast

HOLD_SECONDS: Final = 900.0
"""A call that has taken this long will not come back: no SDK waits longer by default (openai 3.57: 600 s)."""
DEADLINE_SECONDS: Final = 0.02
"""How long Redis may take to answer; then the limit's failure rule decides."""
STOPPED: Final = "stopped"
PREFIX: Final = "spanledger:{limits}:"
"""The braces keep all keys in one slot of a cluster, where one script may touch them all."""


class StoreError(Exception):
    """The store did not answer in time, or at all."""


class Account(NamedTuple):
    """One limit's amount in one window."""

    key: str
    limit_picousd: int
    lives_seconds: int
    """How long the figures are of use: until the window is over, and a little."""


class Store(Protocol):
    def reserve(self, reservation: str, accounts: Sequence[Account], amount: int) -> int | None:
        """Hold `amount` in every account, or in none of them.

        Returns:
            None where it is held; else the index of the first account that has no room for it.

        Raises:
            StoreError: it is not known whether it is held.
        """
        ...

    def settle(self, reservation: str, accounts: Sequence[Account], spent: int) -> None:
        """Free what is held, and count `spent`. Raises StoreError."""
        ...

    def balance(self, key: str) -> tuple[int, int]:
        """(spent, held) of an account. Raises StoreError."""
        ...

    def stopped(self) -> frozenset[str]:
        """What is stopped by hand, as "feature=summarize". Raises StoreError."""
        ...


@dataclass
class _Balance:
    until: float
    spent: int = 0
    sum_held: int = 0
    held: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    """Reservation -> (amount, when it counts as abandoned)."""


class MemoryStore:
    """Limits of this process alone."""

    def __init__(self) -> None:
        self._balances: dict[str, _Balance] = {}
        self._lock = threading.Lock()

    def reserve(self, reservation: str, accounts: Sequence[Account], amount: int) -> int | None:
        now = time.monotonic()
        with self._lock:
            found = [self._balance(account, now) for account in accounts]
            for number, balance in enumerate(found):
                if balance.spent + balance.sum_held + amount > accounts[number].limit_picousd:
                    return number
            for balance in found:
                balance.held[reservation] = (amount, now + HOLD_SECONDS)
                balance.sum_held += amount
        return None

    def settle(self, reservation: str, accounts: Sequence[Account], spent: int) -> None:
        now = time.monotonic()
        with self._lock:
            for account in accounts:
                balance = self._balance(account, now)
                balance.sum_held -= balance.held.pop(reservation, (0, 0.0))[0]
                balance.spent += spent

    def balance(self, key: str) -> tuple[int, int]:
        with self._lock:
            found = self._balances.get(key)
            return (found.spent, found.sum_held) if found else (0, 0)

    def stopped(self) -> frozenset[str]:
        return frozenset()  # `spanledger stop` speaks to every process, by way of Redis

    def _balance(self, account: Account, now: float) -> _Balance:
        found = self._balances.get(account.key)
        if found is None:
            self._balances = {key: each for key, each in self._balances.items() if each.until > now}
            found = self._balances[account.key] = _Balance(now + account.lives_seconds)
        while found.held:  # in the order in which they were made
            first = next(iter(found.held))
            amount, until = found.held[first]
            if until > now:
                break
            del found.held[first]
            found.sum_held -= amount
        return found


RESERVE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id, amount, hold = ARGV[1], ARGV[2], tonumber(ARGV[3])
for i, key in ipairs(KEYS) do
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', key .. ':until', '-inf', now)) do
    redis.call('HINCRBY', key, 'held', '-' .. redis.call('HGET', key .. ':held', gone))
    redis.call('HDEL', key .. ':held', gone)
    redis.call('ZREM', key .. ':until', gone)
  end
  local known = redis.call('HMGET', key, 'spent', 'held')
  if tonumber(known[1] or 0) + tonumber(known[2] or 0) + tonumber(amount) > tonumber(ARGV[2 + 2 * i]) then return i - 1 end
end
for i, key in ipairs(KEYS) do
  local lives = tonumber(ARGV[3 + 2 * i])
  redis.call('HINCRBY', key, 'held', amount)
  redis.call('HSET', key .. ':held', id, amount)
  redis.call('ZADD', key .. ':until', now + hold, id)
  for _, each in ipairs({key, key .. ':held', key .. ':until'}) do redis.call('PEXPIRE', each, lives) end
end
return -1
"""
"""KEYS: accounts. ARGV: reservation, amount, hold in ms, then (limit, life in ms) of each account. All or nothing."""

SETTLE: Final = """
local id, spent = ARGV[1], ARGV[2]
for i, key in ipairs(KEYS) do
  local lives = tonumber(ARGV[2 + i])
  local held = redis.call('HGET', key .. ':held', id)
  if held then
    redis.call('HINCRBY', key, 'held', '-' .. held)
    redis.call('HDEL', key .. ':held', id)
    redis.call('ZREM', key .. ':until', id)
  end
  redis.call('HINCRBY', key, 'spent', spent)
  redis.call('PEXPIRE', key, lives)
end
return 1
"""
"""KEYS: accounts. ARGV: reservation, spent, then the life in ms of each account."""


class RedisStore:
    """Limits of every process that uses the same Redis."""

    def __init__(self, url: str, deadline: float = DEADLINE_SECONDS) -> None:
        """
        Args:
            url: redis://[user:password@]host:port/database, rediss:// for TLS, unix://.
            deadline: seconds that an answer may take.

        Raises:
            StoreError: redis-py is not installed, or the URL is none.
        """
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise StoreError("limits in Redis need redis-py: pip install 'spanledger[redis]'") from error
        self._errors: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        try:
            client: Any = redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
                url, socket_timeout=deadline, socket_connect_timeout=deadline, retry=Retry(NoBackoff(), 0)
            )
        except ValueError as error:
            raise StoreError("SPANLEDGER_REDIS_URL is no URL of Redis: use redis://host:port/0") from error
        self._client = client
        self._reserve: Any = client.register_script(RESERVE)
        self._settle: Any = client.register_script(SETTLE)

    def reserve(self, reservation: str, accounts: Sequence[Account], amount: int) -> int | None:
        bounds = [figure for a in accounts for figure in (a.limit_picousd, a.lives_seconds * 1000)]
        full = self._run(self._reserve, accounts, [reservation, amount, int(HOLD_SECONDS * 1000), *bounds])
        return None if full < 0 else full

    def settle(self, reservation: str, accounts: Sequence[Account], spent: int) -> None:
        self._run(self._settle, accounts, [reservation, spent, *(a.lives_seconds * 1000 for a in accounts)])

    def balance(self, key: str) -> tuple[int, int]:
        try:
            spent, held = self._client.hmget(PREFIX + key, "spent", "held")
        except self._errors as error:
            raise StoreError(f"Redis does not answer: {type(error).__name__}") from error
        return int(spent or 0), int(held or 0)

    def stopped(self) -> frozenset[str]:
        try:
            return frozenset(name.decode("utf-8", "replace") for name in self._client.smembers(PREFIX + STOPPED))
        except self._errors as error:
            raise StoreError(f"Redis does not answer: {type(error).__name__}") from error

    def stop(self, what: str) -> None:
        """Refuse what `what` ("feature=summarize") names, in every process. Raises StoreError."""
        self._change("sadd", what)

    def resume(self, what: str) -> None:
        """Let it go on. Raises StoreError."""
        self._change("srem", what)

    def _change(self, command: str, what: str) -> None:
        try:
            getattr(self._client, command)(PREFIX + STOPPED, what)
        except self._errors as error:
            raise StoreError(f"Redis does not answer: {type(error).__name__}") from error

    def _run(self, script: Any, accounts: Sequence[Account], arguments: list[Any]) -> int:
        try:
            return cast("int", script(keys=[PREFIX + account.key for account in accounts], args=arguments))
        except self._errors as error:
            raise StoreError(f"Redis does not answer: {type(error).__name__}") from error
