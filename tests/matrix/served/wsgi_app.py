"""A WSGI application that asks a model: /plain, /stream, and / without a call."""

from __future__ import annotations

import os

import questions

if os.environ.get("WARM"):  # as a connection check at import, which `--preload` makes in the master
    with questions.on_behalf_of("master"):
        questions.plain("master")
        questions._clients.clear()


def application(environ, start_response):
    text = questions.answer(environ["PATH_INFO"].strip("/"), environ.get("HTTP_X_USER", ""))
    start_response("200 OK", [("content-type", "text/plain")])
    return [text.encode()]
