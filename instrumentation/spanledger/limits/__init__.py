"""Limits that hold under concurrency: reserve before a call, settle after it, in one store for all processes.

For code that enforces by itself: `spanledger.check_request_allowed(...)` before a call, `spanledger.record_actual_cost(...)`
after it. Limits are off until SPANLEDGER_LIMITS names a file of them, and whatever fails in here lets the call pass,
unless the limit says otherwise.
"""
