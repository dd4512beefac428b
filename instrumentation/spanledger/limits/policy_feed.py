"""What people have said: the budgets of this process and those that are published in the store, and what is stopped by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from spanledger.limits.circuit_breaker import Outage
from spanledger.limits.matching_budgets import Plan, planned
from spanledger.limits.policy import Policy, Who
from spanledger.limits.policy_documents import PolicyError, published
from spanledger.limits.store.protocol import Controls, Store, StoreError
from spanledger.runtime.guard import log

CONTROLS_SECONDS: Final = 2.0
"""How old the list of what is stopped by hand, and the published budgets, may be."""
MAX_PLANS: Final = 10_000


class Heard:
    """Asks the store every two seconds, in the thread of a call that finds the answer too old."""

    def __init__(self, own: Policy, store: Store, outage: Outage, now: Callable[[], float]) -> None:
        """`own`: the policy of this process; what is published comes to it. `now`: Unix seconds."""
        self._own = own
        self.policy = own
        """What is in force."""
        self._plans: tuple[Policy, dict[Who, Plan]] = own, {}
        """Of a policy, and what was worked out of it."""
        self.stops = False
        """Whether anything is stopped by hand."""
        self._store = store
        self._outage = outage
        self._now = now
        self._controls: Controls | None = None
        """None: nothing has been heard yet."""
        self._lost = False
        """Whether Redis has forgotten what was heard."""
        self._until = 0.0
        self._hearing = threading.Lock()

    @property
    def anything(self) -> bool:
        """Whether the store has answered at all."""
        return self._controls is not None

    def listen(self) -> None:
        """Hear what is new, where the last time is long ago; the first time everybody waits for it."""
        if self._controls is not None:
            if time.monotonic() >= self._until and self._hearing.acquire(blocking=False):
                try:
                    self._hear()
                finally:
                    self._hearing.release()
            return
        with self._hearing:
            if self._controls is None:
                self._hear()

    def _hear(self) -> None:
        if self._outage.lasts:
            return
        self._until = time.monotonic() + CONTROLS_SECONDS
        try:
            controls = self._store.controls()
        except StoreError as error:
            self._outage.noticed(error)  # what was stopped stays stopped
            return
        before = self._controls or Controls()
        lost = before.published != "" and controls.published == ""  # no budgets at all are a document that says so
        if lost:
            if not self._lost:
                log.warning("Redis has lost the budgets that were published: those in force, and what is stopped, stay")
            controls = Controls(controls.stopped | before.stopped, before.published)
        self._lost = lost
        if controls.published != before.published:
            try:
                self.policy = self._own.with_published(published(controls.published))
                self._plans = self.policy, {}
            except PolicyError as error:
                log.error("%s; the budgets stay as they were", error)
        self._controls = controls
        self.stops = bool(controls.stopped)

    def stopped(self, who: Who) -> str:
        """What stops a call by hand, in words; "": nothing."""
        if self._controls is not None and self._controls.stopped:
            for dimension, value in who._asdict().items():
                if value is not None and f"{dimension}={value}" in self._controls.stopped:
                    return f"{dimension} {value!r} is stopped (spanledger resume {dimension}={value})"
        return ""

    def plan(self, who: Who) -> Plan:
        """What counts a call; it is worked out once while the windows last."""
        policy, plans = self._plans
        now = self._now()
        matched = plans.get(who)
        if matched is None or not matched.since <= now < matched.until:
            if len(plans) >= MAX_PLANS:
                plans.clear()
            matched = plans[who] = planned(policy, who, now)
        return matched
