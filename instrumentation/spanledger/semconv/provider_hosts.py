"""Maps a host to its provider (OpenAI-compatible base URLs included), and detects proxies and private hosts."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final

from spanledger.runtime import settings

PROVIDER_BY_SUFFIX: Final[dict[str, str]] = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "cognitiveservices.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "models.ai.azure.com": "azure.ai.inference",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "api.x.ai": "x_ai",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.moonshot.ai": "moonshot_ai",
    "api.moonshot.cn": "moonshot_ai",
    "api.perplexity.ai": "perplexity",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "openrouter.ai": "openrouter",
    "api.together.ai": "together_ai",
    "api.together.xyz": "together_ai",
    "api.fireworks.ai": "fireworks_ai",
    "api.cerebras.ai": "cerebras",
    "api.deepinfra.com": "deepinfra",
    "api.studio.nebius.com": "nebius",
    "api.novita.ai": "novita",
    "dashscope.aliyuncs.com": "dashscope",
    "api.z.ai": "zai",
    "api.minimax.io": "minimax",
    "integrate.api.nvidia.com": "nvidia_nim",
    "api.sambanova.ai": "sambanova",
    "models.github.ai": "github",
}
"""Host suffix -> `gen_ai.provider.name` (the convention's names, LiteLLM's where it has none)."""


BEDROCK_HOST: Final = re.compile(
    r"(?:^|\.)bedrock-(?:runtime|agent-runtime|mantle)[\w-]*\.(?:[\w-]+\.)+(?:amazonaws\.com(?:\.cn)?|api\.aws)$"
)
"""Where Bedrock serves models, VPC endpoints included; not its own administration, nor S3 and the others there."""


@lru_cache(maxsize=1)
def configured_hosts() -> dict[str, str]:
    """SPANLEDGER_MODEL_HOSTS, e.g. "llm.example.com=openai,10.0.0.5:8080=anthropic": host, or host:port -> provider."""
    pairs = (part.partition("=") for part in (settings.setting("model_hosts") or "").split(","))
    return {host.strip().lower(): provider.strip() for host, _, provider in pairs if host.strip() and provider.strip()}


@lru_cache(maxsize=1024)
def provider_for_host(host: str, port: int | None = None) -> str | None:
    """The provider known to answer at `host`, e.g. "eu.api.openai.com" -> "openai"."""
    host = host.lower().rstrip(".")
    configured = configured_hosts()
    if configured and (name := configured.get(f"{host}:{port}") or configured.get(host)):
        return name
    if BEDROCK_HOST.search(host):
        return "aws.bedrock"
    while host:
        if host in PROVIDER_BY_SUFFIX:
            return PROVIDER_BY_SUFFIX[host]
        if host.endswith("-aiplatform.googleapis.com"):
            return "gcp.vertex_ai"
        _, _, host = host.partition(".")
    return None


PROXY_HOST: Final = re.compile(r"(?:[^.]*[-_])?(?:litellm|portkey|helicone|bifrost|\w*proxy|\w*gateway)\d*(?:[-_.]|$)")
"""The name of a host that hands a request on to somebody else, up to its first dot."""


@lru_cache(maxsize=1024)
def is_proxy(host: str) -> bool:
    """Whether a host's own name says that it serves no models itself."""
    host = host.lower()
    return bool(PROXY_HOST.match(host)) and not host.endswith(
        "docker.internal"
    )  # gateway.docker.internal: this machine


@lru_cache(maxsize=1024)
def is_private(host: str) -> bool:
    """Whether `host` is this machine or one on a private network: a server of one's own, or a proxy."""
    host = host.lower().rstrip(".").strip("[]")
    if host in ("localhost", "ollama", "vllm") or host.endswith((".localhost", ".local", ".internal", ".lan")):
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host and host != ""
