"""`BudgetExceeded`: what an application sees when a budget refuses a call."""

from __future__ import annotations

from spanledger.runtime.guard import Deliberate


class BudgetExceeded(Deliberate):
    """A budget has no room for this call, or the call is larger than is allowed. Nothing was sent.

    Attributes:
        reason: which budget, in words.
        retry_after_seconds: until its window ends; 0 where waiting does not help.
    """

    def __init__(self, reason: str, retry_after_seconds: int) -> None:
        super().__init__(reason, retry_after_seconds)  # all of it: it may be pickled on its way from a worker
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return self.reason
