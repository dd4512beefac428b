"""Reads billed usage from OpenAI's WebSocket messages (openai 3.57 `types/realtime`, `types/live`, `types/responses`).

- `response.done` (realtime) and `response.completed` and its like (responses): one response, its usage its own;
- `conversation.item.input_audio_transcription.completed`: the transcription model's tokens or seconds;
- `session.usage.updated` and `session.closed` (live): cumulative seconds; the last figure counts, at the close;
- `response.event` (live): an event of a delegated response.
"""

from __future__ import annotations

import re
from typing import Final

from spanledger.providers import Request
from spanledger.runtime.untrusted_json import Json, label, mapping, number

INTERESTING: Final = re.compile(rb'"(?:usage|session)"\s*:\s*\{|"session\.')
TERMINAL_EVENTS: Final = frozenset({"response.done", "response.completed", "response.incomplete", "response.failed"})
TRANSCRIPTION_COMPLETED: Final = "conversation.item.input_audio_transcription.completed"
DEFAULT_TRANSCRIBER: Final = "whisper-1"


def is_relevant(message: bytes) -> bool:
    return INTERESTING.search(message) is not None


def billed_responses(session: Json, event: Json) -> list[tuple[Request, Json]]:
    """(request, body) of each billed response in an event; session fields are stored in `session`."""
    kind = label(event, "type") or ""
    if kind == "response.event":
        return billed_responses(session, mapping(event, "event"))
    if kind in TERMINAL_EVENTS:
        answer = mapping(event, "response")
        if not mapping(answer, "usage"):
            return []
        model = label(answer, "model") or label(session, "model")
        return [(Request("chat", model), {**answer, "streamed": True, "finished": True})]
    if kind == TRANSCRIPTION_COMPLETED:
        model = label(session, "transcriber") or DEFAULT_TRANSCRIBER
        usage = mapping(event, "usage")
        return [(Request("transcription", model), {"id": event.get("item_id"), "usage": usage})] if usage else []
    if kind.startswith("session."):
        return _update_session(session, event, kind)
    return []


def _update_session(session: Json, event: Json, kind: str) -> list[tuple[Request, Json]]:
    session_fields = mapping(event, "session")
    for name, value in (
        ("model", label(session_fields, "model")),
        ("id", label(session_fields, "id")),
        (
            "transcriber",
            label(session_fields, "audio", "input", "transcription", "model")
            or label(session_fields, "input_audio_transcription", "model"),
        ),
    ):
        if value is not None:
            session[name] = value
    seconds = number(event, "usage", "seconds")
    if seconds is not None:
        session["seconds"] = seconds
    if kind != "session.closed" or session.get("seconds") is None:
        return []
    usage = {"type": "duration", "seconds": session.pop("seconds")}
    return [(Request("speech", label(session, "model")), {"id": session.get("id"), "usage": usage})]
