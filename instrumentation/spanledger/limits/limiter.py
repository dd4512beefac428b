"""Whether a request may be made: its size, then each limit that counts it, the shortest window first."""

from __future__ import annotations

import itertools
import os
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from math import ceil
from typing import Any, Final, NamedTuple

from spanledger import settings
from spanledger.guard import log, quietly
from spanledger.limits.estimate import worst_picousd
from spanledger.limits.policy import BLOCK, Limit, Policy, PolicyError, load
from spanledger.limits.store import Account, MemoryStore, RedisStore, Store, StoreError
from spanledger.limits.windows import Window, window

AFTER_SECONDS: Final = 86_400
"""How long the figures of a window stay after its end, for calls that end late."""
STOPS_SECONDS: Final = 2.0
"""How old the list of what is stopped by hand may be."""
ENDLESS: Final = 2**62
"""The amount of a limit that only warns."""
MAX_TOLD: Final = 10_000
MAX_OPEN: Final = 100_000
"""Reservations remembered by a process; the oldest are forgotten first, and run out by themselves."""


class Decision(NamedTuple):
    """What `check` says."""

    allowed: bool
    reason: str = ""
    """Why not; or "store" where the store did not answer and the request passed all the same."""
    retry_after_seconds: int = 0
    """Until the end of the window whose limit has no room; 0 where waiting does not help."""
    reservation: str = ""
    """For `settle`; "" where nothing is held."""
    warnings: tuple[str, ...] = ()
    """Limits of which a threshold has been passed, e.g. ("everything 90%",)."""

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "warnings": list(self.warnings)}


class _Running(NamedTuple):
    """A window that is under way."""

    window: Window
    begun: int
    """Unix seconds of its start."""
    lives_seconds: int
    """How long its figures are kept after they were last touched."""


class Limiter:
    """A policy over a store. Any number of threads may use it, and any number of processes the same Redis."""

    def __init__(self, policy: Policy, store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.policy = policy
        self._store = store
        self._now = now
        self._stops: frozenset[str] = frozenset()
        self._stops_until = 0.0
        self._told: OrderedDict[tuple[str, float], None] = OrderedDict()
        self._windows: dict[str, _Running] = {}
        self._name = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._open: OrderedDict[str, tuple[Account, ...]] = OrderedDict()
        self.counted: Counter[str] = Counter()
        """allowed | refused | threshold | store_down | stops_unknown: what became of requests, for metrics."""

    def check(
        self, request: Mapping[str, str | None], estimate_picousd: int | None, input_tokens: int = 0, output_tokens: int = 0
    ) -> Decision:  # fmt: skip
        """Let a request pass and hold what it may cost, or say why not.

        Args:
            request: dimension (tenant, tier, feature, user) -> its value, or None.
            estimate_picousd: the most that it may cost; None where that is not known: it then passes every limit that
                does not fail closed, and is held with nothing.
            input_tokens: of the prompt.
            output_tokens: that may be answered.
        """
        found = self._check(request, estimate_picousd, input_tokens, output_tokens)
        self.counted["allowed" if found.allowed else "refused"] += 1
        return found

    def _check(
        self, request: Mapping[str, str | None], estimate: int | None, input_tokens: int, output_tokens: int
    ) -> Decision:  # fmt: skip
        stopped = self._stopped(request)
        if stopped:
            return Decision(False, stopped)
        too_large = self._too_large(input_tokens, output_tokens)
        if too_large:
            return Decision(False, too_large)
        limits = [limit for limit in self.policy.limits if limit.counts(request)]
        if not limits:
            return Decision(True)
        if estimate is None and (closed := next((limit for limit in limits if limit.fail_closed), None)):
            return Decision(False, f"limit {closed.name!r}: the model has no price, and the limit fails closed")
        now = self._now()
        windows = [self._window(limit, now) for limit in limits]
        accounts = tuple(
            Account(
                f"{limit.bucket(request)}\x1f{w.begun}",
                limit.amount_picousd if limit.action == BLOCK else ENDLESS,
                w.lives_seconds,
            )
            for limit, w in zip(limits, windows, strict=True)
        )
        reservation = f"{self._name}:{next(self._numbers)}"
        try:
            held = self._store.reserve(reservation, accounts, estimate or 0)
        except StoreError as error:
            return self._unanswered(limits, error)
        if held.full is None:
            self._remember(reservation, accounts)
            return Decision(True, "", 0, reservation, self._warnings(limits, accounts, held.used))
        limit = limits[held.full]
        amount = Decimal(limit.amount_picousd).scaleb(-12)
        return Decision(False, f"limit {limit.name!r}: ${amount.normalize():f} for the {limit.window} is used up", ceil(windows[held.full].window.seconds_left(now)))  # fmt: skip

    def _warnings(self, limits: Sequence[Limit], accounts: Sequence[Account], used: Sequence[int]) -> tuple[str, ...]:
        """The highest threshold that each limit has passed; the first to pass it, over all processes, says so."""
        found: list[str] = []
        for limit, account, amount in zip(limits, accounts, used, strict=False):
            share = amount / limit.amount_picousd
            passed = [threshold for threshold in limit.thresholds if share >= threshold]
            if not passed:
                continue
            found.append(f"{limit.name} {passed[-1]:.0%}")
            self._tell(limit, account, passed[-1], share)
        return tuple(found)

    def _tell(self, limit: Limit, account: Account, threshold: float, share: float) -> None:
        """Say that a threshold has been passed, unless somebody has. Whose amount it is stands on the rows, not in logs."""
        said = (account.key, threshold)
        if said in self._told:
            return
        self._told[said] = None
        if len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)
        try:
            first = self._store.first(account, str(threshold))
        except StoreError:
            first = True  # better twice than never
        if first:
            self.counted["threshold"] += 1
            dollars = Decimal(limit.amount_picousd).scaleb(-12).normalize()
            whose = f" of one {limit.per}" if limit.per else ""
            log.warning(
                "limit %r%s: %.0f%% of $%s for the %s is used", limit.name, whose, share * 100, f"{dollars:f}", limit.window
            )  # fmt: skip

    def _window(self, limit: Limit, now: datetime) -> _Running:
        """The window of a limit that is under way; it is worked out once."""
        found = self._windows.get(limit.name)
        if found is None or not found.window.start <= now < found.window.end:
            made = window(limit.window, now, limit.zone)
            lives = ceil((made.end - made.start).total_seconds()) + AFTER_SECONDS
            found = self._windows[limit.name] = _Running(made, int(made.start.timestamp()), lives)
        return found

    def settle(self, reservation: str, spent_picousd: int) -> bool:
        """Count what a request has cost, in picodollars (0: it failed), and free the rest of what was held.

        Returns:
            Whether it was counted. Said twice, it counts once.
        """
        accounts = self.take(reservation)
        return bool(accounts) and self.count(reservation, accounts, spent_picousd)

    def take(self, reservation: str) -> tuple[Account, ...]:
        """The accounts in which a reservation is held, for who counts its costs himself; () where it is not known."""
        return self._open.pop(reservation, ())

    def count(self, reservation: str, accounts: tuple[Account, ...], spent_picousd: int) -> bool:
        """Count a cost; the first one frees what was held. Whether the store has it."""
        try:
            self._store.settle(reservation, accounts, spent_picousd)
        except StoreError as error:
            self.counted["store_down"] += 1
            log.warning("a cost was not counted towards the limits (the ledger has it): %s", error)
            return False
        return True

    def _remember(self, reservation: str, accounts: tuple[Account, ...]) -> None:
        self._open[reservation] = accounts
        while len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)

    def _stopped(self, request: Mapping[str, str | None]) -> str:
        """What stops the request by hand; the list is asked for anew when it is older than STOPS_SECONDS."""
        now = time.monotonic()
        if now >= self._stops_until:
            self._stops_until = now + STOPS_SECONDS  # other threads go on with the list there is
            try:
                self._stops = self._store.stopped()
            except StoreError:
                self.counted["stops_unknown"] += 1  # what was stopped stays stopped
        if self._stops:
            for dimension, value in request.items():
                if value is not None and f"{dimension}={value}" in self._stops:
                    return f"{dimension} {value!r} is stopped (spanledger resume {dimension}={value})"
        return ""

    def _too_large(self, input_tokens: int, output_tokens: int) -> str:
        for what, tokens, cap in (
            ("input", input_tokens, self.policy.max_input_tokens),
            ("output", output_tokens, self.policy.max_output_tokens),
        ):
            if cap is not None and tokens > cap:
                return f"the request may take {tokens:,} tokens of {what}, and {cap:,} are allowed"
        return ""

    def _unanswered(self, limits: Sequence[Limit], error: StoreError) -> Decision:
        self.counted["store_down"] += 1
        if self.counted["store_down"] == 1:
            log.warning("limits are not enforced: %s", error)
        closed = next((limit for limit in limits if limit.fail_closed), None)
        if closed is not None:
            return Decision(False, f"limit {closed.name!r}: {error}, and the limit fails closed", 1)
        return Decision(True, "store")


@lru_cache(maxsize=1)
def configured() -> Limiter | None:
    """The limiter that the settings describe; None where SPANLEDGER_LIMITS is not set, or makes no sense (it is logged)."""
    path = settings.setting("limits")
    if path is None or settings.enabled("disabled"):
        return None
    try:
        policy = load(path)
        url = settings.setting("redis_url")
        return Limiter(policy, RedisStore(url) if url else MemoryStore())
    except (PolicyError, StoreError) as error:
        log.error("no limits are enforced: %s", error)
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
        user: whose limits count it; None: nobody's.
        feature: the feature.
        tenant: the tenant.
        tier: the customer tier.

    Returns:
        {"allowed": bool, "reason": str, "retry_after_seconds": int, "reservation": str}. Without limits, and whatever
        goes wrong in here, it is allowed.
    """
    with quietly("checking limits"):
        limiter = configured()
        if limiter is not None:
            request = {"user": user, "feature": feature, "tenant": tenant, "tier": tier}
            estimate = worst_picousd(provider, model, input_tokens, max_output_tokens)
            return limiter.check(request, estimate, input_tokens, max_output_tokens).as_dict()
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
