"""Several gateways of one command: a process for each core, each on a port of its own.

Spans of one trace have to reach the same process, which knows by its wrapper spans what is a call and what repeats one: so there is no
port that they share, and each Collector sends to one of them (collector-config/agent.yaml gives each trace to one Collector).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Final

from spanledger.runtime.guard import log
from spanledger_clickhouse.database.connection import DatabaseError

RESTART_SECONDS: Final = (1.0, 30.0)
"""How long a worker that has ended is waited for before it is started again, at first and at most."""
STABLE_SECONDS: Final = 60.0
"""A worker that ran for so long is started again at once."""
FIRST_SECONDS: Final = 20.0
"""A worker that gives up this soon after the command has begun will not do better the next time: its port is taken, say."""
STOP_SECONDS: Final = 40.0
"""Longer than a gateway takes to answer what waits."""


def run_workers(count: int, serve: Callable[..., object], arguments: Callable[[int], dict[str, Any]]) -> None:
    """Run `serve(**arguments(number))` in so many processes until SIGTERM or SIGINT, and start again those that end.

    Args:
        count: of processes, numbered from 0.
        serve: a function of a module; SIGTERM ends it.
        arguments: of a worker; they are pickled.

    Raises:
        DatabaseError: a worker has given up at its start; the others are ended.
    """
    stopping = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        workers += [_Worker(context, serve, arguments(number)) for number in range(count)]
        while not stopping.wait(0.2):
            for number, worker in enumerate(workers):
                worker.keep(number)
    finally:
        for worker in workers:
            worker.terminate()
        until = time.monotonic() + STOP_SECONDS
        for worker in workers:
            worker.join(max(0.0, until - time.monotonic()))


def _work(serve: Callable[..., object], arguments: dict[str, Any]) -> None:
    """In the worker: serve, and end when the command has ended without saying so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), name="spanledger-parent", daemon=True).start()
    serve(**arguments)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


class _Worker:
    """One process, started again when it ends."""

    def __init__(self, context: Any, serve: Callable[..., object], arguments: dict[str, Any]) -> None:
        self._context, self._serve, self._arguments = context, serve, arguments
        self._failures = 0
        self._first = time.monotonic()
        self._start()

    def _start(self) -> None:
        self._process: BaseProcess = self._context.Process(target=_work, args=(self._serve, self._arguments))
        self._process.start()
        self._started = time.monotonic()
        self._restart_at = 0.0

    def keep(self, number: int) -> None:
        """Start it again if it has ended and has been waited for."""
        if self._process.is_alive():
            return
        now, code = time.monotonic(), self._process.exitcode
        if not self._restart_at:
            if code is not None and code > 0 and now - self._first < FIRST_SECONDS:
                raise DatabaseError(f"worker {number} cannot serve; what it says stands above")
            self._failures = 0 if now - self._started > STABLE_SECONDS else self._failures + 1
            longest = RESTART_SECONDS[0] * 2 ** min(self._failures - 1, 10)
            wait = min(RESTART_SECONDS[1], longest) if self._failures else 0.0
            log.error("worker %d ended with %s; it is started again in %.0f s", number, code, wait)
            self._restart_at = now + wait
        if now >= self._restart_at:
            self._start()

    def terminate(self) -> None:
        if self._process.is_alive():
            self._process.terminate()

    def join(self, seconds: float) -> None:
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
