"""A Flask application with LLM features: one line of middleware says who is asking, and for what.

opentelemetry-instrument flask run
"""

from __future__ import annotations

from collections.abc import Iterator

import openai
from flask import Flask, Response, request

from spanledger.middleware import WsgiAttribution

app = Flask(__name__)
app.wsgi_app = WsgiAttribution(app.wsgi_app, user="x-user", routes={"/summarize": "summarize", "/chat": "chat"})
client = openai.OpenAI()


def ask(text: str, **options: object) -> object:
    return client.chat.completions.create(model="gpt-4.1-mini", messages=[{"role": "user", "content": text}], **options)


@app.get("/health")
def health() -> str:
    return "ok"


@app.post("/summarize")
def summarize() -> str:
    return ask(f"summarize {request.get_data(as_text=True)}").choices[0].message.content


@app.post("/chat")
def chat() -> Response:
    """A streamed answer: the call is made while the body is sent."""
    text = request.get_data(as_text=True)

    def words() -> Iterator[str]:
        for chunk in ask(f"chat {text}", stream=True):
            yield chunk.choices[0].delta.content or ""

    return Response(words(), mimetype="text/plain")
