"""Limits that hold under concurrency: reserve before a call, settle after it, in one store for all processes.

For code that enforces by itself: `spanledger.check_request_allowed(...)` before a call, `spanledger.record_actual_cost(...)`
after it. Off until SPANLEDGER_LIMITS names a file of budgets or SPANLEDGER_REDIS_URL a Redis that has them; whatever fails in
here lets the call pass, unless a budget says otherwise.
"""
