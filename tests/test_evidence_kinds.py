"""More answers of more servers, whose price was wrong or silently zero before: the right one, or the reason for none."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime
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
from spanledger.pricing import price_table, quote
from spanledger.pricing.price_table import Corrections, Prices, Table
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


def test_grounding_in_images_has_a_fee_that_is_not_known(ledger: Recorded):
    candidate = {
        "content": {"parts": [{"text": "x"}]},
        "finishReason": "STOP",
        "groundingMetadata": {"imageSearchQueries": ["a"]},
    }
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
    generate({"modelVersion": "gemini-2.5-flash", "candidates": [candidate], "usageMetadata": usage})
    assert ledger.row["price_flags"] == ["estimated", "fee_unknown"]


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
