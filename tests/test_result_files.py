"""Batches: a million lines do not stop the application, and their rows are those of whoever began the batch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision

import spanledger
from canned import Canned
from conftest import Recorded
from provider_answers import CREATED, results
from spanledger.capture import call as calls
from spanledger.capture import result_files
from spanledger.capture.dedup import SeenResponses
from spanledger.capture.jobs import Jobs
from spanledger.capture.sampler import RecordCallsSampler
from spanledger.runtime import finalizers
from spanledger.semconv import attributes as a
from spanledger_clickhouse.database import insert, migrations
from spanledger_clickhouse.rows.rows import COLUMNS, contents


@pytest.fixture
def another_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets what this process has seen."""

    def forget() -> None:
        monkeypatch.setattr(calls, "seen_responses", SeenResponses())
        monkeypatch.setattr(calls, "_jobs", Jobs())

    forget()
    return forget


@pytest.fixture
def client(canned: Canned) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1") as client:
        yield client


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["tenant_id"], row["start_time"], row["trace_id"], row["span_id"]


@pytest.mark.parametrize("lines", [3, 2000, 9000])
def test_any_number_of_downloads_is_one_set_of_rows(
    lines: int, canned: Canned, client: openai.OpenAI, ledger: Recorded, another_process: Callable[[], None]
):
    canned.answers["/files/file-r/content"] = results(lines)
    for _ in range(2):
        client.files.content("file-r").read()
        assert result_files.wait(20)
    assert len(ledger.rows) == lines, "the second download was recognised"
    another_process()
    with client.files.with_streaming_response.content("file-r") as response:
        assert sum(map(len, response.iter_bytes(8192))) == len(results(lines))
    assert result_files.wait(20)
    rows = ledger.rows
    assert len(rows) == 2 * lines
    assert len(set(map(identity, rows))) == lines
    assert {row["is_batch"] for row in rows} == {True}
    assert {row["price_status"] for row in rows} == {"priced"}
    assert {row["response_id"] for row in rows} == {f"chatcmpl-{number}" for number in range(lines)}


def test_a_download_is_little_more_than_bytes_and_few_lines_of_the_spool(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, another_process: Any
):
    canned.answers["/files/file-r/content"] = results(5000)
    client.files.content("file-r").read()
    assert result_files.wait(20)
    assert len(ledger.lines) <= 11
    assert sum(map(len, ledger.lines)) < 5000 * 250


def test_the_event_loop_is_not_stopped(canned: Canned, ledger: Recorded, another_process: Any):
    canned.answers["/files/file-r/content"] = results(20_000)

    async def longest_stall() -> float:
        longest, over = 0.0, False

        async def watch() -> None:
            nonlocal longest
            while not over:
                began = time.perf_counter()
                await asyncio.sleep(0.001)
                longest = max(longest, time.perf_counter() - began)

        watching = asyncio.create_task(watch())
        async with (
            openai.AsyncOpenAI(api_key="k", base_url=f"{canned.url}/v1") as client,
            client.files.with_streaming_response.content("file-r") as response,
        ):
            async for _ in response.iter_bytes(65536):
                pass
        until = time.monotonic() + 30
        while not result_files.wait(0) and time.monotonic() < until:  # noqa: ASYNC110 - another thread is waited for
            await asyncio.sleep(0.01)
        over = True
        await watching
        return longest

    stall = asyncio.run(longest_stall())
    assert len(ledger.rows) == 20_000
    assert stall < 0.5, f"{stall * 1000:.0f} ms (benchmarks/bench_batch_files.py: below 20 on an idle machine)"


@pytest.mark.parametrize(
    "body",
    [
        b"%PDF\n" + b"x" * 3_000_000,
        b'{"messages": []}\n' * 200_000,
        b'{"custom_id": "1", "body": {}}\n' * 100_000,
    ],
    ids=["document", "training data", "requests of a batch"],
)
def test_another_file_is_neither_kept_nor_read(
    body: bytes, canned: Canned, client: openai.OpenAI, ledger: Recorded, another_process: Any, monkeypatch
):
    handed: list[Any] = []
    monkeypatch.setattr(result_files.ResultFile, "_hand_on", lambda file: handed.append(file))  # noqa: PLW0108 - a method
    monkeypatch.setattr(result_files, "MEMORY_BYTES", 0)
    monkeypatch.setattr(result_files, "HANDED_BYTES", 1)  # what is taken for results is handed on at once
    canned.answers["/files/file-x/content"] = body
    assert client.files.content("file-x").read() == body
    assert (handed, ledger.rows) == ([], [])


def test_an_incomplete_download_keeps_the_lines_read_so_far(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, another_process: Any
):
    canned.answers["/files/file-r/content"] = results(1000)
    with client.files.with_streaming_response.content("file-r") as response:
        for _ in response.iter_bytes(65536):
            break
    assert finalizers.wait(10)
    assert 0 < len(ledger.rows) < 1000


# --- whose it is ---------------------------------------------------------------------------------------------------

BATCH = {
    "id": "batch_1",
    "object": "batch",
    "created_at": CREATED,
    "status": "in_progress",
    "input_file_id": "f",
    "endpoint": "x",
}
DONE = {**BATCH, "status": "completed", "output_file_id": "file-out"}


def begin_openai(client: openai.OpenAI) -> None:
    with spanledger.attribution(user="ada", feature="nightly", tenant="acme", request_id="r1"):
        client.batches.create(input_file_id="f", endpoint="/v1/chat/completions", completion_window="24h")


def fetch_openai(client: openai.OpenAI) -> None:
    with spanledger.attribution(user="cron", feature="fetcher"):
        client.batches.retrieve("batch_1")
        client.files.content("file-out").read()


def test_the_results_of_a_batch_are_those_of_who_began_it(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, another_process: Any
):
    canned.answers |= {"/batches": BATCH, "/batches/batch_1": DONE, "/files/file-out/content": results(3)}
    begin_openai(client)
    fetch_openai(client)
    assert {(r["user_id"], r["feature"], r["tenant_id"], r["job_id"]) for r in ledger.rows} == {
        ("ada", "nightly", "acme", "batch_1")
    }


def stored(embedded: Any, ledger: Recorded) -> list[dict[str, Any]]:
    """The rows as the ledger has them."""
    client, target = embedded
    migrations.migrate(client, target)
    for spooled in ledger.lines:  # one by one: they may come from several hosts
        insert.insert_contents(client, target, [contents(spooled)])
    found = client.query(f"SELECT {', '.join(COLUMNS)} FROM `{target.database}`.llm_calls FINAL ORDER BY span_id")
    return [dict(zip(COLUMNS, row, strict=True)) for row in found.result_rows]


def test_in_another_process_they_are_too(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, another_process: Callable[[], None], embedded: Any
):
    canned.answers |= {"/batches": BATCH, "/batches/batch_1": DONE, "/files/file-out/content": results(3)}
    begin_openai(client)
    another_process()
    client.batches.retrieve("batch_1")  # one process asks for the batch, a third one for the file
    another_process()
    with spanledger.attribution(user="cron", feature="fetcher"):
        client.files.content("file-out").read()
    another_process()
    fetch_openai(client)
    rows = stored(embedded, ledger)
    assert len(rows) == 3
    assert {(r["user_id"], r["feature"], r["tenant_id"], r["request_id"]) for r in rows} == {
        ("ada", "nightly", "acme", "r1")
    }


def test_a_background_response_is_that_of_who_began_it(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, another_process: Callable[[], None], embedded: Any
):
    made = {
        "id": "resp_1",
        "object": "response",
        "created_at": CREATED,
        "model": "gpt-5.4-mini",
        "background": True,
        "output": [],
    }
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    canned.answers |= {
        "/responses": {**made, "status": "queued"},
        "/responses/resp_1": {**made, "status": "completed", "usage": usage},
    }
    with spanledger.attribution(user="ada", feature="deep", tenant="acme"):
        client.responses.create(model="gpt-5.4-mini", input="x", background=True)
    another_process()
    with spanledger.attribution(user="bob"):
        client.responses.retrieve("resp_1")
    [row] = stored(embedded, ledger)
    assert (row["user_id"], row["feature"], row["tenant_id"], row["output_text_tokens"]) == ("ada", "deep", "acme", 5)


def test_anthropics_results_have_the_time_of_their_batch(
    canned: Canned, ledger: Recorded, another_process: Callable[[], None], embedded: Any
):
    batch = {"id": "msgbatch_1", "type": "message_batch", "processing_status": "ended", "created_at": "2026-11-01T10:00:00Z",
             "results_url": f"{canned.url}/v1/messages/batches/msgbatch_1/results"}  # fmt: skip
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-6", "content": [],
               "stop_reason": "end_turn", "usage": {"input_tokens": 10, "output_tokens": 5}}  # fmt: skip
    done = {"custom_id": "a", "result": {"type": "succeeded", "message": message}}
    canned.answers |= {
        "/messages/batches": batch,
        "/messages/batches/msgbatch_1": batch,
        "/messages/batches/msgbatch_1/results": json.dumps(done).encode() + b"\n",
    }
    with anthropic.Anthropic(api_key="k", base_url=canned.url) as client:
        with spanledger.attribution(user="ada"):
            client.messages.batches.create(requests=[])
        for _ in range(2):
            another_process()
            list(client.messages.batches.results("msgbatch_1"))
            assert finalizers.wait(5)
    [row] = stored(embedded, ledger)
    assert row["user_id"] == "ada"
    assert row["start_time"].isoformat().startswith("2026-11-01T10:00:00")


def test_googles_result_files_are_read(
    canned: Canned, ledger: Recorded, another_process: Callable[[], None], tmp_path: Path, serves: Any
):
    serves(canned.url, "gcp.gemini")
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
    answer = {"key": "k1", "response": {"responseId": "g1", "modelVersion": "gemini-3.5-flash", "usageMetadata": usage}}
    canned.answers |= {
        ":batchGenerateContent": {"name": "batches/b1", "metadata": {"createTime": "2026-11-01T10:00:00Z"}},
        "/batches/b1": {"name": "batches/b1", "done": True, "metadata": {"createTime": "2026-11-01T10:00:00Z",
                        "output": {"responsesFile": "files/out"}}},
        "files/out:download": json.dumps(answer).encode() + b"\n",
    }  # fmt: skip
    client = genai.Client(api_key="k", http_options={"base_url": canned.url})
    with spanledger.attribution(user="ada", feature="nightly"):
        client.batches.create(model="gemini-3.5-flash", src="files/in")
    client.batches.get(name="batches/b1")
    client.files.download(file="files/out")
    client.close()
    row = ledger.row
    assert (row["user_id"], row["feature"], row["job_id"]) == ("ada", "nightly", "batches/b1")
    assert (row["is_batch"], row["input_uncached_tokens"], row["output_text_tokens"]) == (True, 10, 5)


# --- ids that are given twice ------------------------------------------------------------------------------------------


@pytest.fixture
def second_server() -> Iterator[Canned]:
    server = Canned()
    yield server
    server.close()


def test_equal_ids_of_two_servers_are_two_jobs(
    canned: Canned, second_server: Canned, ledger: Recorded, another_process: Callable[[], None], embedded: Any
):
    """Servers of one's own may count their batches, files and lines from one, each of them."""
    clients = []
    for server, user in ((canned, "ada"), (second_server, "bob")):
        server.answers |= {"/batches": BATCH, "/batches/batch_1": DONE, "/files/file-out/content": results(3)}
        client = openai.OpenAI(api_key="k", base_url=f"{server.url}/v1")
        clients.append(client)
        with spanledger.attribution(user=user):
            client.batches.create(input_file_id="f", endpoint="/v1/chat/completions", completion_window="24h")
    for fetched_elsewhere in (False, True):
        if fetched_elsewhere:
            another_process()
        for client in clients:
            fetch_openai(client)
    for client in clients:
        client.close()
    rows = stored(embedded, ledger)
    assert len(rows) == 6
    assert {(row["user_id"], row["response_id"]) for row in rows} == {
        (user, f"chatcmpl-{number}") for user in ("ada", "bob") for number in range(3)
    }


def test_a_job_that_two_have_begun_has_no_owner(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, another_process: Callable[[], None], embedded: Any
):
    canned.answers |= {"/batches": BATCH, "/batches/batch_1": DONE, "/files/file-out/content": results(3)}
    for user in ("ada", "bob"):
        with spanledger.attribution(user=user, tenant="acme"):
            client.batches.create(input_file_id="f", endpoint="/v1/chat/completions", completion_window="24h")
    fetch_openai(client)
    assert {row["user_id"] for row in ledger.rows} == {None}
    for tenant in ("acme", "globex"):
        another_process()
        with spanledger.attribution(tenant=tenant):
            fetch_openai(client)
    rows = stored(embedded, ledger)
    assert {(row["tenant_id"], row["user_id"]) for row in rows} == {("acme", None)}


@pytest.mark.parametrize("in_two_processes", [False, True])
def test_a_job_that_two_tenants_have_begun_is_that_of_who_asks(
    in_two_processes: bool,
    canned: Canned,
    client: openai.OpenAI,
    ledger: Recorded,
    another_process: Callable[[], None],
    embedded: Any,
):
    canned.answers |= {"/batches": BATCH, "/batches/batch_1": DONE, "/files/file-out/content": results(3)}
    for tenant in ("acme", "globex"):
        if in_two_processes:
            another_process()
        with spanledger.attribution(user=f"user of {tenant}", tenant=tenant):
            client.batches.create(input_file_id="f", endpoint="/v1/chat/completions", completion_window="24h")
    for tenant in ("acme", "globex", "initech"):
        another_process()
        with spanledger.attribution(user="cron", tenant=tenant):
            client.batches.retrieve("batch_1")
            client.files.content("file-out").read()
    rows = stored(embedded, ledger)
    assert {(row["tenant_id"], row["user_id"]) for row in rows} == {
        ("acme", "user of acme"),
        ("globex", "user of globex"),
        ("initech", "cron"),
    }


def test_lines_that_are_numbered_anew_in_each_file_are_rows_of_their_own(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, another_process: Any, embedded: Any
):
    for name in ("file-a", "file-b"):
        canned.answers[f"/files/{name}/content"] = results(3)
        client.files.content(name).read()
        client.files.content(name).read()
    assert len(stored(embedded, ledger)) == 6


def test_one_server_under_two_names_is_one(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, another_process: Callable[[], None], embedded: Any
):
    canned.answers |= {"/batches": BATCH, "/batches/batch_1": DONE, "/files/file-out/content": results(3)}
    begin_openai(client)
    fetch_openai(client)
    another_process()
    with client.with_options(base_url=f"{canned.url.replace('127.0.0.1', 'localhost')}/v1") as other:
        fetch_openai(other)
    rows = stored(embedded, ledger)
    assert [(row["user_id"], row["tenant_id"]) for row in rows] == [("ada", "acme")] * 3


def test_a_child_that_is_forked_during_a_download_leaves_it_to_its_parent(
    canned: Canned, client: openai.OpenAI, ledger: Recorded, another_process: Any, monkeypatch: pytest.MonkeyPatch
):
    for name in ("MEMORY_BYTES", "HANDED_BYTES"):
        monkeypatch.setattr(result_files, name, 100_000)
    canned.answers["/files/file-r/content"] = results(2000)
    with client.files.with_streaming_response.content("file-r") as response:
        for number, _ in enumerate(response.iter_bytes(8192)):
            if number == 60:
                child = os.fork()
                if child == 0:
                    with contextlib.suppress(BaseException):
                        response.close()
                    os._exit(0)
                os.waitpid(child, 0)
    assert result_files.wait(20)
    assert len({row["response_id"] for row in ledger.rows}) == 2000


@pytest.mark.parametrize("head", [b"\n", b"\r\n \n", b"not json\n", b"[1]\n\n", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_lines_that_say_nothing_come_before_results(
    head: bytes, size: int, canned: Canned, client: openai.OpenAI, ledger: Recorded, another_process: Any
):
    canned.answers["/files/file-r/content"] = head + results(3)
    with client.files.with_streaming_response.content("file-r") as response:
        assert b"".join(response.iter_bytes(size)) == head + results(3)
    assert finalizers.wait(10)
    assert len(ledger.rows) == 3


WORKER = """
import multiprocessing, sys

def download(url):
    import openai
    with openai.OpenAI(api_key="k", base_url=url) as client:
        client.files.content("file-r").read()

if __name__ == "__main__":
    worker = multiprocessing.get_context(sys.argv[2]).Process(target=download, args=(sys.argv[1],))
    worker.start()
    worker.join()
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_worker_of_multiprocessing_waits_for_what_it_has_downloaded(
    method: str, canned: Canned, tmp_path: Path, embedded: Any
):
    canned.answers["/files/file-r/content"] = results(5000)
    program = tmp_path / "program.py"
    program.write_text(WORKER)
    env = {**os.environ, "SPANLEDGER_SPOOL_DIR": str(tmp_path / "spool"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [Path(sys.executable).with_name("opentelemetry-instrument"), sys.executable, program]
    subprocess.run([*command, f"{canned.url}/v1", method], env=env, check=True, timeout=120, capture_output=True)
    spooled = [line for file in (tmp_path / "spool").glob("*.jsonl") for line in file.read_bytes().splitlines()]
    assert sum(len(contents(line).rows) for line in spooled) == 5000


def test_who_began_a_job_is_written_down_whatever_the_sampler():
    result = RecordCallsSampler(ALWAYS_OFF).should_sample(None, 1, "spanledger.job", attributes={a.MARKER: "job"})
    assert result.decision is Decision.RECORD_ONLY
