"""A server that answers each path with what a test gave it, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Canned(ThreadingHTTPServer):
    """`answers` maps the end of a path to a body (JSON-able, or bytes), a status, a pair of
    these, or a list, one a request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.clients: set[tuple[str, int]] = set()
        """Addresses of the connections that came."""
        self.headers: dict[str, str] = {}
        self.content_type = ""
        """Of bytes, where it does not follow from them."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def answer(self, path: str) -> Any:
        path = path.partition("?")[0]
        for end, body in self.answers.items():
            if path.endswith(end):
                return (
                    body.pop(0)
                    if isinstance(body, list) and len(body) > 1
                    else body[0]
                    if isinstance(body, list)
                    else body
                )
        return {"object": "nothing"}


def sse(*events: Any, named: bool = True) -> bytes:
    """Server-sent events; a tuple is (event name, data)."""
    out = b""
    for event in events:
        name, data = event if isinstance(event, tuple) else (None, event)
        head = f"event: {name}\n" if name and named else ""
        out += f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
    return out


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Canned

    def do(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        try:
            body: Any = json.loads(data)
        except ValueError:
            body = data
        self.server.asked.append((self.command, self.path, body))
        self.server.clients.add(self.client_address)
        answer = self.server.answer(self.path)
        status, answer = answer if isinstance(answer, tuple) else (200, answer)
        raw = isinstance(answer, bytes)
        kind = "application/json"
        if raw:
            named = "text/event-stream" if answer.startswith((b"data:", b"event:")) else "application/octet-stream"
            kind = self.server.content_type or named
        status = answer if isinstance(answer, int) else status
        payload = answer if raw else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(payload)))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_POST = do_DELETE = do_PATCH = do

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


INTERACTION: dict[str, Any] = {
    "id": "int_1", "model": "gemini-3.5-flash", "object": "interaction", "status": "completed", "outputs": [],
    "created": "2026-11-01T10:00:00Z", "updated": "2026-11-01T10:00:00Z", "role": "model",
    "usage": {
        "total_input_tokens": 100, "total_cached_tokens": 40, "total_output_tokens": 10, "total_thought_tokens": 5,
        "total_tool_use_tokens": 3, "total_tokens": 118, "grounding_tool_count": [{"type": "google_search", "count": 2}],
    },
}  # fmt: skip
"""A response of Google's Interactions API."""
