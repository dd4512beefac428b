"""Work of finalizers runs in a thread, also after a fork."""

from __future__ import annotations

import gc
import os
import threading
import time

import pytest

from spanledger.runtime import finalizers
from spanledger.runtime.reentrant_queue import ReentrantQueue


class Dropped:
    """An object in a cycle, which only the collector finds."""

    def __init__(self, act) -> None:
        self.itself = self
        self.act = act

    def __del__(self) -> None:
        finalizers.run_outside_gc(self.act)


def test_a_call_ended_by_the_garbage_collector_is_finished_in_another_thread():
    threads: list[str] = []
    finalizers.start_worker()
    Dropped(lambda: threads.append(threading.current_thread().name))
    gc.collect()
    assert finalizers.wait(10)
    assert threads == ["spanledger-finalizing"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_finalizers_run_in_a_forked_child():
    finalizers.start_worker()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Dropped(lambda: os.write(write, threading.current_thread().name.encode()))
            gc.collect()
            finalizers.wait(10)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"spanledger-finalizing"


def test_concurrent_starts_create_one_reader():
    queue = ReentrantQueue[int]()
    numbers: list[int] = []

    def read() -> None:
        while True:
            numbers.append(queue.get())

    threads = [threading.Thread(target=queue.start, args=(read, "reader")) for _ in range(20)]
    for thread in threads:
        thread.start()
    for number in range(1000):
        queue.put(number)
    for thread in threads:
        thread.join()
    assert queue.drain(10)
    assert (numbers, len(queue)) == (list(range(1000)), 0)


def test_items_queued_before_the_reader_starts_are_read():
    queue = ReentrantQueue[int]()
    queue.put(1)
    assert (len(queue), queue.drain(0)) == (1, False)
    numbers: list[int] = []
    queue.start(lambda: numbers.append(queue.get()), "reader")
    end = time.monotonic() + 10
    while not numbers and time.monotonic() < end:
        time.sleep(0.01)
    assert numbers == [1]


def test_a_worker_that_failed_to_start_is_started_again(monkeypatch):
    monkeypatch.setattr(finalizers, "_queue", ReentrantQueue())  # its worker serves this queue alone

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            finalizers.start_worker()
    finalizers.start_worker()
    assert finalizers.wait(10)
