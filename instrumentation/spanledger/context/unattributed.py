"""Reports calls with incomplete attribution: logged once per call site, counted by reason, rejected in strict mode."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry import metrics

from spanledger.context.call_site import call_site
from spanledger.runtime import settings
from spanledger.runtime.guard import Deliberate, log
from spanledger.runtime.version import VERSION
from spanledger.semconv import attributes as a
from spanledger.semconv.dimensions import BY_LABEL

MAX_SITES: Final = 1000

REASON_TEXTS: Final = {
    "context_lost": "no trace and no baggage reached it: a thread, a job or a timer that lost its context",
    "no_baggage": "it has a trace, but no baggage",
    "stale": "the request that has set it is over, and what runs here was started by it: enter "
    "spanledger.attribution(...) for each piece of work, or hand over spanledger.carry()",
    "partial": "baggage has only a part",
}


NEVER_SET: Final = (
    "no trace and no baggage: neither this program nor middleware says whose it is (spanledger.attribution)"
)
"""In a program's main thread, outside of tasks: there is no context to lose."""


class AttributionRequired(Deliberate):
    """A call lacks attribution that SPANLEDGER_REQUIRE demands, and SPANLEDGER_REQUIRE_MODE is "raise"."""


class UnattributedCalls:
    """Counts and logs the unattributed calls of this process."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self._sites: set[tuple[object, ...]] = set()
        self._counter: Any = None

    def record(self, facts: Mapping[str, Any]) -> None:
        """Count an incompletely attributed call, and log its call site the first time."""
        reason = facts[a.ATTRIBUTION_REASON]
        self.reasons[reason] += 1
        if self._counter is None:
            meter = metrics.get_meter("spanledger", VERSION)
            self._counter = meter.create_counter(
                "spanledger.attribution.lost", "{call}", "LLM calls whose attribution is incomplete"
            )
        self._counter.add(1, {"reason": reason})
        site = facts.get(a.CODE_FILE), facts.get(a.CODE_LINE), reason
        if site in self._sites or len(self._sites) >= MAX_SITES:
            return
        self._sites.add(site)
        log.warning(
            "a call at %s:%s in %s lacks %s: %s (spanledger who-forgot)",
            facts.get(a.CODE_FILE, "?"),
            facts.get(a.CODE_LINE, "?"),
            facts.get(a.CODE_FUNCTION, "?"),
            ", ".join(facts[a.ATTRIBUTION_MISSING]),
            _text(reason),
        )


def _text(reason: str) -> str:
    asyncio: Any = sys.modules.get("asyncio")
    runs_tasks = asyncio is not None and asyncio._get_running_loop() is not None
    if reason == "context_lost" and not runs_tasks and threading.current_thread() is threading.main_thread():
        return NEVER_SET
    return REASON_TEXTS.get(reason, reason)


unattributed_calls: Final = UnattributedCalls()


class Strictness:
    """Dimensions required of every call: SPANLEDGER_REQUIRE=feature,user and SPANLEDGER_REQUIRE_MODE=warn|raise."""

    def __init__(self, required: tuple[str, ...] = (), *, raises: bool = False) -> None:
        self._required = tuple((name, BY_LABEL[name].attribute) for name in required)
        self._raises = raises
        self._warned_sites: set[tuple[object, ...]] = set()

    def check(self, facts: Mapping[str, Any]) -> None:
        """Warn once a call site, or raise, where a required dimension is missing.

        Raises:
            AttributionRequired: where the mode is "raise" (for tests and CI; never in production).
        """
        missing = [name for name, attribute in self._required if attribute not in facts]
        if not missing:
            return
        site = facts if a.CODE_FILE in facts else call_site()
        location = f"{site.get(a.CODE_FILE, '?')}:{site.get(a.CODE_LINE, '?')}"
        message = (
            f"the call at {location} has no {' and no '.join(missing)}, which SPANLEDGER_REQUIRE demands: "
            "set it in middleware, or with spanledger.attribution(...)"
        )
        if self._raises:
            raise AttributionRequired(message)
        if (location, *missing) not in self._warned_sites and len(self._warned_sites) < MAX_SITES:
            self._warned_sites.add((location, *missing))
            log.warning("%s", message)


NOT_STRICT: Final = Strictness()


def strictness_from_settings() -> Strictness:
    """The strictness configured by the settings; an unknown dimension is logged and ignored."""
    words = [word.strip() for word in (settings.setting("require") or "").split(",") if word.strip()]
    unknown = [word for word in words if word not in BY_LABEL]
    if unknown:
        log.error("SPANLEDGER_REQUIRE: %s is none of %s", ", ".join(unknown), ", ".join(BY_LABEL))
    mode = (settings.setting("require_mode") or "warn").lower()
    if mode not in ("warn", "raise"):
        log.error("SPANLEDGER_REQUIRE_MODE=%s is neither warn nor raise: it is taken for warn", mode)
    return Strictness(tuple(word for word in words if word in BY_LABEL), raises=mode == "raise")
