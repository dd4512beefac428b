"""More answers of more servers, whose price was wrong or silently zero before: the right one, or the reason for none."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.oauth2.credentials import Credentials

from asked_servers import CITED, MESSAGES, OPENAI, PLAIN, Answer, ask, chat, cost, generate, respond, response
from conftest import Recorded
from spanledger.capture.unsent import was_never_sent
from spanledger.pricing import price_table, quote
from spanledger.pricing.price_table import NO_OVERRIDES, Corrections, Prices, Table
from spanledger.providers import anthropic as anthropic_format
from spanledger.providers import bedrock as bedrock_format
from spanledger.providers import cohere as cohere_format
from spanledger.providers import google as google_format
from spanledger.providers import openai as openai_format
from spanledger.runtime import finalizers
from spanledger_clickhouse.prices import second_opinion


def test_a_batchs_lines_keep_their_doubts(ledger: Recorded):
    usages: list[dict[str, Any]] = [PLAIN, {**PLAIN, "new_tokens": 5}, dict.fromkeys(PLAIN, 0)]
    lines = [
        {
            "id": f"b-doubt-{number}",
            "custom_id": str(number),
            "response": {"status_code": 200, "body": chat("gpt-4.1", usage)},
        }
        for number, usage in enumerate(usages)
    ]
    text = "\n".join(json.dumps(line) for line in lines).encode()
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=text))
    client = openai.OpenAI(api_key="x", http_client=httpx2.Client(transport=transport))
    client.files.content("file-doubts").read()
    assert finalizers.wait(10)
    assert [row["price_flags"] for row in ledger.rows] == [["exact"], ["estimated", "usage_unread"]]


@pytest.mark.parametrize(
    ("message", "flags", "right"),
    [(CITED, ["exact"], 0.025), ({}, ["estimated", "fee_unknown"], 0.0)],
)
def test_every_search_model_has_its_fee(message: dict[str, Any], flags: list[str], right: float, ledger: Recorded):
    ask(OPENAI, Answer(chat("gpt-4o-mini-search-preview-2025-03-11", PLAIN, message)), "gpt-4o-mini-search-preview")
    assert (ledger.row["price_flags"], float(ledger.row["tools_cost_usd"])) == (flags, right)


@pytest.mark.parametrize("reason", ["stop", "function_call", "eos", None, "content_filter"])
def test_all_counts_zero_is_no_usage_unless_the_answer_was_refused(reason: str | None, ledger: Recorded):
    body = chat("gpt-4.1", dict.fromkeys(PLAIN, 0))
    body["choices"][0]["finish_reason"] = reason
    ask(OPENAI, Answer(body), "gpt-4.1")
    assert (ledger.row["cost_usd"] is None) == (reason != "content_filter")


def test_an_embedding_that_is_not_counted_has_no_price(ledger: Recorded):
    body = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }
    client = openai.OpenAI(api_key="x", http_client=httpx2.Client(transport=Answer(body).transport()))
    client.embeddings.create(model="text-embedding-3-small", input="x")
    assert ledger.row["price_status"] == "unpriced:no_usage"


@pytest.mark.parametrize(
    ("headers", "status"), [({"x-litellm-model-id": "1"}, "unpriced:needs_mapping"), ({}, "self_hosted")]
)
def test_a_litellm_proxy_serves_no_models_itself(
    headers: dict[str, str], status: str, ledger: Recorded, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.undo()
    ask("http://10.1.2.3:4000/v1", Answer(chat("smart", PLAIN), headers=headers), "smart")
    assert ledger.row["price_status"] == status


@pytest.mark.parametrize(
    "model", ["sonnet", "claude-haiku", "doubao-seed-1-6", "ernie-4.5-turbo", "hunyuan-turbos", "step-2-16k"]
)
def test_a_name_that_only_a_vendor_has_is_never_free(model: str):
    price = quote("openai", model, {"input": 10, "output": 1}, host="10.1.2.3")
    assert price.status == "unpriced:needs_mapping"


@pytest.mark.parametrize(
    ("url", "model", "more"),
    [
        ("https://api.perplexity.ai", "sonar", {"search_context_size": "low"}),
        ("https://api.perplexity.ai", "sonar-deep-research", {"num_search_queries": 18, "citation_tokens": 20_016}),
        ("https://api.x.ai/v1", "grok-4", {"num_sources_used": 5}),
    ],
)
def test_searches_without_a_stated_cost_are_in_doubt(url: str, model: str, more: dict[str, Any], ledger: Recorded):
    ask(url, Answer(chat(model, {**PLAIN, **more})), model)
    assert "fee_unknown" in ledger.row["price_flags"]
    assert "exact" not in ledger.row["price_flags"]


def test_a_search_of_a_model_without_a_fee_of_its_own_has_the_tools(ledger: Recorded):
    search = {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search"}}
    respond({**response([search]), "model": "gpt-5.4"})
    assert float(ledger.row["tools_cost_usd"]) == 0.01


@pytest.mark.filterwarnings("ignore:The generate_images method")
@pytest.mark.parametrize(
    ("predictions", "right"),
    [
        ([], 0),
        ([{"raiFilteredReason": "x"}], 0),
        ([{"gcsUri": "gs://x"}, {"contentType": "Positive Prompt", "safetyAttributes": {}}], 0.04),
    ],
)
def test_only_delivered_images_are_billed(predictions: list[Any], right: float, ledger: Recorded):
    client = genai.Client(
        vertexai=True, project="p", location="us-central1", credentials=Credentials("t"),  # pyright: ignore[reportCallIssue]
        http_options={"client_args": {"transport": Answer({"predictions": predictions}).transport()}},  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    client.models.generate_images(model="imagen-4.0-generate-001", prompt="x")
    assert cost(ledger) == right


def test_voxtral_bills_what_was_heard(ledger: Recorded):
    usage = {"prompt_audio_seconds": 203, "prompt_tokens": 4, "completion_tokens": 635, "total_tokens": 3264}
    body = {"model": "voxtral-mini-latest", "text": "x", "usage": usage}
    client = openai.OpenAI(
        api_key="x", base_url="https://api.mistral.ai/v1", http_client=httpx2.Client(transport=Answer(body).transport())
    )
    client.audio.transcriptions.create(model="voxtral-mini-latest", file=("a.mp3", b"x"))
    assert (ledger.row["audio_input_ms"], cost(ledger)) == (203_000, 0.01015)


def test_an_embedding_of_gemini_is_billed_by_tokens_at_vertex(ledger: Recorded):
    body = {
        "predictions": [{"embeddings": {"values": [0.1], "statistics": {"token_count": 7, "truncated": False}}}],
        "metadata": {"billableCharacterCount": 30},
    }
    client = genai.Client(
        vertexai=True, project="p", location="us-central1", credentials=Credentials("t"),  # pyright: ignore[reportCallIssue]
        http_options={"client_args": {"transport": Answer(body).transport()}},  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    client.models.embed_content(model="gemini-embedding-001", contents="x")
    assert cost(ledger) == pytest.approx(7 * 1.5e-7)


@pytest.mark.parametrize(
    ("url", "model", "usage", "flags"),
    [
        ("https://api.deepinfra.com/v1/openai", "meta-llama/Llama-3.3-70B-Instruct", {**PLAIN, "estimated_cost": 3.1e-05}, []),
        ("https://api.sambanova.ai/v1", "Meta-Llama-3.3-70B-Instruct",
         {**PLAIN, "time_to_first_token": 0.1, "completion_tokens_after_first_per_sec_first_ten": 300.2}, ["exact"]),
    ],
)  # fmt: skip
def test_everyday_usage_of_compatible_servers_is_understood(
    url: str, model: str, usage: dict[str, Any], flags: list[str], ledger: Recorded
):
    ask(url, Answer(chat(model, usage)), model)
    assert ledger.row["price_flags"] == flags


def test_githubs_names_have_their_vendor_before_them(ledger: Recorded):
    ask("https://models.github.ai/inference", Answer(chat("openai/gpt-4o", PLAIN)), "openai/gpt-4o")
    assert ledger.row["cost_usd"] is not None


def test_claude_on_vertex_is_a_row_without_an_sdk(ledger: Recorded):
    body = {"id": "m-vertex", "type": "message", "model": "claude-sonnet-4-5", "content": [], "stop_reason": "end_turn",
            "usage": {"input_tokens": 10, "output_tokens": 5}}  # fmt: skip
    url = "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/us-east5/publishers/anthropic/models/claude-sonnet-4-5@20250929:rawPredict"
    with httpx2.Client(transport=Answer(body).transport()) as client:
        client.post(url, json={"messages": MESSAGES, "max_tokens": 5})
    assert (ledger.row["provider"], ledger.row["request_model"]) == ("gcp.vertex_ai", "claude-sonnet-4-5@20250929")


def test_code_that_claude_runs_is_billed_by_the_hour(ledger: Recorded):
    body = {"id": "m", "type": "message", "role": "assistant", "model": "claude-opus-5-5", "content": [], "stop_reason": "end_turn",
            "container": {"id": "c", "expires_at": "2026-11-29T10:00:00Z"}, "usage": {"input_tokens": 10, "output_tokens": 5}}  # fmt: skip
    client = anthropic.Anthropic(api_key="x", http_client=httpx2.Client(transport=Answer(body).transport()))
    client.messages.create(model="claude-opus-5-5", max_tokens=5, messages=MESSAGES)
    assert ledger.row["price_flags"] == ["estimated", "fee_unknown"]


def test_grounding_in_images_is_a_search(ledger: Recorded):
    candidate = {
        "content": {"parts": [{"text": "x"}]},
        "finishReason": "STOP",
        "groundingMetadata": {"imageSearchQueries": ["a"]},
    }
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
    generate({"modelVersion": "gemini-3-pro-image-preview", "candidates": [candidate], "usageMetadata": usage})
    assert (ledger.row["web_searches"], float(ledger.row["tools_cost_usd"])) == (1, 0.014)


# --- the price book ---------------------------------------------------------------------------------------------------


def table(version: str, day: date | None, **models: dict[str, Any]) -> Table:
    return Table(
        "file", version, "", day, "", {key: {"litellm_provider": "openai", **entry} for key, entry in models.items()}
    )


def price_at(prices: Prices, day: date) -> float | None:
    moment = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    total = quote("openai", "gpt", {"input": 1_000_000}, at=moment, table=prices).total_picousd
    return None if total is None else total / 1e12


def test_a_newer_table_is_laid_over_the_history():
    past = table("1.1.0", date(2026, 3, 1), gpt={
        "input_cost_per_token": "2e-06", "_history": [{"_until": "2026-02-01", "input_cost_per_token": "4e-06"}],
    })  # fmt: skip
    newer = table("litellm 1.2.0", date(2026, 4, 1), gpt={"input_cost_per_token": "1e-06"})
    newer.past = past
    prices = Prices(newer, Table("retired", "", "", None, "", {}), price_table.NO_OVERRIDES)
    days = (date(2026, 1, 15), date(2026, 2, 15), date(2026, 3, 15), date(2026, 4, 15))
    assert [price_at(prices, day) for day in days] == [4.0, 2.0, 2.0, 1.0]


def test_a_file_without_a_day_counts_from_the_snapshots():
    file = table("mine.json", None, gpt={"input_cost_per_token": "1e-06"})
    file.past = table("1.1.0", date(2026, 3, 1), gpt={"input_cost_per_token": "2e-06"})
    prices = Prices(file, Table("retired", "", "", None, "", {}), price_table.NO_OVERRIDES)
    assert [price_at(prices, day) for day in (date(2026, 2, 15), date(2026, 3, 15))] == [2.0, 1.0]


def test_an_older_wheel_is_older_than_the_snapshot():
    older, snapshot = table("litellm 1.109.1", date(2027, 1, 1)), table("1.110.2", date(2026, 11, 20))
    assert snapshot.is_newer_than(older)
    assert not older.is_newer_than(snapshot)


def test_a_value_that_was_published_wrong_was_never_a_price():
    entry = {"input_cost_per_token": "1e-06", "_history": [{"_until": "2026-02-01", "input_cost_per_token": "1e-03"}]}
    live = table("1.1.0", date(2026, 3, 1), gpt=entry)
    live.corrections = Corrections({}, {"gpt": [("2026-02-01", frozenset({"input_cost_per_token"}))]})
    prices = Prices(live, Table("retired", "", "", None, "", {}), price_table.NO_OVERRIDES)
    assert price_at(prices, date(2026, 1, 15)) == 1.0


@pytest.mark.parametrize(("published", "right"), [("1e-05", 2.0), ("1.5e-05", 15.0)])
def test_a_correction_counts_while_the_table_has_the_wrong_value(published: str, right: float):
    live = table("1.1.0", None, gpt={"input_cost_per_token": published})
    live.corrections = Corrections(
        {"gpt": [({"input_cost_per_token": "1e-05"}, {"input_cost_per_token": "2e-06"})]}, {}
    )
    prices = Prices(live, Table("retired", "", "", None, "", {}), price_table.NO_OVERRIDES)
    assert price_at(prices, date(2026, 1, 15)) == right


def test_the_corrections_name_models_of_the_table_their_source_and_their_date():
    import tomllib

    folder = Path(price_table.__file__).parent / "data"
    document = tomllib.loads((folder / "corrections.toml").read_text())
    snapshot = price_table.bundled().models
    for each in (*document["price"], *document["published"]):
        assert each["source"]
        assert isinstance(each["date"], date)
        assert all(key in snapshot for key in each["keys"])


def test_a_field_that_a_release_adds_was_true_before():
    at = datetime(2026, 11, 1, tzinfo=UTC)
    price = quote("anthropic", "claude-opus-5-5", {"input": 1_000_000}, geo="us", at=at)
    assert (price.total_picousd, price.flags) == (4_400_000_000_000, ("exact", "former"))


# --- the second opinion -------------------------------------------------------------------------------------------------


def test_where_another_list_differs_is_named_and_what_is_not_known_is_left_out(monkeypatch: pytest.MonkeyPatch):
    def calc_price(usage: Any, model: str, **_: Any) -> Any:
        if model == "unknown-there":
            raise LookupError(model)
        rate = 3 if model == "dearer-there" else 2
        return SimpleNamespace(total_price=usage.input_tokens * rate / 1e6)

    models = [
        SimpleNamespace(id=name, deprecated=None) for name in ("same", "dearer-there", "unknown-there", "unknown-here")
    ]
    theirs: Any = SimpleNamespace(Usage=SimpleNamespace, calc_price=calc_price)
    data: Any = SimpleNamespace(providers=[SimpleNamespace(id="openai", models=models)])
    monkeypatch.setitem(sys.modules, "genai_prices", theirs)
    monkeypatch.setitem(sys.modules, "genai_prices.data", data)
    entry = {"input_cost_per_token": "2e-06", "output_cost_per_token": "0", "cache_read_input_token_cost": "2e-06"}
    live = table("1.1.0", None, **dict.fromkeys(("same", "dearer-there", "unknown-there"), entry))
    prices = Prices(live, Table("retired", "", "", None, "", {}), price_table.NO_OVERRIDES)
    assert [(d.model, d.field, d.ours, d.theirs) for d in second_opinion.differences(prices)] == [
        ("openai dearer-there", "input", 2.0, 3.0), ("openai dearer-there", "cached input", 2.0, 3.0),
    ]  # fmt: skip


# --- what a second look found -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "usage", "more", "right", "flags"),
    [
        (("openai", "gpt-4.1"), {"web_searches": 1}, {"quality": "web_search"}, 0.01, ("exact",)),
        (("openai", "gpt-4o"), {"web_searches": 1}, {"quality": "web_search_preview"}, 0.025, ("exact",)),
        (("openai", "gpt-5"), {"web_searches": 1}, {"quality": "web_search_preview_2025_03_11"}, 0.01, ("exact",)),
        (("gcp.vertex_ai", "claude-sonnet-4-5@20250929"), {"web_searches": 5}, {}, 0.05, ("exact",)),
        (("openai", "gpt-4.1"), {"input": 100, "web_searches": 50}, {"tier": "scale"}, 1.25, ()),
        (("mistral_ai", "mistral-large-latest"), {"file_searches": 3}, {}, 0, ("estimated", "fee_unknown")),
        (("openai", "whisper-1"), {"audio_input_ms": 60_000}, {"tier": "batch"}, 0.006, ("estimated", "batch_estimated")),
        (("openai", None), {"code_sessions": 1}, {"doubts": ("usage_unread",)}, 0.03, ("estimated", "usage_unread")),
        (("openai", "gpt-4.1"), {"input": 1000}, {"host": "gateway.in-no-list.example"}, 0.002, ("proxy",)),
        (("anthropic", None), {"session_ms": 3_600_000, "web_searches": 1}, {}, 0.09, ("exact",)),
    ],
)  # fmt: skip
def test_a_fee_is_that_of_the_vendor_who_charges_it(
    named: tuple[str, str | None], usage: dict[str, int], more: dict[str, Any], right: float, flags: tuple[str, ...]
):
    price = quote(*named, usage, **more)
    assert ((price.total_picousd or 0) / 1e12, price.flags) == (right, flags)


def test_a_container_of_a_private_server_has_no_price():
    assert quote("openai", None, {"code_sessions": 1}, host="10.1.2.3").status == "unpriced:needs_mapping"
    assert quote("mistral_ai", None, {"file_searches": 3}).total_picousd is None


def test_a_batch_above_a_threshold_of_which_only_the_lower_rate_is_known_is_an_estimate():
    model = "anthropic.claude-sonnet-4-5-20250929-v1:0"
    price = quote("aws.bedrock", model, {"input": 300_000, "output": 1_000}, tier="batch")
    assert {"estimated", "batch_estimated"} <= set(price.flags)


@pytest.mark.parametrize("stated", ["inf", "nan", "1e7", "-1", "x"])
def test_what_is_no_cost_leaves_the_price_of_the_table_with_all_that_is_known_of_the_call(stated: str):
    known = {"tier": "flex", "doubts": ("fee_unknown",), "host": "openrouter.ai"}
    usage = {"input": 1000}
    assert quote("openrouter", "openai/gpt-5", usage, provider_cost_usd=stated, **known) == quote(
        "openrouter", "openai/gpt-5", usage, **known
    )


def test_the_gateway_of_vercel_states_its_cost_as_text(ledger: Recorded):
    usage = {**PLAIN, "cost": "0.0021", "market_cost": "0.0021"}
    ask("https://ai-gateway.vercel.sh/v1", Answer(chat("openai/gpt-5", usage)), "openai/gpt-5")
    assert (ledger.row["price_status"], float(ledger.row["cost_usd"])) == ("provider_reported", 0.0021)


def test_every_model_of_a_batch_s_answer_is_a_row(ledger: Recorded):
    parts = [
        {"type": "message", "model": "claude-haiku-4-5", "input_tokens": 10, "output_tokens": 5},
        {"type": "advisor_message", "model": "claude-opus-5", "input_tokens": 90_000, "output_tokens": 5_000},
    ]
    message = {"id": "msg_b", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": [],
               "usage": {"input_tokens": 10, "output_tokens": 5, "iterations": parts}}  # fmt: skip
    line = json.dumps({"custom_id": "a", "result": {"type": "succeeded", "message": message}})
    batch = {
        "id": "msgbatch_2",
        "type": "message_batch",
        "results_url": "https://api.anthropic.com/v1/messages/batches/msgbatch_2/results",
    }
    transport = httpx2.MockTransport(
        lambda asked: (
            httpx2.Response(200, content=line.encode())
            if asked.url.path.endswith("results")
            else httpx2.Response(200, json=batch)
        )
    )
    batches = anthropic.Anthropic(api_key="x", http_client=httpx2.Client(transport=transport)).messages.batches
    list(batches.results("msgbatch_2"))
    assert finalizers.wait(10)
    rows = sorted((row["response_model"], row["output_text_tokens"], row["is_batch"]) for row in ledger.rows)
    assert rows == [("claude-haiku-4-5", 5, True), ("claude-opus-5", 5_000, True)]


def test_a_model_that_stood_in_is_counted_once_however_it_is_spelled():
    usage = {"input_tokens": 100, "output_tokens": 20, "iterations": [
        {"type": "message", "model": "claude-opus-5", "input_tokens": 7, "output_tokens": 0},
        {"type": "fallback_message", "model": "claude-opus-5-5", "input_tokens": 100, "output_tokens": 20},
    ]}  # fmt: skip
    answer = anthropic_format.response({"id": "m", "model": "claude-opus-5-5-20261001", "usage": usage})
    used = [(part.model, part.usage.total_input) for part in (answer, *answer.extras) if part.usage]
    assert used == [("claude-opus-5-5-20261001", 100), ("claude-opus-5", 7)]


@pytest.mark.parametrize(
    ("reader", "events", "flag"),
    [
        (anthropic_format, [
            {"type": "message_start", "message": {"id": "m", "model": "claude-opus-5", "usage": {"input_tokens": 1, "output_tokens": 1}}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "container": {"id": "c"}}, "usage": {"output_tokens": 1}},
        ], "fee_unknown"),
        (openai_format, [
            {"id": "c", "model": "groq/compound", "choices": [{"index": 0, "delta": {"executed_tools": [{"type": "search"}]}}]},
            {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": PLAIN},
        ], "fee_unknown"),
        (google_format, [
            {"event_type": "interaction.completed", "interaction": {"id": "i", "model": "gemini-2.5-flash-image", "usage": {
                "total_input_tokens": 10, "total_output_tokens": 1290, "total_tokens": 1300}}},
        ], "modality_unknown"),
        (google_format, [
            {"event_type": "interaction.completed", "interaction": {"id": "i", "model": "gemini-2.5-flash", "usage": {
                "total_input_tokens": 10, "total_output_tokens": 1, "grounding_tool_count": [{"type": "enterprise_search", "count": 4}]}}},
        ], "fee_unknown"),
    ],
)  # fmt: skip
def test_a_stream_leaves_open_what_the_whole_answer_does(reader: Any, events: list[dict[str, Any]], flag: str):
    body: dict[str, Any] = {}
    for event in events:
        body = reader.fold(body, event)
    assert reader.response(body).doubts == (flag,)


@pytest.mark.parametrize(
    ("reader", "body"),
    [
        (openai_format, {"choices": [], "usage": {**PLAIN, "prompt_tokens_details": {"cache_write_tokens_details": {"ttl_24h_tokens": 8}}}}),
        (openai_format, {"choices": [], "usage": {**PLAIN, "audio_duration": 3600}}),
        (openai_format, {"choices": [], "usage": {**PLAIN, "server_tool_use": {"web_search_requests": 7}}}),
        (anthropic_format, {"usage": {"input_tokens": 1, "output_tokens": 1, "iterations": [{"type": "message", "holograms": 9}]}}),
        (google_format, {"id": "i", "usage": {"total_input_tokens": 10, "total_output_tokens": 1, "holograms": 9}}),
        (cohere_format, {"usage": {"billed_units": {"input_tokens": 1, "output_tokens": 1, "holograms": 9}}}),
        (bedrock_format, {"metrics": {"inputTokenCount": 1, "outputTokenCount": 1, "holograms": 9}}),
    ],
)  # fmt: skip
def test_an_unread_number_is_named_in_every_format(reader: Any, body: dict[str, Any]):
    assert reader.response(body).unread


def test_a_call_in_an_except_block_does_not_inherit_that_another_was_never_sent():
    refused, slow = RuntimeError("the first call"), RuntimeError("the call that stands in for it")
    refused.__cause__ = httpx2.ConnectError("refused")
    slow.__cause__, slow.__context__ = httpx2.ReadTimeout("slow"), refused
    assert (was_never_sent(refused), was_never_sent(slow)) == (True, False)


def test_the_name_of_a_file_is_no_release():
    snapshot = table("litellm 1.110.2", date(2026, 11, 20))
    assert not table("prices.2026.json", None).is_newer_than(snapshot)
    assert table("litellm 1.111.0", None).is_newer_than(snapshot)


def test_a_price_of_ones_own_that_begins_on_a_later_day_does_not_count_yet():
    until = (datetime.now(UTC) + timedelta(days=3)).date().isoformat()
    entry = {"input_cost_per_token": "2e-06", "_history": [{"_until": until, "input_cost_per_token": "1e-06"}]}
    prices = Prices(table("x", None, gpt=entry), table("y", None), NO_OVERRIDES)
    assert quote("openai", "gpt", {"input": 1_000_000}, table=prices).total_picousd == 10**12


def test_a_model_with_two_entries_has_the_rates_of_both():
    price = quote("aws.bedrock", "moonshotai.kimi-k2.5", {"input": 1_000_000}, tier="priority")
    assert (price.total_picousd, price.flags) == (1_050_000_000_000, ("exact",))
