"""A WSGI application that asks a model, for gunicorn's workers: /plain, /stream, and / without a call."""

from __future__ import annotations

import openai

client = openai.OpenAI()


def application(environ, start_response):
    path = environ["PATH_INFO"]
    text = "up"
    if path != "/":
        ask = client.chat.completions.create
        messages: list = [{"role": "user", "content": "hello"}]
        if path == "/plain":
            text = ask(model="gpt-4.1-mini", messages=messages).choices[0].message.content
        else:
            chunks = ask(model="gpt-4.1-mini", messages=messages, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    start_response("200 OK", [("content-type", "text/plain")])
    return [text.encode()]
