"""What providers answer to requests without an SDK, and files of batch results."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

Say = Callable[[str, str], None]

OPENAI_CHAT = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4.1-mini-2025-04-14",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}  # fmt: skip
ANTHROPIC = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-6", "stop_reason": "end_turn",
    "content": [], "usage": {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3},
}  # fmt: skip
GEMINI = {
    "responseId": "g1", "modelVersion": "gemini-3.5-flash", "candidates": [{"finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15},
}  # fmt: skip
CONVERSE = {
    "output": {}, "stopReason": "end_turn",
    "usage": {"inputTokens": 7, "outputTokens": 5, "totalTokens": 15, "cacheReadInputTokens": 3},
}  # fmt: skip
COHERE = {
    "id": "c1",
    "finish_reason": "COMPLETE",
    "message": {},
    "usage": {"billed_units": {"input_tokens": 10, "output_tokens": 5}},
}
OLLAMA = {"model": "llama3", "done": True, "done_reason": "stop", "prompt_eval_count": 10, "eval_count": 5}
CREATED = 1_790_000_000


def frame(kind: str, payload: Any) -> bytes:
    """A frame of AWS's event stream (its checksums are nobody's business here)."""
    header = b"\x0b:event-type\x07" + struct.pack(">H", len(kind)) + kind.encode()
    data = json.dumps(payload).encode()
    return struct.pack(">III", 16 + len(header) + len(data), len(header), 0) + header + data + struct.pack(">I", 0)


def line(number: int) -> bytes:
    usage = {"prompt_tokens": 1000 + number % 7, "completion_tokens": 500, "total_tokens": 1500 + number % 7}
    body = {
        "id": f"chatcmpl-{number}", "object": "chat.completion", "created": CREATED, "model": "gpt-4.1-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 100}}], "usage": usage,
    }  # fmt: skip
    answer = {"status_code": 200, "request_id": "r", "body": body}
    return json.dumps(
        {"id": f"batch_req_{number}", "custom_id": f"c{number}", "response": answer, "error": None}
    ).encode()


def results(lines: int) -> bytes:
    return b"\n".join(map(line, range(lines))) + b"\n"
