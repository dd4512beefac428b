"""OpenAI's websockets: one row for each billed message, whichever method reads it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from openai.resources.live.live import LiveConnection
from openai.resources.realtime.realtime import AsyncRealtimeConnection, RealtimeConnection
from openai.resources.responses.responses import ResponsesConnection

from conftest import Recorded
from realtime_socket import DELTA, DONE, HEARD, SESSION, Socket


class AsyncSocket(Socket):
    async def recv(self, decode: bool = False) -> bytes:
        return super().recv()


def opened(cls: type, *events: Any) -> Any:
    socket = (AsyncSocket if cls.__name__.startswith("Async") else Socket)(*events)
    return cls(socket, logger=logging.getLogger("sockets")) if cls is not RealtimeConnection else cls(socket)


def values(row: dict[str, Any], *columns: str) -> tuple[Any, ...]:
    return tuple(row[column] for column in columns)


SPOKEN = ("response_id", "request_model", "input_uncached_tokens", "input_audio_tokens", "cache_read_tokens", "cache_read_audio_tokens", "output_text_tokens", "output_audio_tokens")  # fmt: skip


def test_a_realtime_session_is_a_row_per_response_and_transcription(ledger: Recorded):
    connection = RealtimeConnection(Socket(SESSION, DELTA, DELTA, HEARD, DONE))
    assert [event.type for event in connection][-1] == "response.done"
    heard, spoken = ledger.rows
    assert values(spoken, *SPOKEN) == ("resp_1", "gpt-realtime", 56, 34, 4, 6, 5, 25)
    assert values(heard, "operation", "request_model", "audio_input_ms") == ("transcription", "gpt-4o-transcribe", 3000)


async def test_an_asynchronous_realtime_session_is_recorded(ledger: Recorded):
    connection = AsyncRealtimeConnection(AsyncSocket(SESSION, DONE))
    assert (await connection.recv()).type == "session.created"
    assert json.loads(await connection.recv_bytes())["type"] == "response.done"
    assert values(ledger.row, *SPOKEN) == ("resp_1", "gpt-realtime", 56, 34, 4, 6, 5, 25)


def test_responses_over_a_socket_are_recorded(ledger: Recorded):
    usage = {"input_tokens": 100, "input_tokens_details": {"cached_tokens": 40}, "output_tokens": 10, "output_tokens_details": {"reasoning_tokens": 4}, "total_tokens": 110}  # fmt: skip
    answer = {
        "id": "resp_2",
        "object": "response",
        "model": "gpt-5.4-mini",
        "status": "completed",
        "output": [],
        "usage": usage,
    }
    events = [
        {"type": "response.created", "response": {**answer, "usage": None, "status": "in_progress"}},
        {"type": "response.completed", "response": answer},
    ]
    connection = ResponsesConnection(Socket(*events))
    for _ in events:
        connection.recv_bytes()
    assert values(ledger.row, "response_id", "request_model", "cache_read_tokens", "reasoning_tokens") == ("resp_2", "gpt-5.4-mini", 40, 4)  # fmt: skip


def test_live_seconds_are_cumulative_and_count_once(ledger: Recorded):
    started = {"type": "session.created", "session": {"id": "live_1", "model": "gpt-live-1"}}
    events = [
        started,
        {"type": "session.usage.updated", "usage": {"seconds": 5.0}},
        {"type": "session.usage.updated", "usage": {"seconds": 9.5}},
        {"type": "session.closed", "usage": {"seconds": 10.0}},
    ]
    connection = LiveConnection(Socket(*events))
    for _ in events:
        connection.recv_bytes()
    assert values(ledger.row, "request_model", "audio_input_ms", "response_id") == ("gpt-live-1", 10_000, "live_1")


@pytest.mark.parametrize(
    "message", [b"", b"no json", b'{"usage": {', b'{"type": "response.done", "response": {"usage": {}}}']
)
def test_a_message_that_is_not_valid_json_passes(message: bytes, ledger: Recorded):
    socket = Socket()
    socket.messages = [message]
    assert RealtimeConnection(socket).recv_bytes() == message
    assert ledger.rows == []
