"""Reads billed usage from messages of Google's live API: `usageMetadata`, per turn (google-genai 3.6 `live.py`).

Whether successive figures of one session are per turn or running totals is not stated in the SDK; each is
taken as its turn's own.
"""

from __future__ import annotations

from spanledger.providers import Request
from spanledger.runtime.untrusted_json import Json, label


def is_relevant(message: bytes) -> bool:
    return b"usageMetadata" in message


def billed_responses(session: Json, event: Json) -> list[tuple[Request, Json]]:
    return [(Request("generate_content", label(session, "model")), event)] if "usageMetadata" in event else []
