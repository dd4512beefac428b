"""ClickHouse's HTTP interface over chDB, so that the server path of clickhouse-connect is exercised for real.

    python tests/clickhouse_front.py DIRECTORY [--port N] [--faults SEED]

Prints its port, then serves until it is killed. Takes what the driver sends: the query in the URL or the body,
settings and parameters in the URL, bodies in Native format, plain or compressed; answers have block info where the driver's protocol has it. One query at a time, as chDB has it.
With --faults about half of the inserts go wrong: 503, no answer for a while, a connection reset in the middle of
the body, or rows committed without an answer.
"""

from __future__ import annotations

import argparse
import random
import re
import socket
import struct
import tempfile
import threading
import time
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame
from chdb import session

from native_blocks import with_info

NOT_SETTINGS = {
    "query", "database", "user", "password", "session_id", "query_id", "client_protocol_version", "default_format",
    "enable_http_compression", "compress", "decompress", "session_timeout", "role", "cancel_http_readonly_queries_on_client_close",
}  # fmt: skip


MAX_URI = 1 << 20
SERIALIZATION_PROTOCOL = 54454
"""DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION: what clickhouse-go speaks; clickhouse-connect speaks an older one."""
FAULTS = ("503", "hang", "reset", "silent", "", "", "", "")


class Front(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, directory: str, port: int = 0, faults: int | None = None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.directory = directory
        self.session = session.Session(directory)
        self.turn = threading.Lock()
        self.zone = str(self.session.query("SELECT timezone()", "TabSeparated")).strip()
        self.chance = None if faults is None else random.Random(faults)

    def fault(self, query: str) -> str:
        if self.chance is None or not query.lstrip().upper().startswith("INSERT"):
            return ""
        return self.chance.choice(FAULTS)

    def run(
        self,
        query: str,
        data: bytes,
        database: str,
        parameters: dict[str, str],
        settings: dict[str, str],
        default_format: str = "TabSeparated",
    ) -> bytes:
        self.session.query(f"USE `{database}`")
        for name, value in parameters.items():
            escaped = value.replace("\\", "\\\\").replace("'", "\\'")
            self.session.query(f"SET {name} = '{escaped}'")
        insert = re.match(r"\s*INSERT\s+INTO\s+(.*?)\s+FORMAT\s+Native\s*$", query, re.DOTALL | re.IGNORECASE)
        quoted = ", ".join(f"{name} = '{value}'" for name, value in settings.items())
        if insert:
            with tempfile.NamedTemporaryFile(suffix=".native") as file:
                file.write(data)
                file.flush()
                with_settings = f" SETTINGS {quoted}" if quoted else ""
                query = f"INSERT INTO {insert[1]} FROM INFILE '{file.name}'{with_settings} FORMAT Native"
                return bytes(self.session.query(query).bytes())
        wanted = re.search(r"\bFORMAT\s+(\w+)\s*$", query, re.IGNORECASE)
        handle = self.session
        if "readonly" in settings:  # cannot be set back: a handle of its own, as a request has a session of its own
            handle = chdb.connect(self.directory)
            handle.query(f"USE `{database}`")
            for name, value in parameters.items():
                handle.query(f"SET {name} = '{value}'")
            handle.query(f"SET readonly = {settings['readonly']}")
        return bytes(handle.query(query, wanted[1] if wanted else default_format).bytes())


def form(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a form."""
    parts = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body).get_payload()
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True).decode()
        for part in cast("list[Any]", parts)
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def handle_one_request(self) -> None:
        """As the base class does, for addresses as long as ClickHouse takes (http_max_uri_size)."""
        self.raw_requestline = self.rfile.readline(MAX_URI + 1)
        if not self.raw_requestline:
            self.close_connection = True
        elif self.parse_request():
            getattr(self, f"do_{self.command}")()
            self.wfile.flush()

    def do_GET(self) -> None:
        if self.path.startswith("/ping"):
            self.answer(200, b"Ok.\n")
        else:
            self.do_POST()

    def do_POST(self) -> None:
        asked = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        query = asked.get("query", "")
        fault = self.server.fault(query)
        if fault == "reset":
            self.rfile.read(1)
            return self.hang_up()
        body = self.body()
        if fault == "503":
            return self.answer(503, b"overloaded")
        if fault == "hang":
            time.sleep(1.0)
            return self.hang_up()
        if self.headers.get("Content-Type", "").startswith(
            "multipart/form-data"
        ):  # what would make the address too long
            asked |= form(self.headers["Content-Type"], body)
            query, body = asked.get("query", query), b""
        if not query:
            insert = re.match(rb"\s*INSERT\s.*?FORMAT\s+Native\s?", body, re.DOTALL | re.IGNORECASE)
            query, body = (insert[0].decode(), body[insert.end() :]) if insert else (body.decode(), b"")
        settings = {k: v for k, v in asked.items() if k not in NOT_SETTINGS and not k.startswith("param_")}
        parameters = {k: v for k, v in asked.items() if k.startswith("param_")}
        has_info = int(asked.get("client_protocol_version") or 0) >= SERIALIZATION_PROTOCOL
        default = "Native" if has_info and asked.get("default_format") == "Native" else "TabSeparated"
        try:
            with self.server.turn:
                database = asked.get("database") or "default"
                result = self.server.run(query, body, database, parameters, settings, default)
                result = with_info(result) if default == "Native" else result
        except RuntimeError as error:
            code = re.search(r"Code: (\d+)", str(error))
            headers = {"X-ClickHouse-Exception-Code": code[1] if code else "0"}
            self.answer(500, str(error).encode(), headers)
        else:
            if fault == "silent":
                return self.hang_up()
            self.answer(200, result, {"X-ClickHouse-Format": "Native", "X-ClickHouse-Timezone": self.server.zone})
        return None

    def hang_up(self) -> None:
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        encoding = self.headers.get("Content-Encoding", "")
        if encoding == "lz4":
            plain = b""
            while data:  # a frame for each block of the insert
                frame = lz4.frame.LZ4FrameDecompressor()
                plain += frame.decompress(data)
                data = frame.unused_data or b""
            return plain
        if encoding:
            raise NotImplementedError(f"this front does not read {encoding}")
        return data

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", type=int)
    asked = parser.parse_args()
    asked.directory.mkdir(parents=True, exist_ok=True)
    front = Front(str(asked.directory), asked.port, asked.faults)
    print(front.server_port, flush=True)  # noqa: T201 - how the test learns it
    front.serve_forever()


if __name__ == "__main__":
    main()
