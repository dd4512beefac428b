"""Runs every style of call, and prints as JSON what a program can see of it: results, bytes, exceptions, order, warnings,
descriptors, threads, objects. Run with and without Spanledger, the two must be the same.

python harmless.py MODE, where MODE is plain, profile, gevent, uvloop or trio
"""
# ruff: noqa: E402, BLE001, PLW0108

from __future__ import annotations

import sys

MODE = sys.argv[1]
if MODE == "gevent":
    from gevent import monkey

    monkey.patch_all()

import asyncio
import copy
import gc
import hashlib
import json
import os
import pickle
import threading
import warnings

import anthropic
import httpx
import openai
import requests
from google import genai
from google.genai import types

QUESTION = "how much is it?"
BASE = os.environ["PROVIDER"]
CLOSED_PORT = "http://127.0.0.1:9"
seen_warnings = []


def watch_warnings():
    show = warnings.showwarning

    def note(message, category, filename, lineno, file=None, line=None):
        seen_warnings.append(f"{category.__name__}: {message}")
        show(message, category, filename, lineno, file, line)

    warnings.showwarning = note


def plain(value):
    """A value as JSON, its type included."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return [len(value), hashlib.sha256(value).hexdigest()[:16]]
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items() if key not in ("date", "Date")}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if hasattr(value, "model_dump"):
        return [
            type(value).__name__,
            plain(value.model_dump(mode="json", warnings=False)),
            sorted(value.model_fields_set),
        ]
    return type(value).__module__.partition(".")[0] + "." + type(value).__name__


def failure(error):
    """An exception, with what it is chained to."""
    chain = []
    while error is not None and len(chain) < 9:
        chain.append([type(error).__name__, str(error)[:300], error.__suppress_context__])
        error = error.__cause__ or error.__context__
    return chain


def http(response):
    """What of an HTTP response is the caller's."""
    headers = {name: value for name, value in response.headers.items() if name not in ("date", "server")}
    copies = [pickle.loads(pickle.dumps(response)), copy.deepcopy(response)]
    return [
        response.status_code,
        headers,
        response.content,
        response.text,
        [[each.content, repr(each)] for each in copies],
    ]


def ask(style):
    return {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": f"{QUESTION} {style}"}]}


def claude(style):
    return {
        "model": "claude-sonnet-4-6",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": f"{QUESTION} {style}"}],
    }


def openai_styles(client):
    completions = client.chat.completions
    streaming = completions.with_streaming_response

    def opened(style, read, **more):
        with streaming.create(**ask(style), **more) as response:
            return [read(response), response.http_response.is_closed, response.http_response.is_stream_consumed]

    def stream_left_early():
        stream = completions.create(**ask("left early"), stream=True)
        first = next(stream)
        stream.close()
        return [first.to_dict(), stream.response.is_closed, type(stream).__name__]

    def helper():
        with completions.stream(**ask("helper")) as stream:
            return [event.type for event in stream] + [stream.get_final_completion()]

    def responses_helper():
        with client.responses.stream(model="gpt-5.4-mini", input=QUESTION) as stream:
            return [event.type for event in stream] + [stream.get_final_response()]

    def copied_client():
        return client.with_options(timeout=7, default_headers={"x-a": "b"}).chat.completions.create(**ask("copied"))

    yield "create", lambda: completions.create(**ask("create"))
    yield "unknown model", lambda: completions.create(**{**ask("unknown"), "model": "no-such-model"})
    yield "stream", lambda: [chunk.to_dict() for chunk in completions.create(**ask("stream"), stream=True)]
    yield (
        "stream with usage",
        lambda: [
            c.to_dict() for c in completions.create(**ask("s"), stream=True, stream_options={"include_usage": True})
        ],
    )
    yield (
        "stream without usage",
        lambda: [
            c.to_dict() for c in completions.create(**ask("t"), stream=True, stream_options={"include_usage": False})
        ],
    )
    yield "stream left early", stream_left_early
    yield "helper", helper
    yield "raw", lambda: http(completions.with_raw_response.create(**ask("raw")).http_response)
    yield "raw parsed", lambda: completions.with_raw_response.create(**ask("parsed")).parse()
    yield (
        "raw stream",
        lambda: [
            chunk.to_dict() for chunk in completions.with_raw_response.create(**ask("raw stream"), stream=True).parse()
        ],
    )
    yield "opened parse", lambda: opened("parse", lambda r: r.parse())
    yield "opened json", lambda: opened("json", lambda r: r.json())
    yield "opened unread", lambda: opened("unread", lambda r: r.status_code)
    for stream in (False, True):
        more = {"stream": True} if stream else {}
        for name, read in (
            ("read", lambda r: r.read()),
            ("bytes", lambda r: b"".join(r.iter_bytes())),
            ("small bytes", lambda r: b"".join(r.iter_bytes(7))),
            ("text", lambda r: "".join(r.iter_text())),
            ("lines", lambda r: list(r.iter_lines())),
            ("raw", lambda r: b"".join(r.http_response.iter_raw())),
            ("http", lambda r: [r.read(), http(r.http_response)]),
        ):
            yield f"opened {name} {stream}", lambda n=name, r=read, m=more: opened(n, r, **m)
    yield "post", lambda: client.post("/chat/completions", body=ask("post"), cast_to=object)
    yield (
        "post response",
        lambda: http(
            client.post(
                "/chat/completions", body={**ask("whole"), "stream": True}, cast_to=type(openai_response(client))
            )
        ),
    )
    yield "responses", lambda: client.responses.create(model="gpt-5.4-mini", input=QUESTION)
    yield (
        "responses stream",
        lambda: [
            [event.type, event.to_dict()]
            for event in client.responses.create(model="gpt-5.4-mini", input=QUESTION, stream=True)
        ],
    )
    yield "responses helper", responses_helper
    yield "embeddings", lambda: client.embeddings.create(model="text-embedding-3-small", input=QUESTION)
    yield "copied client", copied_client
    yield "retried", lambda: completions.create(**ask("[429] retried"))
    yield "server error", lambda: completions.create(**ask("[500]"))
    yield "wrong type", lambda: completions.create(model="gpt-4.1-mini", messages=object())
    yield "unreachable", lambda: client.with_options(base_url=CLOSED_PORT, max_retries=0).models.list()


def openai_response(client):
    return client.chat.completions.with_raw_response.create(**ask("type")).http_response


def anthropic_styles(client):
    def helper():
        with client.messages.stream(**claude("helper")) as stream:
            return [*stream.text_stream, stream.get_final_message()]

    def opened(read, **more):
        with client.messages.with_streaming_response.create(**claude("opened"), **more) as response:
            return [read(response), response.http_response.is_closed]

    yield "create", lambda: client.messages.create(**claude("create"))
    yield "stream", lambda: [event.to_dict() for event in client.messages.create(**claude("stream"), stream=True)]
    yield "helper", helper
    yield "raw", lambda: http(client.messages.with_raw_response.create(**claude("raw")).http_response)
    yield "opened", lambda: opened(lambda r: r.parse())
    yield "opened raw", lambda: opened(lambda r: b"".join(r.http_response.iter_raw()), stream=True)
    yield "opened lines", lambda: opened(lambda r: list(r.iter_lines()), stream=True)
    yield "server error", lambda: client.messages.create(**claude("[500]"))
    yield "post", lambda: client.post("/v1/messages", body=claude("post"), cast_to=object)


def google_styles(client):
    models = client.models
    contents = {"model": "gemini-3.5-flash", "contents": QUESTION}
    yield "generate", lambda: models.generate_content(**contents)
    yield "stream", lambda: list(models.generate_content_stream(**contents))
    yield "left early", lambda: next(iter(models.generate_content_stream(**contents)))
    yield "config", lambda: models.generate_content(**contents, config=types.GenerateContentConfig(temperature=0.5))
    yield "count", lambda: models.count_tokens(**contents)
    yield "embed", lambda: models.embed_content(model="gemini-embedding-001", contents=QUESTION)
    yield "chat", lambda: client.chats.create(model="gemini-3.5-flash").send_message(QUESTION)
    yield "server error", lambda: models.generate_content(model="gemini-3.5-flash", contents="[500]")


def http_styles():
    body = claude("http")
    url = f"{BASE}/v1/messages"
    yield "httpx", lambda: http(httpx.post(url, json=body))
    yield "httpx stream", lambda: http_stream(url, {**body, "stream": True})
    yield "requests", lambda: requests.post(url, json=body, timeout=9).json()
    yield "requests pickled", lambda: pickle.loads(pickle.dumps(requests.post(url, json=body, timeout=9))).content
    yield (
        "requests stream",
        lambda: list(requests.post(url, json={**body, "stream": True}, stream=True, timeout=9).iter_lines()),
    )
    yield "requests raw", lambda: requests.post(url, json=body, stream=True, timeout=9).raw.read()
    yield "httpx unreachable", lambda: httpx.post(f"{CLOSED_PORT}/v1/messages", json=body)


def http_stream(url, body):
    with httpx.stream("POST", url, json=body) as response:
        return [list(response.iter_lines()), response.is_closed]


async def asynchronous_styles():
    seen = {}

    async def note(name, call):
        try:
            seen[name] = plain(await call)
        except Exception as error:
            seen[name] = failure(error)

    async with openai.AsyncOpenAI(max_retries=1) as client, anthropic.AsyncAnthropic(max_retries=1) as other:
        completions = client.chat.completions

        async def stream():
            return [chunk.to_dict() async for chunk in await completions.create(**ask("async stream"), stream=True)]

        async def left_early():
            opened = await completions.create(**ask("async early"), stream=True)
            first = await opened.__anext__()
            await opened.close()
            return [first.to_dict(), opened.response.is_closed]

        async def raw_bytes():
            async with completions.with_streaming_response.create(**ask("async raw"), stream=True) as response:
                return b"".join([part async for part in response.http_response.aiter_raw()])

        async def lines():
            async with completions.with_streaming_response.create(**ask("async lines"), stream=True) as response:
                return [line async for line in response.iter_lines()]

        async def events():
            return [event.to_dict() async for event in await other.messages.create(**claude("async"), stream=True)]

        async def helper():
            async with other.messages.stream(**claude("async helper")) as opened:
                return [text async for text in opened.text_stream]

        await note("async create", completions.create(**ask("async create")))
        await note("async error", completions.create(**ask("[500]")))
        for function in (stream, left_early, raw_bytes, lines, events, helper):
            await note(f"async {function.__name__}", function())
        await note("async message", other.messages.create(**claude("async message")))
    return seen


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def run():
    seen = {}
    with openai.OpenAI(max_retries=1) as client, anthropic.Anthropic(max_retries=1) as other:
        google = genai.Client()
        styles = [
            *((f"openai {name}", call) for name, call in openai_styles(client)),
            *((f"anthropic {name}", call) for name, call in anthropic_styles(other)),
            *((f"google {name}", call) for name, call in google_styles(google)),
            *((f"http {name}", call) for name, call in http_styles()),
        ]
        for name, call in styles:
            try:
                seen[name] = plain(call())
            except Exception as error:
                seen[name] = failure(error)
        growth = objects_kept(client)
    if MODE == "uvloop":
        import uvloop

        seen |= uvloop.run(asynchronous_styles())
    elif MODE == "trio":
        import trio

        seen |= trio.run(asynchronous_styles)
    elif MODE != "gevent":
        seen |= asyncio.run(asynchronous_styles())
    return seen, growth


def objects_kept(client):
    """How many objects a call leaves behind."""

    def calls(count):
        for number in range(count):
            client.chat.completions.create(**ask(f"kept {number % 3}"))
            list(client.chat.completions.create(**ask(f"kept {number % 3}"), stream=True))
        gc.collect()
        return len(gc.get_objects())

    calls(20)
    before = calls(1)
    return (calls(60) - before) / 60


if MODE == "profile":
    sys.setprofile(lambda frame, event, argument: None)
watch_warnings()
seen, growth = run()
threads = sorted(thread.name for thread in threading.enumerate())
print(
    json.dumps(
        {"seen": seen, "warnings": seen_warnings, "threads": threads, "descriptors": descriptors(), "kept": growth}
    )
)
