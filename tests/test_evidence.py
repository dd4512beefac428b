"""`exact` means that everything which can cost money was understood: real SDKs, answers of many servers, and what their rows say.

Each case is an answer in the shape of a provider's, with the right figures and their arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import types
from google.oauth2.credentials import Credentials

from asked_servers import (
    CITED,
    MESSAGES,
    OPENAI,
    OPENROUTER,
    PLAIN,
    Answer,
    ask,
    chat,
    cost,
    generate,
    respond,
    response,
)
from conftest import Recorded
from spanledger.capture.dedup import Sessions

# --- dialects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "model", "usage", "meters"),
    [
        # total = prompt + read + written + completion: the prompt leaves the cache out, and nothing is reasoning
        (OPENROUTER, "anthropic/claude-sonnet-4.5",
         {"prompt_tokens": 3, "completion_tokens": 442, "total_tokens": 8712,
          "prompt_tokens_details": {"cached_tokens": 7917, "cache_write_tokens": 350}},
         {"input_uncached_tokens": 3, "cache_read_tokens": 7917, "cache_write_tokens": 350, "output_text_tokens": 442}),
        # what no part explains is not reasoning
        (OPENAI, "gpt-4.1", {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115},
         {"input_uncached_tokens": 10, "output_text_tokens": 5, "reasoning_tokens": 0}),
        # but where the reasoning is stated, and explains the total, it was left out of the completion
        (OPENAI, "some-model",
         {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115, "completion_tokens_details": {"reasoning_tokens": 100}},
         {"output_text_tokens": 105, "reasoning_tokens": 100}),
        ("https://api.x.ai/v1", "grok-4", {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115},
         {"output_text_tokens": 105, "reasoning_tokens": 100}),
        ("http://litellm:4000/v1", "gemini-3.5-flash", {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115},
         {"output_text_tokens": 105, "reasoning_tokens": 100}),
        ("https://api.deepseek.com", "deepseek-chat",
         {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
         {"cache_read_tokens": 64, "input_uncached_tokens": 36}),
        ("https://api.mistral.ai/v1", "mistral-large-latest",
         {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "num_cached_tokens": 64},
         {"cache_read_tokens": 64}),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", "qwen3-coder-plus",
         {"prompt_tokens": 10_000, "completion_tokens": 100, "total_tokens": 10_100,
          "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 7000, "cache_type": "ephemeral"}},
         {"cache_write_tokens": 7000, "input_uncached_tokens": 3000}),
        ("https://dbc-1.cloud.databricks.com/serving-endpoints", "databricks-claude-sonnet-4-5",
         {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 20},
         {"cache_read_tokens": 60, "cache_write_tokens": 20, "input_uncached_tokens": 20}),
        ("http://proxy.internal:4000/v1", "claude-sonnet-4-6",
         {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "prompt_tokens_details": {"cache_creation_tokens": 30}},
         {"cache_write_tokens": 30, "input_uncached_tokens": 70}),
    ],
)  # fmt: skip
def test_usage_is_read_in_its_providers_dialect(
    url: str, model: str, usage: dict[str, Any], meters: dict[str, int], ledger: Recorded
):
    ask(url, Answer(chat(model, usage)), model)
    assert {name: ledger.row[name] for name in meters} == meters


def test_usage_that_stands_in_the_last_choice_is_read(ledger: Recorded):
    usage = {"prompt_tokens": 1336, "completion_tokens": 31, "total_tokens": 1367, "cached_tokens": 1280}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "kimi-k2.5"}
    events = [
        {**chunk, "choices": [{"index": 0, "finish_reason": None, "delta": {"content": "a"}}]},
        {**chunk, "choices": [{"index": 0, "finish_reason": "stop", "delta": {}, "usage": usage}]},
    ]
    ask("https://api.moonshot.ai/v1", Answer(events=events), "kimi-k2.5", stream=True)
    row = ledger.row
    assert (row["usage_source"], row["cache_read_tokens"], row["input_uncached_tokens"]) == ("exact", 1280, 56)


# --- the gate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "more", "flags"),
    [
        (PLAIN, {}, ["exact"]),
        ({**PLAIN, "holograms": 3}, {}, ["estimated", "usage_unread"]),
        ({**PLAIN, "completion_tokens_details": {"dream_tokens": 7}}, {}, ["estimated", "usage_unread"]),
        ({**PLAIN, "queue_time": 0.2, "holograms": 0}, {}, ["exact"]),
        ({**PLAIN, "total_tokens": 130}, {}, ["estimated", "totals_disagree"]),
        (PLAIN, {"service_tier": "hyper"}, ["estimated", "tier_unknown"]),
        (PLAIN, {"service_tier": "default"}, ["exact"]),
        ({**PLAIN, "prompt_tokens_details": {"cache_write_tokens": 20}}, {}, ["estimated", "rate_missing"]),
    ],
)  # fmt: skip
def test_a_price_is_exact_only_if_all_was_understood(
    usage: dict[str, Any], more: dict[str, Any], flags: list[str], ledger: Recorded
):
    ask(OPENAI, Answer(chat("gpt-4.1-mini", usage, **more)), "gpt-4.1-mini")
    assert ledger.row["price_flags"] == flags


@pytest.mark.parametrize(("cached", "flags"), [(64, ["estimated", "cache_unknown"]), (0, ["exact"])])
def test_a_cache_of_unknown_kind_makes_an_estimate(cached: int, flags: list[str], ledger: Recorded):
    usage = {**PLAIN, "prompt_tokens_details": {"cached_tokens": cached}}
    ask("https://dashscope.aliyuncs.com/compatible-mode/v1", Answer(chat("qwen3.8-max", usage)), "qwen3.8-max")
    assert ledger.row["price_flags"] == flags


def test_what_is_not_read_is_named(ledger: Recorded):
    ask(OPENAI, Answer(chat("gpt-4.1-mini", {**PLAIN, "a": 1, "prompt_tokens_details": {"b": 2}})), "gpt-4.1-mini")
    assert ledger.row["attributes"]["spanledger.usage.unread"] == "a,prompt_tokens_details.b"


def test_an_estimate_has_bounds_where_they_are_known(ledger: Recorded):
    ask(OPENAI, Answer(chat("gpt-4.1", {**PLAIN, "total_tokens": 1110})), "gpt-4.1")
    row = ledger.row
    # 2 and 8 USD a million: 100 x 2 + 10 x 8, and 1,000 tokens more that may be output
    assert [float(row[name]) for name in ("cost_usd", "low_cost_usd", "high_cost_usd")] == [0.00028, 0.00028, 0.00828]


def test_more_from_the_cache_than_the_prompt_has_is_beside_it(ledger: Recorded):
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 435,
        "total_tokens": 1435,
        "prompt_tokens_details": {"cached_tokens": 7452},
    }
    ask(OPENAI, Answer(chat("gpt-4.1", usage)), "gpt-4.1")
    assert (cost(ledger), ledger.row["price_flags"]) == (0.009206, ["estimated", "totals_disagree"])


def test_an_answer_with_content_and_no_counts_has_no_usage(ledger: Recorded):
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    ask(OPENAI, Answer(chat("gpt-4.1", usage)), "gpt-4.1")
    assert (ledger.row["price_status"], ledger.row["usage_source"]) == ("unpriced:no_usage", "missing")


def test_an_image_models_output_is_images_where_it_does_not_say(ledger: Recorded):
    content = {"content": {"parts": [{"text": "x"}], "role": "model"}, "finishReason": "STOP"}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 1290, "totalTokenCount": 1300}
    generate(
        {"modelVersion": "gemini-2.5-flash-image", "candidates": [content], "usageMetadata": usage},
        "gemini-2.5-flash-image",
    )
    row = ledger.row
    assert row["price_flags"] == ["estimated", "modality_unknown"]
    # 10 x 0.3 and 1,290 x 30 USD a million; as text it would be 2.5
    assert [float(row[name]) for name in ("cost_usd", "low_cost_usd", "high_cost_usd")] == [
        0.038703,
        0.003228,
        0.038703,
    ]


@pytest.mark.parametrize(("tier", "status"), [("scale", "prepaid"), ("priority", "priced")])
def test_capacity_that_is_paid_by_time_costs_nothing_by_the_call(tier: str, status: str, ledger: Recorded):
    ask(OPENAI, Answer(chat("gpt-4.1", PLAIN, service_tier=tier)), "gpt-4.1")
    row = ledger.row
    assert row["price_status"] == status
    if status == "prepaid":
        assert (float(row["cost_usd"]), float(row["computed_cost_usd"])) == (0, 0.00028)


def test_what_a_customer_pays_is_not_our_cost(ledger: Recorded):
    body = {
        "id": "m", "type": "message", "role": "assistant", "model": "claude-opus-5-5", "content": [], "stop_reason": "end_turn",
        "usage": {"input_tokens": 1000, "output_tokens": 100},
    }  # fmt: skip
    client = anthropic.Anthropic(api_key="x", http_client=httpx2.Client(transport=Answer(body).transport()))
    policy: Any = {"type": "billing_policy", "bill_to": "user_profile"}
    client.beta.messages.create(model="claude-opus-5-5", max_tokens=5, messages=MESSAGES, billing_policy=policy)
    row = ledger.row
    assert (row["price_status"], float(row["cost_usd"]), float(row["computed_cost_usd"])) == (
        "billed_elsewhere",
        0,
        0.006,
    )


def test_a_connection_that_was_refused_is_not_billed(ledger: Recorded):
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    client = openai.OpenAI(
        api_key="x", http_client=httpx2.Client(transport=httpx2.MockTransport(refuse)), max_retries=1
    )
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="gpt-4.1", messages=MESSAGES)
    assert (ledger.row["price_status"], ledger.row["attempt_billed"]) == ("not_billed", ["no", "no"])


# --- the provider's own statement -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "model", "more", "right"),
    [
        (OPENROUTER, "openai/gpt-5-nano",
         {"cost": 0.0018, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.0360795}}, 0.0378795),
        (OPENROUTER, "meta-llama/llama-3.3-70b-instruct:free", {"cost": 0, "is_byok": False}, 0),
        ("https://api.perplexity.ai", "sonar",
         {"search_context_size": "low", "cost": {"input_tokens_cost": 1.4e-05, "request_cost": 0.005, "total_cost": 0.005114}}, 0.005114),
        ("https://api.x.ai/v1", "grok-4", {"cost_in_usd_ticks": 37_756_000}, 0.0037756),
    ],
)  # fmt: skip
def test_the_providers_own_figure_is_the_price(
    url: str, model: str, more: dict[str, Any], right: float, ledger: Recorded
):
    ask(url, Answer(chat(model, {**PLAIN, **more})), model)
    assert (ledger.row["price_status"], cost(ledger)) == ("provider_reported", right)


def test_a_gateways_own_figure_is_the_price_behind_a_host_of_ones_own(ledger: Recorded):
    stated = {"x-litellm-response-cost": "0.0123"}
    ask("http://litellm:4000/v1", Answer(chat("claude-sonnet-4-6", PLAIN), headers=stated), "claude-sonnet-4-6")
    ask(OPENAI, Answer(chat("gpt-4.1", PLAIN), headers=stated), "gpt-4.1")
    assert [(row["price_status"], float(row["cost_usd"])) for row in ledger.rows] == [
        ("provider_reported", 0.0123), ("priced", 0.00028),
    ]  # fmt: skip


def test_openrouters_messages_state_their_cost(ledger: Recorded):
    body = {
        "id": "m", "type": "message", "role": "assistant", "model": "anthropic/claude-opus-5.5", "content": [], "stop_reason": "end_turn",
        "usage": {"input_tokens": 1000, "output_tokens": 100, "cost": 0.0071},
    }  # fmt: skip
    client = anthropic.Anthropic(
        api_key="x", base_url="https://openrouter.ai/api", http_client=httpx2.Client(transport=Answer(body).transport())
    )
    client.messages.create(model="anthropic/claude-opus-5.5", max_tokens=5, messages=MESSAGES)
    assert (ledger.row["price_status"], cost(ledger)) == ("provider_reported", 0.0071)


# --- fees -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "right", "flags"),
    [(CITED, 0.025075, ["exact"]), ({}, 0.000075, ["estimated", "fee_unknown"])],
)
def test_a_search_model_shows_by_its_citations_that_it_searched(
    message: dict[str, Any], right: float, flags: list[str], ledger: Recorded
):
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    ask(OPENAI, Answer(chat("gpt-4o-search-preview-2025-03-11", usage, message)), "gpt-4o-search-preview")
    assert (cost(ledger), ledger.row["price_flags"]) == (right, flags)


def test_only_searches_that_succeeded_are_billed(ledger: Recorded):
    def search(kind: str, status: str = "completed") -> dict[str, Any]:
        return {"type": "web_search_call", "id": f"ws_{kind}_{status}", "status": status, "action": {"type": kind}}

    respond(response([search("search"), search("open_page"), search("find_in_page"), search("search", "failed")]))
    assert (ledger.row["web_searches"], cost(ledger)) == (1, 0.018)


def test_an_image_that_a_tool_has_made_is_a_row_even_without_its_tokens(ledger: Recorded):
    image = {
        "type": "image_generation_call",
        "id": "ig",
        "status": "completed",
        "result": "AA==",
        "quality": "high",
        "size": "1024x1024",
    }
    respond(response([image], tools=[{"type": "image_generation", "model": "gpt-image-1"}]))
    assert cost(ledger) == pytest.approx(0.175)  # 0.008 and 0.167
    assert [row["price_flags"] for row in ledger.rows] == [["exact"], ["estimated", "tokens_missing"]]


def test_a_container_is_billed_once_a_session_and_by_its_memory(ledger: Recorded, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("spanledger.capture.call.container_sessions", Sessions())
    call = {"type": "code_interpreter_call", "id": "ci", "status": "completed", "container_id": "cntr_1"}
    shell = {
        "type": "shell_call",
        "id": "s",
        "status": "completed",
        "environment": {"type": "container_reference", "container_id": "cntr_2"},
    }
    memory = {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}}
    for number, output in enumerate(([call], [call], [shell])):
        respond({**response(output, tools=[memory] if number == 0 else []), "id": f"r-{number}"})
    assert [row["code_sessions"] for row in ledger.rows] == [1, 0, 1]
    assert [float(row["tools_cost_usd"]) for row in ledger.rows] == [0.12, 0, 0.03]


def test_a_session_begins_again_after_its_time(monkeypatch: pytest.MonkeyPatch):
    sessions, clock = Sessions(), iter([0.0, 1100.0, 1300.0])
    monkeypatch.setattr("spanledger.capture.dedup.time.monotonic", lambda: next(clock))
    assert [sessions.begins("a", 1200) for _ in range(3)] == [True, False, True]


GROUNDED = {"content": {"parts": [{"text": "x"}], "role": "model"}, "finishReason": "STOP"}
MAPS = {"maps": {"uri": "https://maps.google.com/?cid=1", "title": "Cafe", "placeId": "places/1"}}
WEB = {"web": {"uri": "https://example.com"}}


@pytest.mark.parametrize(
    ("model", "metadata", "meters"),
    [
        ("gemini-2.5-flash", {"groundingChunks": [MAPS], "googleMapsWidgetContextToken": "t"}, (0, 1, 0.025055)),
        ("gemini-2.5-flash", {"webSearchQueries": ["coffee"], "groundingChunks": [MAPS]}, (0, 1, 0.025055)),
        ("gemini-2.5-flash", {"webSearchQueries": ["a", "b"], "groundingChunks": [WEB]}, (2, 0, 0.035055)),
        ("gemini-2.5-flash", {"webSearchQueries": ["a"], "groundingChunks": [WEB, MAPS]}, (1, 1, 0.060055)),
        (
            "gemini-3-flash-preview",
            {"webSearchQueries": ["a", "a", "", "b"], "groundingChunks": [WEB]},
            (2, 0, 0.02808),
        ),
    ],
)
def test_grounding_is_counted_as_google_bills_it(
    model: str, metadata: dict[str, Any], meters: tuple[int, int, float], ledger: Recorded
):
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 10, "totalTokenCount": 110}
    candidates = [{**GROUNDED, "groundingMetadata": metadata}]
    generate({"responseId": "g", "modelVersion": model, "candidates": candidates, "usageMetadata": usage}, model)
    assert (ledger.row["web_searches"], ledger.row["maps_queries"], cost(ledger)) == meters


@pytest.mark.filterwarnings("ignore:The generate_images method")
def test_images_that_a_filter_has_withheld_are_not_billed(ledger: Recorded):
    body = {"predictions": [{"raiFilteredReason": "filtered"}, {"bytesBase64Encoded": "AA==", "mimeType": "image/png"}]}
    client = genai.Client(
        vertexai=True, project="p", location="us-central1", credentials=Credentials("t"),  # pyright: ignore[reportCallIssue]
        http_options={"client_args": {"transport": Answer(body).transport()}},  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    config = types.GenerateImagesConfig(number_of_images=2, include_rai_reason=True)
    client.models.generate_images(model="imagen-4.0-generate-001", prompt="x", config=config)
    assert (ledger.row["images"], cost(ledger)) == (1, 0.04)


def test_azures_router_has_a_fee_of_its_own(ledger: Recorded):
    usage = {"prompt_tokens": 100_000, "completion_tokens": 1000, "total_tokens": 101_000}
    transport = Answer(chat("gpt-5-nano-2025-08-07", usage)).transport()
    client = openai.AzureOpenAI(
        azure_endpoint="https://acme.openai.azure.com", api_key="x", api_version="2024-10-21", http_client=httpx2.Client(transport=transport)
    )  # fmt: skip
    client.chat.completions.create(model="model-router", messages=MESSAGES)
    assert cost(ledger) == 0.0194  # 0.0054 of the model, 0.14 USD a million of input


def test_groq_bills_ten_seconds_at_least(ledger: Recorded):
    body = {"task": "transcribe", "language": "en", "duration": 5.2, "text": "x", "segments": []}
    client = openai.OpenAI(
        api_key="x",
        base_url="https://api.groq.com/openai/v1",
        http_client=httpx2.Client(transport=Answer(body).transport()),
    )
    client.audio.transcriptions.create(model="whisper-large-v3", file=("a.mp3", b"x"), response_format="verbose_json")
    assert (ledger.row["audio_input_ms"], cost(ledger)) == (5200, 0.0003083)


def test_speech_is_output_of_audio(ledger: Recorded):
    events = [
        {"type": "speech.audio.delta", "audio": "AA=="},
        {"type": "speech.audio.done", "usage": {"input_tokens": 14, "output_tokens": 1010, "total_tokens": 1024}},
    ]
    client = openai.OpenAI(api_key="x", http_client=httpx2.Client(transport=Answer(events=events).transport()))
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input="hello", stream_format="sse"
    ) as reply:
        list(reply.iter_bytes())
    assert (ledger.row["output_audio_tokens"], cost(ledger)) == (1010, pytest.approx(0.0121284))


# --- who answered ---------------------------------------------------------------------------------------------------

CLAUDE = {
    "id": "m", "type": "message", "role": "assistant", "model": "claude-opus-5-5", "content": [], "stop_reason": "end_turn",
    "usage": {"input_tokens": 1_000_000, "output_tokens": 100_000},
}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "model", "provider", "right"),
    [
        (lambda h: anthropic.Anthropic(api_key="x", http_client=h), "claude-opus-5-5", "anthropic", 6.0),
        (lambda h: anthropic.AnthropicAWS(api_key="x", aws_region="us-east-1", workspace_id="w", http_client=h), "claude-opus-5-5", "anthropic", 6.0),
        (lambda h: anthropic.AnthropicBedrockMantle(api_key="x", aws_region="us-east-1", http_client=h), "anthropic.claude-opus-5-5", "aws.bedrock", 6.6),
        (lambda h: anthropic.AnthropicBedrock(api_key="x", aws_region="eu-west-1", http_client=h), "eu.anthropic.claude-opus-5-5", "aws.bedrock", 6.6),
        (lambda h: anthropic.AnthropicBedrock(api_key="x", aws_region="eu-west-1", http_client=h), "anthropic.claude-opus-5-5", "aws.bedrock", 6.6),
        (lambda h: anthropic.AnthropicBedrock(api_key="x", aws_region="eu-west-1", http_client=h), "global.anthropic.claude-opus-5-5", "aws.bedrock", 6.0),
        (lambda h: anthropic.AnthropicVertex(region="global", project_id="p", access_token="t", http_client=h), "claude-opus-5-5", "gcp.vertex_ai", 6.0),
        (lambda h: anthropic.AnthropicVertex(region="eu", project_id="p", access_token="t", http_client=h), "claude-opus-5-5", "gcp.vertex_ai", 6.6),
        (lambda h: anthropic.AnthropicVertex(region="us-east5", project_id="p", access_token="t", http_client=h), "claude-opus-5-5", "gcp.vertex_ai", 6.6),
        (lambda h: anthropic.AnthropicVertex(region="eu", project_id="p", access_token="t", base_url="https://llm.example.com/v1", http_client=h), "claude-opus-5-5", "gcp.vertex_ai", 6.0),
        (lambda h: anthropic.AnthropicFoundry(resource="acme", api_key="x", http_client=h), "claude-opus-5-5", "azure.ai.inference", None),
    ],
)  # fmt: skip
def test_the_provider_is_known_by_host_and_client(
    make: Callable[[httpx2.Client], Any], model: str, provider: str, right: float | None, ledger: Recorded
):
    client = make(httpx2.Client(transport=Answer(CLAUDE).transport()))
    client.messages.create(model=model, max_tokens=5, messages=MESSAGES)
    assert ledger.row["provider"] == provider
    if right is not None:
        assert cost(ledger) == pytest.approx(right)


def test_gemini_behind_vertex_openai_endpoint_has_its_vendors_name_before_it(ledger: Recorded):
    usage = {"prompt_tokens": 100_000, "completion_tokens": 1000, "total_tokens": 101_000}
    url = "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1/endpoints/openapi"
    ask(url, Answer(chat("google/gemini-2.5-flash", usage)), "google/gemini-2.5-flash")
    assert cost(ledger) == 0.0325


@pytest.mark.parametrize("model", ["claude-sonnet-4-6", "gemini-3.5-flash", "gpt-5.5"])
def test_a_vendors_model_behind_a_private_proxy_is_never_free(model: str, ledger: Recorded):
    ask("http://litellm:4000/v1", Answer(chat(model, PLAIN)), model)
    row = ledger.row
    assert row["cost_usd"] is None or (float(row["cost_usd"]) > 0 and "proxy" in row["price_flags"])


# --- what the newest SDKs sell ----------------------------------------------------------------------------------------


def test_a_dream_is_billed_once_when_it_is_over(ledger: Recorded):
    usage = {"input_tokens": 1000, "output_tokens": 100, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    states = iter(["pending", "running", "completed", "completed"])

    def answer(_: httpx2.Request) -> httpx2.Response:
        state = next(states)
        body = {
            "id": "drm_1", "type": "dream", "status": state, "model": {"id": "claude-opus-5-5"}, "created_at": "2026-11-29T10:00:00Z",
            "inputs": [], "outputs": [], "usage": usage if state == "completed" else dict.fromkeys(usage, 0),
        }  # fmt: skip
        return httpx2.Response(200, json=body)

    client = anthropic.Anthropic(api_key="x", http_client=httpx2.Client(transport=httpx2.MockTransport(answer)))
    client.post("/v1/dreams", body={}, cast_to=object)
    for _ in range(3):
        client.get("/v1/dreams/drm_1", cast_to=object)
    assert (ledger.row["operation"], cost(ledger)) == ("invoke_agent", 0.006)


def test_what_graders_use_is_a_row_each(ledger: Recorded):
    by_model = {"gpt-4.1": PLAIN, "gpt-4.1-mini": PLAIN}
    body = {"reward": 1.0, "metadata": {}, "sub_rewards": {}, "model_grader_token_usage_per_model": by_model}
    client = openai.OpenAI(api_key="x", http_client=httpx2.Client(transport=Answer(body).transport()))
    client.post("/fine_tuning/alpha/graders/run", body={}, cast_to=object)
    assert sorted((row["response_model"], float(row["cost_usd"])) for row in ledger.rows) == [
        ("gpt-4.1", 0.00028), ("gpt-4.1-mini", 0.000056),
    ]  # fmt: skip


def test_a_credit_that_is_not_stated_makes_an_estimate(ledger: Recorded):
    usage = {"input_tokens": 1000, "output_tokens": 100, "fallback_credit": {"status": {"type": "redeemed"}}}
    body = {
        "id": "m", "type": "message", "role": "assistant", "model": "claude-opus-5-5", "content": [], "stop_reason": "end_turn", "usage": usage,
    }  # fmt: skip
    client = anthropic.Anthropic(api_key="x", http_client=httpx2.Client(transport=Answer(body).transport()))
    client.messages.create(model="claude-opus-5-5", max_tokens=5, messages=MESSAGES)
    assert ledger.row["price_flags"] == ["estimated", "credit_applied"]
