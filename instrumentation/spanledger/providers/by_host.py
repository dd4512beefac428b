"""Finds who reads a request that no SDK has claimed: by host, and by path where a host speaks several formats."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from spanledger.providers import Provider, anthropic, bedrock, cohere, google, ollama, openai
from spanledger.semconv.provider_hosts import provider_for_host

MESSAGES: Final = re.compile(r"/messages(?:$|/batches|/count_tokens)")
"""The path of Anthropic's format, which several hosts speak beside OpenAI's; OpenAI's own has messages of threads."""
VERTEX_MODELS: Final = re.compile(
    r"/publishers/|/endpoints/openapi/|/batchPredictionJobs|/cachedContents|/interactions"
)
"""What serves models at aiplatform.googleapis.com, among much else."""
AZURE_MODELS: Final = re.compile(r"/openai/|/models/|/anthropic/|^/v1/|/chat/completions$|/embeddings$")
"""What serves models at Azure AI services' hosts, beside vision, speech and search."""
DATABRICKS_MODELS: Final = re.compile(r"/serving-endpoints/|/ai-gateway/")
"""What serves models at a Databricks workspace's host, beside everything else."""
OPENAI_PATH: Final = re.compile(r"/(?:chat/completions|completions|responses)$")
"""Paths of OpenAI's format, in which nearly everybody can be asked."""
OLLAMA_PORT: Final = 11434


@lru_cache(maxsize=1024)
def provider_at(host: str, port: int | None) -> str | None:
    """`gen_ai.provider.name` of a host that serves models; None for any other."""
    name = provider_for_host(host, port)
    return name or (ollama.NAME if port == OLLAMA_PORT else None)


def reader(name: str, path: str) -> Provider | None:
    """Who reads a request to `path`; None where what the provider serves there is no model."""
    path = path.partition("?")[0]
    if OPENAI_PATH.search(path):
        return openai
    if name == google.NAME:
        return openai if "/openai/" in path else google
    if name == "gcp.vertex_ai":
        if not VERTEX_MODELS.search(path):
            return None
        return anthropic if "/publishers/anthropic/" in path else openai if "/openapi/" in path else google
    beside = AZURE_MODELS if name.startswith("azure.") else DATABRICKS_MODELS if name == "databricks" else None
    if beside is not None and not beside.search(path):
        return None
    if name == anthropic.NAME or (MESSAGES.search(path) and "/threads/" not in path):
        return anthropic
    if "/openai/" in path or "/compatibility/" in path:
        return openai
    native: dict[str, Provider] = {
        bedrock.NAME: bedrock,
        cohere.NAME: cohere,
        ollama.NAME: ollama if "/api/" in path else openai,
    }
    return native.get(name, openai)
