"""Twelve ways to lose the context of a call. Each call ends as a row that names its file, line and function.

    OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=threading opentelemetry-instrument python lost_context.py
    spanledger who-forgot

Without that variable OpenTelemetry's threading instrumentation, which comes with Spanledger, saves five of them
(1 to 5); for the others there is `spanledger.carry()` and `spanledger.carried(...)`, or a scope where the work is done.
"""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai

import spanledger

client = openai.OpenAI()
MODEL = "text-embedding-3-small"
jobs: queue.Queue[str | None] = queue.Queue()


def in_a_thread() -> None:
    client.embeddings.create(model=MODEL, input="1 thread")


def in_a_timer() -> None:
    client.embeddings.create(model=MODEL, input="2 timer")


def in_a_pool() -> None:
    client.embeddings.create(model=MODEL, input="3 submit")


def in_a_mapped_pool(_: int) -> None:
    client.embeddings.create(model=MODEL, input="4 map")


def in_the_loops_executor() -> None:
    client.embeddings.create(model=MODEL, input="5 run_in_executor")


def called_back_from_another_thread() -> None:
    client.embeddings.create(model=MODEL, input="6 call_soon_threadsafe")


def worker() -> None:
    while jobs.get() is not None:
        client.embeddings.create(model=MODEL, input="7 queue worker")


def generated_after_the_scope() -> Iterator[int]:
    yield 1
    client.embeddings.create(model=MODEL, input="8 generator resumed later")


def in_a_spawned_process() -> None:
    client.embeddings.create(model=MODEL, input="9 spawned process")


def in_a_context_of_its_own() -> None:
    client.embeddings.create(model=MODEL, input="10 empty context")


async def consumer(inbox: asyncio.Queue[str]) -> None:
    await inbox.get()
    client.embeddings.create(model=MODEL, input="11 task started before the request")


class Cache:
    def __del__(self) -> None:
        client.embeddings.create(model=MODEL, input="12 finalizer")


async def serve() -> None:
    """One request of one user, whose calls all go astray."""
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[str] = asyncio.Queue()
    background = asyncio.create_task(consumer(inbox))
    old = [Cache()]
    with ThreadPoolExecutor(1) as pool, spanledger.attribution(user="ada", feature="summarize", request_id="r1"):
        for thread in (threading.Thread(target=in_a_thread), threading.Timer(0, in_a_timer)):
            thread.start()
            thread.join()
        pool.submit(in_a_pool).result()
        list(pool.map(in_a_mapped_pool, [0]))
        await loop.run_in_executor(None, in_the_loops_executor)
        stray = threading.Thread(target=lambda: loop.call_soon_threadsafe(called_back_from_another_thread))
        stray.start()
        await asyncio.sleep(0.2)
        jobs.put("document")
        later = generated_after_the_scope()
        next(later)
        child = multiprocessing.get_context("spawn").Process(target=in_a_spawned_process)
        child.start()
        await asyncio.to_thread(child.join)
        contextvars.Context().run(in_a_context_of_its_own)
        await inbox.put("document")
        await background
    next(later, None)
    old.clear()


if __name__ == "__main__":
    consuming = threading.Thread(target=worker)
    consuming.start()
    asyncio.run(serve())
    jobs.put(None)
    consuming.join()
