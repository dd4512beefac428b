"""A real redis-server for tests: Debian's, installed where it lacks."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from debian import program


def wait_for(port: int) -> None:
    """Until a server takes connections."""
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("redis-server did not start")


class RedisServer:
    """One server on a free port; nothing is kept on disk unless it is `durable`."""

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self._durable = durable
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._directory = directory
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        kept = ["--appendonly", "yes", "--appendfsync", "always"] if self._durable else ["--appendonly", "no"]
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *kept, "--dir", str(self._directory)]
        self.process = subprocess.Popen(
            [program("redis-server"), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self.port)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
