"""Sends tasks for two users, and waits for them."""

from __future__ import annotations

from tasks import summarize

import spanledger

results = []
for number, user in enumerate(("ada", "bob", "ada")):
    with spanledger.attribution(user=user, request_id=f"r{number}", feature="digest" if number else None):
        results.append(summarize.delay(f"{user} r{number}"))
print([result.get(timeout=60) for result in results])
