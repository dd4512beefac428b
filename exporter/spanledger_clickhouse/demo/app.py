# pyright: basic
"""A small application with LLM features. It knows nothing of Spanledger.

Its one middleware puts who is asking, and for what, into OpenTelemetry baggage, as it would for its
traces; the three SDKs are used as their documentation shows. Run it with

    opentelemetry-instrument uvicorn app:app
"""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

from anthropic import Anthropic, AsyncAnthropic
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from google import genai
from openai import AsyncOpenAI, OpenAI
from opentelemetry import baggage, context, trace

app = FastAPI()
openai = OpenAI()
openai_async = AsyncOpenAI()
anthropic = Anthropic()
anthropic_async = AsyncAnthropic()
google = genai.Client()
uploads: queue.Queue[str] = queue.Queue()


@app.middleware("http")
async def who_is_asking(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    current = context.get_current()
    for key, value in {
        "user.id": request.headers.get("x-user"),
        "spanledger.request.id": request.headers.get("x-request-id"),
        "spanledger.feature": request.url.path.strip("/").split("/")[0],
    }.items():
        if value:
            current = baggage.set_baggage(key, value, current)
    token = context.attach(current)
    try:
        response = await call_next(request)
        response.headers["x-trace-id"] = f"{trace.get_current_span().get_span_context().trace_id:032x}"
        return response
    finally:
        context.detach(token)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/summarize")
async def summarize(request: Request) -> dict[str, str | None]:
    """Two calls: a cheap model reads, a better one writes. The second is a stream."""
    text = (await request.body()).decode()
    notes = await openai_async.chat.completions.create(
        model="gpt-4.1-mini", messages=[{"role": "user", "content": f"take notes: {text}"}]
    )
    summary = ""
    async with anthropic_async.messages.stream(
        model="claude-sonnet-4-6",
        max_tokens=500,
        system="You summarize.",
        messages=[{"role": "user", "content": f"summarize: {text}"}],
    ) as stream:
        async for part in stream.text_stream:
            summary += part
    return {"notes": notes.choices[0].message.content, "summary": summary}


@app.post("/chat")
async def chat(request: Request) -> StreamingResponse:
    """One streamed call, passed on as it comes."""
    text = (await request.body()).decode()

    async def words() -> AsyncIterator[str]:
        stream = await openai_async.chat.completions.create(
            model="gpt-4.1-mini", messages=[{"role": "user", "content": text}], stream=True
        )
        async for chunk in stream:
            yield chunk.choices[0].delta.content or ""

    return StreamingResponse(words(), media_type="text/plain")


@app.post("/search")
def search(text: str) -> dict[str, str | None]:
    """Three SDKs in a synchronous endpoint: an embedding, a Gemini answer and a check by GPT."""
    openai.embeddings.create(model="text-embedding-3-small", input=text)
    answer = google.models.generate_content(model="gemini-3.5-flash", contents=text)
    check = openai.responses.create(model="gpt-5.4-mini", input=f"check: {text}")
    return {"answer": answer.text, "check": check.output_text}


@app.post("/upload")
async def upload(request: Request) -> dict[str, str]:
    """Answers at once and leaves the work to the thread that reads the queue: the context is lost on the way."""
    uploads.put((await request.body()).decode())
    return {"status": "accepted"}


def index_documents() -> None:
    while True:
        text = uploads.get()
        anthropic.messages.create(
            model="claude-haiku-4-5", max_tokens=200, messages=[{"role": "user", "content": f"index: {text}"}]
        )


threading.Thread(target=index_documents, daemon=True).start()
