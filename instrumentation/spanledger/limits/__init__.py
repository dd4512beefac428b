"""Budget enforcement that is safe under concurrency: reserve before a call, settle after it, in one shared store.

For applications that enforce limits themselves: `spanledger.check_request_allowed(...)` before a call, `spanledger.record_actual_cost(...)`
after it. Off until SPANLEDGER_LIMITS names a file of budgets or SPANLEDGER_REDIS_URL a Redis that has them. Internal errors
let the call pass, unless a budget fails closed.
"""
