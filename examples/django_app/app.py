"""A Django application in one file, with LLM features; the user is the one who is logged in, or a header.

opentelemetry-instrument python app.py runserver --noreload
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import openai
from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="an example's",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["spanledger.middleware.django_attribution"],
    SPANLEDGER={"user": "x-user", "routes": {"/summarize": "summarize", "/chat": "chat"}},
)

client = openai.OpenAI()


def ask(text: str, **options: object) -> object:
    return client.chat.completions.create(model="gpt-4.1-mini", messages=[{"role": "user", "content": text}], **options)


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def summarize(request: HttpRequest) -> HttpResponse:
    return HttpResponse(ask(f"summarize {request.body.decode()}").choices[0].message.content)


def chat(request: HttpRequest) -> StreamingHttpResponse:
    text = request.body.decode()

    def words() -> Iterator[str]:
        for chunk in ask(f"chat {text}", stream=True):
            yield chunk.choices[0].delta.content or ""

    return StreamingHttpResponse(words())


urlpatterns = [path("health", health), path("summarize", summarize), path("chat", chat)]

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
