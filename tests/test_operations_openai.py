"""Other billed operations of OpenAI: images, speech, transcription, polled jobs, batches, sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

from canned import Canned, sse
from conftest import Recorded
from spanledger.capture import dedup

# Some of what is sold is deprecated by its seller; it is billed all the same.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CHAT_USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
RESPONSE_USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 40},
    "output_tokens": 10,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 110,
}


@pytest.fixture
def server(monkeypatch, public_host) -> Iterator[Canned]:
    monkeypatch.setattr("spanledger.capture.call.seen_responses", dedup.SeenResponses())
    canned = Canned()
    yield canned
    canned.close()


@pytest.fixture
def client(server: Canned) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=f"{server.url}/v1", max_retries=0) as client:
        yield client


def values(row: dict[str, Any], *columns: str) -> tuple[Any, ...]:
    return tuple(row[column] for column in columns)


def test_legacy_completions_are_recorded(client, server, ledger: Recorded):
    server.answers["/completions"] = {"id": "cmpl-1", "object": "text_completion", "model": "davinci-002", "choices": [], "usage": CHAT_USAGE}  # fmt: skip
    client.completions.create(model="davinci-002", prompt="x")
    assert values(ledger.row, "operation", "input_uncached_tokens", "output_text_tokens", "usage_source") == (
        "text_completion", 100, 10, "exact",
    )  # fmt: skip


def test_images_are_counted_in_tokens(client, server, ledger: Recorded):
    usage = {
        "input_tokens": 50, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}, "output_tokens": 272,
        "total_tokens": 322,
    }  # fmt: skip
    server.answers["/images/generations"] = {"created": 1, "data": [{"b64_json": "x"}], "usage": usage}
    client.images.generate(model="gpt-image-1", prompt="a cat")
    row = ledger.row
    assert values(row, "operation", "input_uncached_tokens", "input_image_tokens", "output_image_tokens", "images") == (
        "image_generation", 10, 40, 272, 0,
    )  # fmt: skip
    assert row["price_status"] == "priced"


def test_images_without_tokens_are_counted(client, server, ledger: Recorded):
    server.answers["/images/generations"] = {"created": 1, "data": [{"url": "x"}, {"url": "y"}]}
    client.images.generate(model="gpt-image-1", prompt="a cat", n=2, size="1024x1024", quality="high")
    row = ledger.row
    assert values(row, "images", "media_size", "media_quality", "usage_source", "cost_usd", "price_key") == (
        2, "1024x1024", "high", "request", Decimal("0.334"), "high/1024-x-1024/gpt-image-1",
    )  # fmt: skip


def test_image_edits_are_multipart_and_counted(client, server, ledger: Recorded):
    server.answers["/images/edits"] = {"created": 1, "data": [{"b64_json": "x"}], "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}}  # fmt: skip
    client.images.edit(model="gpt-image-1", image=b"png", prompt="a cat")
    assert values(ledger.row, "request_model", "output_image_tokens") == ("gpt-image-1", 7)


def test_streamed_images_are_one_row(client, server, ledger: Recorded):
    usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
    partial = {"type": "image_generation.partial_image", "b64_json": "x", "partial_image_index": 0}
    done = {
        "type": "image_generation.completed",
        "b64_json": "x",
        "size": "1024x1024",
        "quality": "low",
        "usage": usage,
    }
    server.answers["/images/generations"] = sse(("a", partial), ("b", done))
    assert len(list(client.images.generate(model="gpt-image-1", prompt="x", stream=True))) == 2
    assert values(ledger.row, "output_image_tokens", "outcome", "usage_source") == (7, "ok", "exact")


def test_speech_is_counted_in_characters(client, server, ledger: Recorded):
    server.answers["/audio/speech"] = b"\x00\x01audio"
    client.audio.speech.create(model="tts-1", voice="alloy", input="twelve chars").read()
    assert values(ledger.row, "operation", "characters", "usage_source", "cost_usd") == (
        "speech", 12, "request", Decimal("0.00018"),
    )  # fmt: skip


def test_streamed_speech_is_one_row(client, server, ledger: Recorded):
    server.answers["/audio/speech"] = b"\x00\x01audio"
    with client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="abc") as response:
        assert b"".join(response.iter_bytes()) == b"\x00\x01audio"
    assert values(ledger.row, "characters", "cost_usd") == (3, Decimal("0.000045"))


@pytest.mark.parametrize(
    ("answer", "columns"),
    [
        ({"text": "x", "usage": {"type": "duration", "seconds": 61}}, {"audio_input_ms": 61_000, "cost_usd": Decimal("0.0061")}),
        ({"text": "x", "duration": 2.5, "language": "en"}, {"audio_input_ms": 2500, "cost_usd": Decimal("0.00025")}),
        (b"just text", {"usage_source": "missing", "price_status": "unpriced:no_usage", "cost_usd": None}),
    ],
)  # fmt: skip
def test_transcription_is_counted_by_duration(answer, columns, client, server, ledger: Recorded):
    server.answers["/audio/transcriptions"] = answer
    form = "text" if isinstance(answer, bytes) else "json"
    client.audio.transcriptions.create(model="whisper-1", file=b"wav", response_format=form)
    assert {name: ledger.row[name] for name in columns} == columns


def test_speech_as_events_is_counted_in_tokens_in_every_way_of_reading(client, server, ledger: Recorded):
    usage = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
    server.answers["/audio/speech"] = sse(
        {"type": "speech.audio.delta", "audio": "AAAA"}, {"type": "speech.audio.done", "usage": usage}
    )
    ask = {"model": "gpt-4o-mini-tts", "input": "hello", "voice": "coral", "stream_format": "sse"}
    client.audio.speech.create(**ask).read()
    with client.audio.speech.with_streaming_response.create(**ask) as response:
        assert b"".join(response.iter_bytes()) == server.answers["/audio/speech"]
    with client.audio.speech.with_streaming_response.create(**ask) as response:
        response.read()
    assert [values(row, "input_uncached_tokens", "characters", "usage_source") for row in ledger.rows] == [
        (14, 0, "exact")
    ] * 3


def test_decisions_have_rates_of_their_own(client, server, ledger: Recorded):
    usage = {
        "input_tokens": 1_000, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 1_005,
    }  # fmt: skip
    server.answers["/decisions"] = {
        "id": "dec_1",
        "object": "decision",
        "model": "gpt-6-luna",
        "answers": [],
        "usage": usage,
    }
    client.post("/decisions", body={"model": "gpt-6-luna", "input": "x"}, cast_to=object)
    assert values(ledger.row, "operation", "service_tier", "cost_usd") == ("decision", "decisions", Decimal("0.0001"))


def test_groqs_stream_states_its_usage_in_a_place_of_its_own(client, server, ledger: Recorded):
    chunk = {"id": "q1", "object": "chat.completion.chunk", "created": 1, "model": "llama-3.3-70b-versatile"}
    server.answers["/chat/completions"] = sse(
        {**chunk, "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]},
        {
            **chunk,
            "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
            "x_groq": {"id": "r", "usage": CHAT_USAGE},
        },
        "[DONE]",
    )
    list(client.chat.completions.create(model="llama-3.3-70b-versatile", messages=[], stream=True))
    assert ledger.row["output_text_tokens"] == CHAT_USAGE["completion_tokens"]


def test_an_azure_streams_id_is_its_first_that_is_one(client, server, ledger: Recorded):
    head = {"object": "chat.completion.chunk", "created": 0, "model": ""}
    chunk = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4.1-mini"}
    server.answers["/chat/completions"] = sse(
        {**head, "id": "", "choices": [], "prompt_filter_results": []},
        {**chunk, "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]},
        {**chunk, "choices": [], "usage": CHAT_USAGE},
        "[DONE]",
    )
    list(client.chat.completions.create(model="gpt-4.1-mini", messages=[], stream=True))
    assert (ledger.row["response_id"], ledger.row["response_model"]) == ("chatcmpl-7", "gpt-4.1-mini")


def test_streamed_transcription_is_counted_in_tokens(client, server, ledger: Recorded):
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 5, "total_tokens": 19, "input_token_details": {"audio_tokens": 14, "text_tokens": 0}}  # fmt: skip
    done = {"type": "transcript.text.done", "text": "x", "usage": usage}
    server.answers["/audio/transcriptions"] = sse({"type": "transcript.text.delta", "delta": "x"}, done)
    list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=b"wav", stream=True))
    assert values(ledger.row, "operation", "input_audio_tokens", "output_text_tokens", "outcome") == ("transcription", 14, 5, "ok")  # fmt: skip


def test_moderations_models_and_files_are_free(client, server, ledger: Recorded):
    server.answers["/moderations"] = {"id": "m", "model": "omni", "results": []}
    client.moderations.create(input="x")
    client.models.list()
    client.files.create(file=b"x", purpose="batch")
    assert ledger.rows == []


VIDEO = {"id": "video_1", "object": "video", "model": "sora-2", "seconds": "8", "size": "1280x720", "created_at": 1_790_000_000, "progress": 0}  # fmt: skip


def test_a_video_is_billed_once_when_it_is_done(client, server, ledger: Recorded):
    server.answers["/videos"] = {**VIDEO, "status": "queued"}
    server.answers["/videos/video_1"] = [{**VIDEO, "status": "in_progress"}, {**VIDEO, "status": "completed"}]
    client.videos.create(model="sora-2", prompt="x")
    for _ in range(4):
        client.videos.retrieve("video_1")
    assert values(ledger.row, "operation", "request_model", "video_output_ms", "media_size", "cost_usd") == (
        "video_generation", "sora-2", 8000, "1280x720", Decimal("0.8"),
    )  # fmt: skip


def background(status: str, usage: Any) -> dict[str, Any]:
    return {
        "id": "resp_1", "object": "response", "model": "gpt-5.4-mini", "status": status, "usage": usage, "output": [],
        "created_at": 1_790_000_000, "background": True, "tools": [], "parallel_tool_calls": True, "tool_choice": "auto",
    }  # fmt: skip


def test_a_background_response_is_billed_once_when_it_is_done(client, server, ledger: Recorded):
    server.answers["/responses"] = background("queued", None)
    server.answers["/responses/resp_1"] = [background("in_progress", None), background("completed", RESPONSE_USAGE)]
    client.responses.create(model="gpt-5.4-mini", input="x", background=True)
    for _ in range(3):
        client.responses.retrieve("resp_1")
    row = ledger.row
    assert values(row, "response_id", "cache_read_tokens", "reasoning_tokens") == ("resp_1", 40, 4)
    assert row["start_time"].timestamp() == 1_790_000_000


def test_two_processes_that_see_the_same_job_write_the_same_row(client, server, ledger: Recorded, monkeypatch):
    server.answers["/responses/resp_1"] = background("completed", RESPONSE_USAGE)
    client.responses.retrieve("resp_1")
    monkeypatch.setattr("spanledger.capture.call.seen_responses", dedup.SeenResponses())
    client.responses.retrieve("resp_1")
    first, second = ledger.rows
    key = ("tenant_id", "start_time", "trace_id", "span_id")
    assert values(first, *key) == values(second, *key)


def test_retrieving_a_billed_response_is_not_billed(client, server, ledger: Recorded):
    server.answers["/responses/resp_1"] = {**background("completed", RESPONSE_USAGE), "background": False}
    client.responses.retrieve("resp_1")
    assert ledger.rows == []


def test_compaction_is_billed(client, server, ledger: Recorded):
    server.answers["/responses/compact"] = {"id": "c", "object": "response.compaction", "output": [], "created_at": 1, "usage": RESPONSE_USAGE}  # fmt: skip
    client.responses.compact(model="gpt-5.4-mini", input="x")
    assert values(ledger.row, "operation", "cache_read_tokens") == ("chat", 40)


def test_tools_of_a_response_are_counted_and_its_images_are_a_separate_row(client, server, ledger: Recorded):
    images = {
        "input_tokens": 20, "output_tokens": 272, "total_tokens": 292, "input_tokens_details": {"text_tokens": 20, "image_tokens": 0},
        "output_tokens_details": {"image_tokens": 272, "text_tokens": 0},
    }  # fmt: skip
    server.answers["/responses"] = {
        **background("completed", RESPONSE_USAGE),
        "background": False,
        "output": [{"type": "file_search_call", "id": "f", "queries": [], "status": "completed"}],
        "tools": [{"type": "image_generation", "model": "gpt-image-1-mini"}],
        "tool_usage": {"image_gen": images, "web_search": {"num_requests": 3}},
    }
    client.responses.create(model="gpt-5.4-mini", input="x")
    by_operation = {row["operation"]: row for row in ledger.rows}
    assert values(by_operation["chat"], "web_searches", "file_searches", "response_model") == (3, 1, "gpt-5.4-mini")
    assert values(by_operation["image_generation"], "request_model", "output_image_tokens", "input_uncached_tokens") == (
        "gpt-image-1-mini", 272, 20,
    )  # fmt: skip
    assert len(ledger.rows) == 2


RUN = {
    "id": "run_1", "object": "thread.run", "model": "gpt-4.1-mini", "created_at": 1_790_000_000, "thread_id": "t",
    "assistant_id": "a", "instructions": "", "metadata": {}, "tools": [], "parallel_tool_calls": True,
}  # fmt: skip


def test_a_run_is_billed_once_when_it_is_done(client, server, ledger: Recorded):
    server.answers["/threads/t/runs"] = {**RUN, "status": "queued", "usage": None}
    server.answers["/runs/run_1"] = [
        {**RUN, "status": "in_progress", "usage": None},
        {**RUN, "status": "completed", "usage": CHAT_USAGE},
    ]
    client.beta.threads.runs.create("t", assistant_id="a")
    for _ in range(3):
        client.beta.threads.runs.retrieve("run_1", thread_id="t")
    assert values(ledger.row, "operation", "request_model", "input_uncached_tokens") == (
        "invoke_agent",
        "gpt-4.1-mini",
        100,
    )


def test_a_streamed_run_is_billed_by_its_last_event(client, server, ledger: Recorded):
    server.answers["/threads/t/runs"] = sse(
        ("thread.run.created", {**RUN, "status": "queued", "usage": None}),
        ("thread.run.step.completed", {"id": "step", "object": "thread.run.step", "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}),
        ("thread.run.completed", {**RUN, "status": "completed", "usage": CHAT_USAGE}),
        ("done", "[DONE]"),
    )  # fmt: skip
    list(client.beta.threads.runs.create("t", assistant_id="a", stream=True))
    assert values(ledger.row, "response_id", "input_uncached_tokens") == ("run_1", 100)


def test_fine_tuning_is_a_row_without_a_price(client, server, ledger: Recorded):
    job = {"id": "ft-1", "object": "fine_tuning.job", "model": "gpt-4.1-mini-2025-04-14", "created_at": 1_790_000_000}
    server.answers["/fine_tuning/jobs/ft-1"] = [{**job, "status": "running", "trained_tokens": None}, {**job, "status": "succeeded", "trained_tokens": 12345}]  # fmt: skip
    for _ in range(3):
        client.fine_tuning.jobs.retrieve("ft-1")
    assert values(ledger.row, "training_tokens", "price_status") == (12345, "unpriced:no_price")


def test_an_eval_run_is_a_row_for_each_of_its_models(client, server, ledger: Recorded):
    usage = {"cached_tokens": 5, "completion_tokens": 2, "invocation_count": 1, "prompt_tokens": 10, "total_tokens": 12}
    run = {
        "id": "evalrun_1", "object": "eval.run", "status": "completed", "created_at": 1_790_000_000, "eval_id": "e", "model": "m",
        "per_model_usage": [{**usage, "model_name": "gpt-4.1-mini"}, {**usage, "model_name": "gpt-5.4-mini"}],
    }  # fmt: skip
    server.answers["/evals/e/runs/evalrun_1"] = run
    for _ in range(2):
        client.evals.runs.retrieve("evalrun_1", eval_id="e")
    assert [values(row, "request_model", "cache_read_tokens", "output_text_tokens") for row in ledger.rows] == [
        ("gpt-4.1-mini", 5, 2), ("gpt-5.4-mini", 5, 2),
    ]  # fmt: skip


def results() -> bytes:
    lines = [
        {"id": f"batch_req_{n}", "custom_id": f"c{n}", "error": None,
         "response": {"status_code": 200, "request_id": "r", "body": {
             "id": f"chatcmpl-{n}", "object": "chat.completion", "created": 1_790_000_000, "model": "gpt-4.1-mini",
             "choices": [], "usage": CHAT_USAGE}}}
        for n in range(3)
    ]  # fmt: skip
    failed = {"id": "batch_req_9", "custom_id": "c9", "error": {"code": "x"}, "response": None}
    return b"\n".join(json.dumps(line).encode() for line in [*lines, failed]) + b"\n"


def test_a_batchs_results_are_rows_at_the_batch_price_once(client, server, ledger: Recorded):
    server.answers["/files/f/content"] = results()
    client.files.content("f").read()
    client.files.content("f").read()
    with client.files.with_streaming_response.content("f") as response:
        assert b"".join(response.iter_bytes()) == results()
    assert [values(row, "response_id", "is_batch", "cost_usd") for row in ledger.rows] == [
        (f"chatcmpl-{n}", True, Decimal("0.000028")) for n in range(3)
    ]


def test_a_streamed_batch_file_is_read_line_by_line(client, server, ledger: Recorded):
    server.answers["/files/f/content"] = results()
    with client.files.with_streaming_response.content("f") as response:
        list(response.iter_lines())
    assert len(ledger.rows) == 3


def test_vector_store_search_and_containers_are_rows(client, server, ledger: Recorded):
    server.answers["/vector_stores/v/search"] = {"object": "vector_store.search_results.page", "data": [], "has_more": False, "search_query": ["x"], "next_page": None}  # fmt: skip
    server.answers["/containers"] = {
        "id": "cntr_1",
        "object": "container",
        "created_at": 1,
        "name": "x",
        "status": "running",
    }
    client.vector_stores.search("v", query="x")
    client.containers.create(name="x")
    search, container = ledger.rows
    assert values(search, "operation", "queries", "price_status") == ("retrieval", 1, "unpriced:no_model")
    assert values(container, "operation", "code_sessions", "cost_usd") == ("create_container", 1, Decimal("0.03"))


def test_an_unknown_endpoint_with_usage_is_a_row(client, server, ledger: Recorded):
    server.answers["/brand/new"] = {"id": "n", "model": "gpt-4.1-mini", "usage": RESPONSE_USAGE}
    client.post("/brand/new", body={"model": "gpt-4.1-mini"}, cast_to=object)
    assert values(ledger.row, "operation", "cache_read_tokens", "price_status") == ("unknown", 40, "priced")


def test_azure_deployments_are_calls(server, ledger: Recorded):
    server.answers["/chat/completions"] = {"id": "x", "object": "chat.completion", "model": "gpt-4.1-mini-2025-04-14", "choices": [], "usage": CHAT_USAGE, "created": 1}  # fmt: skip
    with openai.AzureOpenAI(api_key="k", azure_endpoint=server.url, api_version="2026-01-01") as client:
        client.chat.completions.create(model="my-deployment", messages=[])
    assert values(ledger.row, "request_model", "response_model", "operation") == ("my-deployment", "gpt-4.1-mini-2025-04-14", "chat")  # fmt: skip


def test_calls_of_derived_clients_are_recorded(client, server, ledger: Recorded):
    server.answers["/chat/completions"] = {"id": "x", "object": "chat.completion", "model": "gpt-4.1-mini", "choices": [], "usage": CHAT_USAGE, "created": 1}  # fmt: skip
    client.with_options(timeout=5).chat.completions.create(model="gpt-4.1-mini", messages=[])
    client.copy().chat.completions.create(model="gpt-4.1-mini", messages=[])
    assert len(ledger.rows) == 2
