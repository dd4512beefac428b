"""Celery tasks that ask a model; the broker is a folder. `python jobs.py` sends one of each kind for each user."""

from __future__ import annotations

import os

from celery import Celery

import questions

app = Celery("jobs", broker="filesystem://")
app.conf.broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue"}
app.conf.worker_hijack_root_logger = False
os.makedirs("queue", exist_ok=True)


@app.task
def ask(kind: str, user: str) -> None:
    with questions.on_behalf_of(user):
        getattr(questions, kind)(user)


if __name__ == "__main__":
    for number in range(8):
        ask.delay("plain" if number % 2 else "streamed", ("ada", "bob", "cyd")[number % 3])
