"""Azure OpenAI: which streams request their usage."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest

from conftest import Recorded


def azure_body(
    client: type[openai.OpenAI] = openai.AzureOpenAI, body: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """Body that an Azure server receives for a chat stream without `stream_options`."""
    sent: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        return httpx2.Response(200, content=b"data: [DONE]\n\n", headers={"content-type": "text/event-stream"})

    with client(api_key="k", http_client=httpx2.Client(transport=httpx2.MockTransport(answer)), **options) as sdk:
        list(
            sdk.chat.completions.create(
                model="gpt-4.1-mini",
                messages=[{"role": "user", "content": "how much is it?"}],
                stream=True,
                extra_body=body,
            )
        )
    return sent[0]


AZURE = {"azure_endpoint": "https://shop.openai.azure.com"}


USAGE = {"include_usage": True}


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("2023-05-15", None),
        ("2024-02-01", None),
        ("2024-06-01", None),
        ("2024-08-01-preview", None),
        ("2024-09-01-preview", USAGE),
        ("2024-10-21", USAGE),
        ("2025-04-01-preview", USAGE),
        ("of-tomorrow", None),
    ],
)
def test_azure_streams_request_usage_from_the_first_api_version_that_supports_it(
    version: str, options: Any, ledger: Recorded
):
    assert azure_body(**AZURE, api_version=version).get("stream_options") == options


def test_azure_streams_over_own_data_do_not_request_usage(ledger: Recorded):
    body = {"data_sources": [{"type": "azure_search", "parameters": {}}]}
    assert "stream_options" not in azure_body(**AZURE, api_version="2025-04-01-preview", body=body)


@pytest.mark.parametrize("query", [{}, {"api-version": "preview"}])
def test_streams_of_azures_v1_api_request_usage(query: dict[str, str], ledger: Recorded):
    base_url = "https://shop.openai.azure.com/openai/v1/"
    assert azure_body(openai.OpenAI, base_url=base_url, default_query=query)["stream_options"] == USAGE


def test_streams_of_foundrys_v1_api_request_usage_and_of_its_inference_api_do_not(ledger: Recorded):
    host = "https://shop.services.ai.azure.com"
    assert azure_body(openai.OpenAI, base_url=f"{host}/openai/v1/")["stream_options"] == USAGE
    assert "stream_options" not in azure_body(openai.OpenAI, base_url=f"{host}/models?api-version=2025-04-01")


def test_stream_options_of_an_extra_body_are_merged_with_the_request_for_usage(ledger: Recorded):
    body = {"stream_options": {"include_obfuscation": False}}
    sent = azure_body(**AZURE, api_version="2025-04-01-preview", body=body)
    assert sent["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_the_api_version_is_read_from_every_place_that_has_it(ledger: Recorded):
    base_url = "https://shop.openai.azure.com/openai/deployments/gpt?api-version=2024-02-01"
    assert "stream_options" not in azure_body(openai.OpenAI, base_url=base_url)
    base_url = "https://shop.openai.azure.com/openai/deployments/gpt"
    assert "stream_options" not in azure_body(
        openai.OpenAI, base_url=base_url, default_query={"api-version": "2024-02-01"}
    )
    assert "stream_options" not in azure_body(openai.OpenAI, base_url=base_url)
