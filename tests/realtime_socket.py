"""The transport below an OpenAI realtime connection, and the events of a session."""

from __future__ import annotations

import json
from typing import Any

from websockets.exceptions import ConnectionClosedOK

USAGE = {
    "total_tokens": 130, "input_tokens": 100, "output_tokens": 30,
    "input_token_details": {"text_tokens": 60, "audio_tokens": 40, "cached_tokens": 10, "cached_tokens_details": {"text_tokens": 4, "audio_tokens": 6}},
    "output_token_details": {"text_tokens": 5, "audio_tokens": 25},
}  # fmt: skip
SESSION = {
    "type": "session.created", "event_id": "e0",
    "session": {"id": "sess_1", "type": "realtime", "model": "gpt-realtime", "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}},
}  # fmt: skip
DELTA = {"type": "response.output_audio.delta", "event_id": "e1", "delta": "AAAA", "response_id": "resp_1"}
DONE = {
    "type": "response.done",
    "event_id": "e2",
    "response": {"id": "resp_1", "object": "realtime.response", "status": "completed", "usage": USAGE},
}
HEARD = {
    "type": "conversation.item.input_audio_transcription.completed", "event_id": "e3", "item_id": "item_1", "content_index": 0,
    "transcript": "x", "usage": {"type": "duration", "seconds": 3},
}  # fmt: skip


class Socket:
    """The transport below a connection."""

    def __init__(self, *events: Any) -> None:
        self.messages = [json.dumps(event).encode() for event in events]

    def recv(self, decode: bool = False) -> bytes:
        if not self.messages:
            raise ConnectionClosedOK(None, None)
        return self.messages.pop(0)
