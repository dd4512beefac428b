"""Streams under gevent or eventlet, which patch the standard library before or after the SDK is imported.

    python greenlets.py gevent|eventlet before|after

Prints the answers' texts. A hang ends the program with a traceback.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import sys

library, order = sys.argv[1:]
faulthandler.dump_traceback_later(200, exit=True)  # eventlet looks at every object for each lock: half a minute


def patch() -> None:
    if library == "gevent":
        importlib.import_module("gevent.monkey").patch_all()
    else:
        importlib.import_module("eventlet").monkey_patch()


if order == "before":
    patch()
import threading  # noqa: E402

import openai  # noqa: E402

client = openai.OpenAI()
MESSAGES: list = [{"role": "user", "content": "hello"}]


def ask(*, stream: bool):
    return client.chat.completions.create(model="gpt-4.1-mini", messages=MESSAGES, stream=stream)


def whole() -> None:
    print(ask(stream=False).choices[0].message.content.replace(" ", "_"))


def streamed() -> None:
    parts = [chunk.choices[0].delta.content or "" for chunk in ask(stream=True) if chunk.choices]
    print("".join(parts).replace(" ", "_"))


def abandoned() -> None:
    """A stream that only the garbage collector finds."""
    stream = ask(stream=True)
    next(iter(stream))
    cycle: list = [stream]
    cycle.append(cycle)
    print("abandoned")


whole()
if order == "after":
    streamed()
    patch()
threads = [threading.Thread(target=act) for act in (streamed, streamed, whole, abandoned)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
gc.collect()
streamed()
import spanledger  # noqa: E402

assert spanledger.flush(10)
