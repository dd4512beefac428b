"""Budgets of every process that uses the same Redis: one script holds an amount in all accounts, or in none."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from spanledger.limits.store.protocol import (
    DONE_SECONDS,
    HOLD_SECONDS,
    MAX_PICOUSD,
    Account,
    Controls,
    Reserved,
    StoreError,
)
from spanledger.limits.store.redis_connection import CONNECT_SECONDS, patient

DEADLINE_SECONDS: Final = 0.02
"""How long Redis may take for one step (to connect, to answer); then the budget's failure rule decides."""
SETTLING_SECONDS: Final = 2.0
"""The same for costs, which no call waits for: under load a busy machine takes longer than a call may wait, and a
reservation that nobody frees is held for HOLD_SECONDS."""
AT_ONCE: Final = 1000
"""Accounts that are levelled in one go."""
STOPPED: Final = "stopped"
PUBLISHED: Final = "budgets"
PUBLISHER: Final = "ledger"
PREFIX: Final = "spanledger:{limits}:"
"""The braces keep all keys in one slot, where one script may touch them all."""

RESERVE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local hold, amount = ARGV[1], ARGV[2]
local spent = {-1}
if redis.call('EXISTS', KEYS[1]) == 1 then return {0} end
for i = 2, #KEYS do
  local key = KEYS[i]
  local holds = key .. ':holds'
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', holds, '-inf', now)) do
    redis.call('HINCRBY', key, 'held', '-' .. string.match(gone, '[1-9]%d*$'))
    redis.call('ZREM', holds, gone)
  end
  local known = redis.call('HMGET', key, 'spent', 'held')
  if tonumber(known[1] or 0) + math.max(0, tonumber(known[2] or 0)) + tonumber(amount) > tonumber(ARGV[2 * i]) then return {i - 2} end
  spent[i] = known[1] or '0'
end
for i = 2, #KEYS do
  local key = KEYS[i]
  redis.call('HINCRBY', key, 'held', amount)
  redis.call('ZADD', key .. ':holds', now + tonumber(ARGV[3]), hold)
  redis.call('PEXPIRE', key .. ':holds', ARGV[1 + 2 * i])
  redis.call('PEXPIRE', key, ARGV[1 + 2 * i])
end
return spent
"""
"""KEYS: a mark that it is over, then accounts. ARGV: hold ("reservation:amount"), amount, life of the hold in ms, then (limit,
life in ms) of each account. The amount is 1 or more. All or nothing. Returns the account without room, or -1 and what is spent
of each, as texts: they are exact. What arrives after its end, because it was long under way, holds nothing."""

SETTLE: Final = """
local spent = {}
local late, seen = ARGV[4 + #KEYS] == '1', ARGV[5 + #KEYS] == '1'
local first = seen or redis.call('EXISTS', KEYS[1]) == 0
for i = 2, #KEYS do
  local key = KEYS[i]
  local new = first
  if seen then
    new = redis.call('SADD', key .. ':seen', KEYS[1]) == 1
    redis.call('PEXPIRE', key .. ':seen', ARGV[3 + i])
  end
  if new then
    if ARGV[2] ~= '0' and redis.call('ZREM', key .. ':holds', ARGV[1]) == 1 then
      redis.call('HINCRBY', key, 'held', '-' .. ARGV[2])
    end
    redis.call('HINCRBY', key, 'spent', ARGV[3])
    redis.call('PEXPIRE', key, ARGV[3 + i])
    local levelled = late and redis.call('HGET', key, 'levelled') or '0'
    local known = tonumber(levelled) < tonumber(ARGV[3]) and levelled or ARGV[3]
    if known ~= '0' then
      redis.call('HINCRBY', key, 'levelled', '-' .. known)
      redis.call('HINCRBY', key, 'spent', '-' .. known)
    end
  end
  spent[i - 1] = redis.call('HGET', key, 'spent') or '0'
end
if first and not seen then redis.call('SET', KEYS[1], 1, 'PX', ARGV[4]) end
return spent
"""
"""KEYS: a mark that it is done, then accounts. ARGV: hold, amount held, amount spent, life of the mark in ms, then the life
in ms of each account, then 1 of a cost that comes late: what of it the account was levelled with does not count twice;
then 1 of a cost that others may tell too: each account counts it once, as long as it lives. Returns what is spent of
each. What is sent again because no answer came counts once."""

RAISE: Final = """
local known = redis.call('HGET', KEYS[1], 'spent')
if tonumber(known or 0) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'spent', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'levelled', string.format('%.0f', tonumber(ARGV[1]) - tonumber(known or 0)))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
"""KEYS: an account. ARGV: what is known to be spent, life in ms."""


class RedisStore:
    """Budgets of every process that uses the same Redis (one server, or a primary; its keys must not be evicted)."""

    @property
    def remote(self) -> bool:
        return True

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
        try:
            client: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
        except (ValueError, TypeError) as error:
            raise StoreError("SPANLEDGER_REDIS_URL is no URL of Redis: use redis://host:port/0") from error
        pool = client.connection_pool
        pool.connection_class = patient(
            pool.connection_class, deadline, lambda: redis.TimeoutError("connecting to it takes its time")
        )
        pool.connection_kwargs |= {  # whatever the URL says
            "decode_responses": False,
            "socket_timeout": deadline,
            "socket_connect_timeout": CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
        }
        self._refusals: Any = redis.ResponseError, redis.BusyLoadingError, redis.AuthenticationError
        self._client = client
        self._reserve: Any = client.register_script(RESERVE)
        self._settle: Any = client.register_script(SETTLE)
        self._raise: Any = client.register_script(RAISE)

    @contextmanager
    def _answering(self) -> Generator[None]:
        """Turn whatever keeps Redis from answering into StoreError."""
        try:
            yield
        except Exception as error:  # a driver and a server come up with much, and each of it means: not counted
            answered = isinstance(error, self._refusals)
            outcome_unknown = not answered and "connecting to" not in str(error)  # what could not be sent was not done
            # A class of its own, or a code in capitals, is about the server; WRONGTYPE and the rest about this very key.
            of_the_server = type(error) is not self._refusals[0] or re.match(r"(?!WRONGTYPE)[A-Z]{3,}\b", str(error))
            refused = answered and not of_the_server
            what = "refuses" if answered else "does not answer"
            raise StoreError(f"Redis {what}: {type(error).__name__}", doubtful=outcome_unknown, refused=refused) from error

    def reserve(self, reservation: str, accounts: Sequence[Account], amount: int) -> Reserved:
        bounds = [figure for a in accounts for figure in (a.limit_picousd, a.lives_seconds * 1000)]
        hold = f"{reservation}:{amount}"
        full, *spent = self._run(
            self._reserve, reservation, accounts, [hold, amount, int(HOLD_SECONDS * 1000), *bounds]
        )
        return Reserved(full) if full >= 0 else Reserved(None, [int(text) for text in spent])

    def settle(
        self,
        reservation: str,
        accounts: Sequence[Account],
        held: int,
        spent: int,
        *,
        late: bool = False,
        cross_process: bool = False,
    ) -> Sequence[int]:
        spent = min(spent, MAX_PICOUSD)
        lives = [account.lives_seconds * 1000 for account in accounts]
        arguments = [f"{reservation}:{held}", held, spent, int(DONE_SECONDS * 1000), *lives, int(late), int(cross_process)]
        return [int(text) for text in self._run(self._settle, reservation, accounts, arguments)]

    def first(self, account: Account, what: str) -> bool:
        key = f"{PREFIX}{account.key}:told"
        with self._answering():
            new = self._client.sadd(key, what)
            self._client.expire(key, account.lives_seconds)
        return bool(new)

    def balance(self, key: str) -> tuple[int, int]:
        with self._answering():
            spent, held = self._client.hmget(PREFIX + key, "spent", "held")
        return int(spent or 0), int(held or 0)

    def controls(self) -> Controls:
        with self._answering(), self._client.pipeline(transaction=False) as both:
            both.smembers(PREFIX + STOPPED)
            both.get(PREFIX + PUBLISHED)
            stopped, published = both.execute()
        return Controls(frozenset(map(_text, stopped)), _text(published or b""))

    # --- for people: the commands ----------------------------------------------------------------------------

    def stop(self, what: str) -> None:
        """Refuse what `what` ("feature=summarize") names, in every process. Raises StoreError."""
        with self._answering():
            self._client.sadd(PREFIX + STOPPED, what)

    def resume(self, what: str) -> None:
        """Let it go on. Raises StoreError."""
        with self._answering():
            self._client.srem(PREFIX + STOPPED, what)

    def publish(self, document: str, publisher: str = "") -> None:
        """Have every process take its budgets from a document (see `Controls`). `publisher`: the ledger that they are from.
        Raises StoreError."""
        with self._answering():
            self._client.mset({PREFIX + PUBLISHED: document, PREFIX + PUBLISHER: publisher})

    def publisher(self) -> str:
        """The ledger that the published budgets are from; "": nobody knows. Raises StoreError."""
        with self._answering():
            return _text(self._client.get(PREFIX + PUBLISHER) or b"")

    def at_least(self, amounts: Sequence[tuple[Account, int]]) -> None:
        """Take an account's spend to be so many picodollars where less is counted in it. Raises StoreError."""
        for start in range(0, len(amounts), AT_ONCE):
            with self._answering(), self._client.pipeline(transaction=False) as many:
                for account, spent in amounts[start : start + AT_ONCE]:
                    self._raise(keys=[PREFIX + account.key], args=[spent, account.lives_seconds * 1000], client=many)
                many.execute()

    def _run(self, script: Any, reservation: str, accounts: Sequence[Account], arguments: list[Any]) -> Any:
        keys = [f"{PREFIX}done:{reservation}", *(PREFIX + account.key for account in accounts)]
        with self._answering():
            return script(keys=keys, args=arguments)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
