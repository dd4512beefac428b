"""A Django application that asks a model, for runserver and, as `django_app:application`, for an ASGI server."""

from __future__ import annotations

import sys

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

import questions

if not settings.configured:
    settings.configure(DEBUG=True, SECRET_KEY="a test's", ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__)
    django.setup()


def page(request: HttpRequest, what: str = "") -> HttpResponse:
    return HttpResponse(questions.answer(what, request.headers.get("x-user", "")))


urlpatterns = [path("", page), path("<str:what>", page)]
application = ASGIHandler()

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
