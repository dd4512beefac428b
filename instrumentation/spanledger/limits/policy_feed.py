"""Polls published budgets and kill switches from the store, and merges them with the policy of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from spanledger.limits.circuit_breaker import CircuitBreaker
from spanledger.limits.matching_budgets import MatchedBudgets, match_budgets
from spanledger.limits.policy import Dimensions, Policy
from spanledger.limits.policy_documents import PolicyError, policy_from_json
from spanledger.limits.store.protocol import Controls, Store, StoreError
from spanledger.runtime.guard import log
from spanledger.semconv.dimensions import LIMIT_DIMENSIONS

POLL_INTERVAL_SECONDS: Final = 2.0
"""Maximum age of the kill switches and the published budgets."""
MAX_CACHED_MATCHES: Final = 10_000
MAX_INLINE_CHARACTERS: Final = 100_000
"""Published budgets up to this length, about 500, are read by the call that finds them: a few milliseconds."""


class PolicyFeed:
    """Polls the store every two seconds, in the thread of the first call after the interval."""

    def __init__(self, process_policy: Policy, store: Store, breaker: CircuitBreaker, now: Callable[[], float]) -> None:
        """`process_policy`: published budgets are merged into it. `now`: Unix seconds."""
        self._process_policy = process_policy
        self.policy = process_policy
        """The policy in force."""
        self._matches: tuple[Policy, dict[Dimensions, MatchedBudgets]] = process_policy, {}
        """A policy, and its matches by dimensions (cache)."""
        self.has_stops = False
        """Whether any kill switch is set."""
        self._store = store
        self._breaker = breaker
        self._now = now
        self._controls: Controls | None = None
        """None: not loaded yet."""
        self._latest = ""
        """The published budgets that were found last."""
        self._published_lost = False
        """Whether Redis has lost the published budgets."""
        self._next_poll = 0.0
        self._refresh_lock = threading.Lock()

    @property
    def loaded(self) -> bool:
        """Whether a poll has succeeded."""
        return self._controls is not None

    def refresh(self) -> None:
        """Poll the store if the interval has passed; the first poll blocks all callers."""
        if self._controls is not None:
            if time.monotonic() >= self._next_poll and self._refresh_lock.acquire(blocking=False):
                try:
                    self._poll()
                finally:
                    self._refresh_lock.release()
            return
        with self._refresh_lock:
            if self._controls is None:
                self._poll()

    def _poll(self) -> None:
        if self._breaker.is_open:
            return
        self._next_poll = time.monotonic() + POLL_INTERVAL_SECONDS
        try:
            controls = self._store.controls()
        except StoreError as error:
            self._breaker.record_failure(error)  # kill switches stay set
            return
        previous_controls = self._controls or Controls()
        published_lost = (
            previous_controls.published != "" and controls.published == ""
        )  # an empty policy is a document, not ""
        if published_lost:
            if not self._published_lost:
                log.warning("Redis has lost the published budgets; the budgets in force and the stops are kept")
            controls = Controls(controls.stopped | previous_controls.stopped, previous_controls.published)
        self._published_lost = published_lost
        if controls.published != previous_controls.published:
            self._adopt(controls.published)
        self._controls = controls
        self.has_stops = bool(controls.stopped)

    def _adopt(self, published: str) -> None:
        """Put published budgets in force; many of them in a thread, so that no call waits while they are read."""
        self._latest = published
        if len(published) <= MAX_INLINE_CHARACTERS:
            self._read(published)
            return
        try:
            threading.Thread(target=self._read, args=(published,), name="spanledger-budgets", daemon=True).start()
        except RuntimeError:  # there can be no further thread
            self._read(published)

    def _read(self, published: str) -> None:
        try:
            policy = self._process_policy.with_published(policy_from_json(published))
        except PolicyError as error:
            log.error("%s; the previous budgets stay in force", error)
            return
        policy.matching(policy.relevant(Dimensions()))  # makes the indexes here, not in the next call
        if self._latest == published:  # else a newer one came meanwhile
            self.policy = policy
            self._matches = policy, {}

    def stop_reason(self, dimensions: Dimensions) -> str:
        """The kill switch that applies to a call, as text; "": none."""
        if self._controls is not None and self._controls.stopped:
            for dimension, value in zip(LIMIT_DIMENSIONS, dimensions, strict=True):
                if value is not None and f"{dimension}={value}" in self._controls.stopped:
                    return f"{dimension} {value!r} is stopped (spanledger resume {dimension}={value})"
        return ""

    def matched_budgets(self, dimensions: Dimensions) -> MatchedBudgets:
        """The budgets that match a call, cached until the first window ends."""
        policy, matches = self._matches
        dimensions = policy.relevant(dimensions)
        now = self._now()
        matched = matches.get(dimensions)
        if matched is None or not matched.since <= now < matched.until:
            if len(matches) >= MAX_CACHED_MATCHES:
                matches.clear()
            matched = matches[dimensions] = match_budgets(policy, dimensions, now)
        return matched
