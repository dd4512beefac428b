"""Celery tasks with LLM calls: what the sender knows of the user reaches the worker.

opentelemetry-instrument celery -A tasks worker
opentelemetry-instrument python send.py
"""

from __future__ import annotations

import os

import openai
from celery import Celery

from spanledger.middleware import celery_attribution

FOLDER = os.environ.get("CELERY_FOLDER", "/tmp/spanledger-celery")
app = Celery("tasks", broker="filesystem://", backend=f"file://{FOLDER}/results")
app.conf.broker_transport_options = {"data_folder_in": f"{FOLDER}/queue", "data_folder_out": f"{FOLDER}/queue"}
for folder in ("queue", "results"):
    os.makedirs(f"{FOLDER}/{folder}", exist_ok=True)

celery_attribution(feature=lambda task: task.rpartition(".")[2])


@app.task
def summarize(text: str) -> str:
    messages = [{"role": "user", "content": f"summarize {text}"}]
    return openai.OpenAI().chat.completions.create(model="gpt-4.1-mini", messages=messages).choices[0].message.content
