"""Who serves each client class of the three SDKs, by its own default base URL; a class that is new fails here first."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.oauth2.credentials import Credentials

from spanledger.hooks.stainless import PROVIDER_OF_CLASS
from spanledger.semconv.provider_hosts import PROVIDER_BY_SUFFIX, PROVIDERS, provider_for_host

OPENAI: dict[str, tuple[Callable[[], Any], str]] = {
    "OpenAI": (lambda: openai.OpenAI(api_key="x"), "openai"),
    "AsyncOpenAI": (lambda: openai.AsyncOpenAI(api_key="x"), "openai"),
    "AzureOpenAI": (lambda: openai.AzureOpenAI(api_key="x", api_version="1", azure_endpoint="https://a.openai.azure.com"), "azure.ai.openai"),
    "AsyncAzureOpenAI": (lambda: openai.AsyncAzureOpenAI(api_key="x", api_version="1", azure_endpoint="https://a.openai.azure.com"), "azure.ai.openai"),
    "BedrockOpenAI": (lambda: openai.BedrockOpenAI(api_key="x", aws_region="us-east-1"), "aws.bedrock"),
    "AsyncBedrockOpenAI": (lambda: openai.AsyncBedrockOpenAI(api_key="x", aws_region="us-east-1"), "aws.bedrock"),
}  # fmt: skip
ANTHROPIC: dict[str, tuple[Callable[[], Any], str]] = {
    "Anthropic": (lambda: anthropic.Anthropic(api_key="x"), "anthropic"),
    "AsyncAnthropic": (lambda: anthropic.AsyncAnthropic(api_key="x"), "anthropic"),
    "AnthropicAWS": (lambda: anthropic.AnthropicAWS(api_key="x", aws_region="us-east-1", workspace_id="w"), "anthropic"),
    "AsyncAnthropicAWS": (lambda: anthropic.AsyncAnthropicAWS(api_key="x", aws_region="us-east-1", workspace_id="w"), "anthropic"),
    "AnthropicBedrock": (lambda: anthropic.AnthropicBedrock(api_key="x", aws_region="us-east-1"), "aws.bedrock"),
    "AsyncAnthropicBedrock": (lambda: anthropic.AsyncAnthropicBedrock(api_key="x", aws_region="us-east-1"), "aws.bedrock"),
    "AnthropicBedrockMantle": (lambda: anthropic.AnthropicBedrockMantle(api_key="x", aws_region="us-east-1"), "aws.bedrock"),
    "AsyncAnthropicBedrockMantle": (lambda: anthropic.AsyncAnthropicBedrockMantle(api_key="x", aws_region="us-east-1"), "aws.bedrock"),
    "AnthropicFoundry": (lambda: anthropic.AnthropicFoundry(api_key="x", resource="a"), "azure.ai.inference"),
    "AsyncAnthropicFoundry": (lambda: anthropic.AsyncAnthropicFoundry(api_key="x", resource="a"), "azure.ai.inference"),
    "AnthropicGoogleCloud": (lambda: anthropic.AnthropicGoogleCloud(project="p", location="global", workspace_id="w", token_provider=lambda: "t"), "anthropic"),
    "AsyncAnthropicGoogleCloud": (lambda: anthropic.AsyncAnthropicGoogleCloud(project="p", location="global", workspace_id="w", token_provider=lambda: "t"), "anthropic"),  # pyright: ignore[reportArgumentType]
    "AnthropicVertex": (lambda: anthropic.AnthropicVertex(region="eu", project_id="p", access_token="t"), "gcp.vertex_ai"),
    "AsyncAnthropicVertex": (lambda: anthropic.AsyncAnthropicVertex(region="us", project_id="p", access_token="t"), "gcp.vertex_ai"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("module", "bases", "table"),
    [
        (openai, (openai.OpenAI, openai.AsyncOpenAI), OPENAI),
        (anthropic, (anthropic.Anthropic, anthropic.AsyncAnthropic), ANTHROPIC),
    ],
)
def test_every_client_class_is_known(module: ModuleType, bases: tuple[type, ...], table: dict[str, Any]):
    common = {cls for base in bases for cls in base.__mro__ if cls.__module__.endswith("_base_client")}
    exported: list[tuple[str, Any]] = list(vars(module).items())
    clients = {
        name
        for name, cls in exported
        if inspect.isclass(cls)
        and common.intersection(cls.__mro__)
        and not name.startswith("_")
        and not name.endswith("Client")
    }
    assert clients == set(table)


@pytest.mark.parametrize("name", [*OPENAI, *ANTHROPIC])
def test_the_default_host_of_a_client_is_its_providers(name: str):
    make, provider = {**OPENAI, **ANTHROPIC}[name]
    host = httpx2.URL(str(make().base_url)).host
    assert provider_for_host(host) == provider
    assert PROVIDER_OF_CLASS.get(name.removeprefix("Async"), provider) == provider


@pytest.mark.parametrize("location", [None, "us-central1", "global", "us", "eu"])
def test_the_default_host_of_googles_client_is_its_providers(location: str | None):
    options: dict[str, Any] = {"api_key": "x"}
    if location is not None:
        options = {"vertexai": True, "project": "p", "location": location, "credentials": Credentials("t")}  # pyright: ignore[reportCallIssue]
    url = httpx2.URL(str(genai.Client(**options)._api_client._http_options.base_url))
    assert provider_for_host(url.host) == ("gcp.gemini" if location is None else "gcp.vertex_ai")


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("us-central1-aiplatform.mtls.googleapis.com", "gcp.vertex_ai"),
        ("aiplatform.mtls.googleapis.com", "gcp.vertex_ai"),
        ("generativelanguage.mtls.googleapis.com", "gcp.gemini"),
        ("bedrock-runtime.us-gov-west-1.amazonaws.com", "aws.bedrock"),
        ("vpce-1-2.bedrock-runtime.us-east-1.vpce.amazonaws.com", "aws.bedrock"),
        ("sagemaker-runtime.us-east-1.amazonaws.com", None),
        ("s3.us-east-1.amazonaws.com", None),
        ("my-aiplatform.googleapis.com.evil.example", None),
        ("dashscope-intl.aliyuncs.com", "dashscope"),
        ("oss.aliyuncs.com", None),
        ("ark.cn-beijing.volces.com", "volcengine"),
        ("tos-cn-beijing.volces.com", None),
        ("router.huggingface.co", "huggingface"),
        ("codestral.mistral.ai", "codestral"),
        ("adb-1.2.azuredatabricks.net", "databricks"),
        ("models.github.ai", "github"),
    ],
)
def test_who_serves_a_host(host: str, provider: str | None):
    assert provider_for_host(host) == provider


def test_compatible_hosts_are_many_and_can_be_configured():
    assert len(set(PROVIDER_BY_SUFFIX.values())) >= 45
    assert set(PROVIDER_BY_SUFFIX.values()) <= PROVIDERS
