"""`BudgetExceeded`: raised when a budget refuses a call."""

from __future__ import annotations

from spanledger.runtime.guard import Deliberate


class BudgetExceeded(Deliberate):
    """A budget is exhausted, or the call exceeds a cap. No request was sent, unless it is raised while a stream is read: that one
    was closed, and what it had used is billed.

    Attributes:
        reason: which budget or cap, as text.
        retry_after_seconds: until its window ends; 0 if waiting does not help.
    """

    def __init__(self, reason: str, retry_after_seconds: int) -> None:
        super().__init__(reason, retry_after_seconds)  # all arguments: the exception may be pickled by a worker
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return self.reason
