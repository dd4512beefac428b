"""What is spent and what is held of each limit: in this process, or in Redis for all processes.

An amount is *held* from the moment that a call is let through until its cost is known; then it is *spent*. What is held
for longer than HOLD_SECONDS was abandoned (its process died) and is free again. Amounts are picodollars.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

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
    """More than this is not held in it."""
    lives_seconds: int
    """How long the figures are of use: until the window is over, and a little."""


class Reserved(NamedTuple):
    """What became of an amount that was to be held."""

    full: int | None
    """The index of the first account that has no room for it; None: it is held in all."""
    used: tuple[int, ...] = ()
    """Of each account, what is spent and held now, this amount included."""


class Store(Protocol):
    def reserve(self, reservation: str, accounts: Sequence[Account], amount: int) -> Reserved:
        """Hold `amount` in every account, or in none of them.

        Raises:
            StoreError: it is not known whether it is held.
        """
        ...

    def first(self, account: Account, what: str) -> bool:
        """Whether this is said of an account for the first time, over all that use the store. Raises StoreError."""
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
    told: set[str] = field(default_factory=set[str])


class MemoryStore:
    """Limits of this process alone."""

    def __init__(self) -> None:
        self._balances: dict[str, _Balance] = {}
        self._lock = threading.Lock()

    def reserve(self, reservation: str, accounts: Sequence[Account], amount: int) -> Reserved:
        now = time.monotonic()
        with self._lock:
            found = [self._balance(account, now) for account in accounts]
            for number, balance in enumerate(found):
                if balance.spent + balance.sum_held + amount > accounts[number].limit_picousd:
                    return Reserved(number)
            for balance in found:
                balance.held[reservation] = (amount, now + HOLD_SECONDS)
                balance.sum_held += amount
            return Reserved(None, tuple(balance.spent + balance.sum_held for balance in found))

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

    def first(self, account: Account, what: str) -> bool:
        with self._lock:
            told = self._balance(account, time.monotonic()).told
            if what in told:
                return False
            told.add(what)
            return True

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
  if tonumber(known[1] or 0) + tonumber(known[2] or 0) + tonumber(amount) > tonumber(ARGV[2 + 2 * i]) then return {i - 1} end
end
local answer = {-1}
for i, key in ipairs(KEYS) do
  local lives = tonumber(ARGV[3 + 2 * i])
  redis.call('HINCRBY', key, 'held', amount)
  redis.call('HSET', key .. ':held', id, amount)
  redis.call('ZADD', key .. ':until', now + hold, id)
  for _, each in ipairs({key, key .. ':held', key .. ':until'}) do redis.call('PEXPIRE', each, lives) end
  for _, figure in ipairs(redis.call('HMGET', key, 'spent', 'held')) do table.insert(answer, figure or '0') end
end
return answer
"""
"""KEYS: accounts. ARGV: reservation, amount, hold in ms, then (limit, life in ms) of each account. All or nothing.
Returns the account without room, or -1 and what is spent and held of each, as texts: they are exact."""

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

    @contextmanager
    def _answering(self) -> Generator[None]:
        """Turn whatever keeps Redis from answering into StoreError."""
        try:
            yield
        except self._errors as error:
            raise StoreError(f"Redis does not answer: {type(error).__name__}") from error

    def reserve(self, reservation: str, accounts: Sequence[Account], amount: int) -> Reserved:
        bounds = [figure for a in accounts for figure in (a.limit_picousd, a.lives_seconds * 1000)]
        full, *figures = self._run(self._reserve, accounts, [reservation, amount, int(HOLD_SECONDS * 1000), *bounds])
        if full >= 0:
            return Reserved(full)
        numbers = [int(figure) for figure in figures]
        return Reserved(None, tuple(spent + held for spent, held in zip(numbers[::2], numbers[1::2], strict=True)))

    def first(self, account: Account, what: str) -> bool:
        key = f"{PREFIX}{account.key}:told"
        with self._answering():
            new = self._client.sadd(key, what)
            self._client.expire(key, account.lives_seconds)
        return bool(new)

    def settle(self, reservation: str, accounts: Sequence[Account], spent: int) -> None:
        self._run(self._settle, accounts, [reservation, spent, *(a.lives_seconds * 1000 for a in accounts)])

    def balance(self, key: str) -> tuple[int, int]:
        with self._answering():
            spent, held = self._client.hmget(PREFIX + key, "spent", "held")
        return int(spent or 0), int(held or 0)

    def stopped(self) -> frozenset[str]:
        with self._answering():
            return frozenset(name.decode("utf-8", "replace") for name in self._client.smembers(PREFIX + STOPPED))

    def stop(self, what: str) -> None:
        """Refuse what `what` ("feature=summarize") names, in every process. Raises StoreError."""
        self._change("sadd", what)

    def resume(self, what: str) -> None:
        """Let it go on. Raises StoreError."""
        self._change("srem", what)

    def _change(self, command: str, what: str) -> None:
        with self._answering():
            getattr(self._client, command)(PREFIX + STOPPED, what)

    def _run(self, script: Any, accounts: Sequence[Account], arguments: list[Any]) -> Any:
        with self._answering():
            return script(keys=[PREFIX + account.key for account in accounts], args=arguments)
