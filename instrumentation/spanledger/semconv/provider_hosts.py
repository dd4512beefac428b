"""Maps a host to its provider (OpenAI-compatible base URLs included), and detects proxies and private hosts."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from functools import lru_cache
from typing import Final, NamedTuple

from spanledger.runtime import notices, settings

PROVIDER_BY_SUFFIX: Final[dict[str, str]] = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "cognitiveservices.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "models.ai.azure.com": "azure.ai.inference",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "generativelanguage.mtls.googleapis.com": "gcp.gemini",
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
    "models.inference.ai.azure.com": "github",
    "claude.googleapis.com": "anthropic",  # Claude's own platform, paid through Google (anthropic 2.14 `lib/google_cloud`)
    "dashscope-intl.aliyuncs.com": "dashscope",
    "dashscope-us.aliyuncs.com": "dashscope",
    "open.bigmodel.cn": "bigmodel",
    "api.minimaxi.com": "minimax",
    "api.minimax.chat": "minimax",
    "api.studio.nebius.ai": "nebius",
    "api.tokenfactory.nebius.com": "nebius",
    "router.huggingface.co": "huggingface",
    "api-inference.huggingface.co": "huggingface",
    "ai-gateway.vercel.sh": "vercel_ai_gateway",
    "api.inference.wandb.ai": "wandb",
    "cloud.databricks.com": "databricks",
    "gcp.databricks.com": "databricks",
    "azuredatabricks.net": "databricks",
    "codestral.mistral.ai": "codestral",
    "api.eu.mistral.ai": "mistral_ai",
    "api.us.mistral.ai": "mistral_ai",
    "maas.aliyuncs.com": "dashscope",  # <workspace>.<region>.maas.aliyuncs.com
    "api.hyperbolic.xyz": "hyperbolic",
    "api.lambda.ai": "lambda_ai",
    "api.lambdalabs.com": "lambda_ai",
    "api.ai21.com": "ai21",
    "api.friendli.ai": "friendliai",
    "inference.baseten.co": "baseten",
    "api.gmi-serving.com": "gmi",
    "api.aimlapi.com": "aiml",
    "aihubmix.com": "aihubmix",
    "api.featherless.ai": "featherless_ai",
    "api.inceptionlabs.ai": "inception",
    "api.morphllm.com": "morph",
    "api.scaleway.ai": "scaleway",
    "inference.do-ai.run": "gradient_ai",
    "inference.api.nscale.com": "nscale",
    "api.voyageai.com": "voyage",
    "api.jina.ai": "jina_ai",
    "api.v0.dev": "v0",
    "api.llama.com": "meta_llama",
    "api.hunyuan.cloud.tencent.com": "tencent",
    "api.githubcopilot.com": "github_copilot",
    "endpoints.kepler.ai.cloud.ovh.net": "ovhcloud",
    "api.siliconflow.cn": "siliconflow",
    "api.siliconflow.com": "siliconflow",
    "api.stepfun.com": "stepfun",
    "qianfan.baidubce.com": "qianfan",
}
"""Host suffix -> `gen_ai.provider.name` (the convention's names, LiteLLM's where it has none). SPANLEDGER_MODEL_HOSTS adds more."""


BEDROCK_HOST: Final = re.compile(
    r"(?:^|\.)bedrock-(?:runtime|agent-runtime|mantle)[\w-]*\.(?:[\w-]+\.)+(?:amazonaws\.com(?:\.cn)?|api\.aws)$"
)
"""Where Bedrock serves models, VPC endpoints included; not its own administration, nor S3 and the others there."""
CLAUDE_ON_AWS: Final = re.compile(r"^aws-external-anthropic\.[\w-]+\.api\.aws$")
"""Claude's own platform, paid through AWS (anthropic 2.14 `lib/aws`): at Anthropic's prices, not Bedrock's."""
VOLCENGINE_HOST: Final = re.compile(r"^ark\.[\w-]+\.(?:volces|bytepluses)\.com$")
"""Where Volcengine serves models; its object storage has the same domain."""
VERTEX_HOST: Final = re.compile(
    r"^(?:(?P<location>[\w-]+)-)?aiplatform(?:\.(?P<multiregion>[a-z]+)\.rep|\.mtls)?(?:\.sandbox)?\.googleapis\.com$"
)
"""Vertex AI's hosts: global, of a region, of several regions (`location="eu"`), with a client's certificate."""


SELF_HOSTED: Final = ("ollama", "vllm")
"""Providers that are software of one's own: nobody sends an invoice."""
PROVIDERS: Final = frozenset({*PROVIDER_BY_SUFFIX.values(), "aws.bedrock", "gcp.vertex_ai", "volcengine", *SELF_HOSTED})
"""Every `gen_ai.provider.name` that SPANLEDGER_MODEL_HOSTS may give to a host."""
MODEL_HOST: Final = re.compile(
    r"(?:\w+://)?(?P<host>[\w.-]+|\[[0-9a-f:.]+\])(?P<port>:\d{1,5})?(?:/[^=]*)?\s*=\s*(?P<provider>[\w.-]+)"
)
"""One of SPANLEDGER_MODEL_HOSTS, in lower case; a URL stands for its host."""


class ConfiguredHosts(NamedTuple):
    """What SPANLEDGER_MODEL_HOSTS says."""

    provider_by_host: dict[str, str]
    """By host, or host:port."""
    problems: tuple[str, ...]
    """What is wrong with it, for people."""


@lru_cache(maxsize=1)
def configured_hosts() -> ConfiguredHosts:
    """SPANLEDGER_MODEL_HOSTS, e.g. "llm.example.com=openai,10.0.0.5:8080=anthropic"."""
    provider_by_host: dict[str, str] = {}
    problems: list[str] = []
    for part in (settings.setting("model_hosts") or "").split(","):
        if not part.strip():
            continue
        match = MODEL_HOST.fullmatch(part.strip().lower())
        name = "" if match is None else _host_name(match["host"], match["port"])
        if match is None or not name:
            problems.append(
                f'SPANLEDGER_MODEL_HOSTS: "{settings.mask_credentials(part.strip())}" is not host=provider, and is ignored. '
                "Write for example llm.example.com=openai,10.0.0.5:8080=anthropic"
            )
            continue
        provider = match["provider"]
        if _listed_provider(match["host"]) not in (None, provider):
            problems.append(
                f"SPANLEDGER_MODEL_HOSTS: {name} is {_listed_provider(match['host'])}'s own: its calls are read as {provider}'s"
            )
        if provider_by_host.get(name, provider) != provider:
            problems.append(f"SPANLEDGER_MODEL_HOSTS names {name} twice: it is taken for {provider}'s")
        provider_by_host[name] = provider
        if provider not in PROVIDERS:
            import difflib  # not needed where all is well

            near = [p for p in PROVIDERS if provider in p.replace(".", "_").split("_")]
            near = near or difflib.get_close_matches(provider, PROVIDERS, 1)
            meant = f"did you mean {near[0]}?" if near else "docs/http.md lists those that are."
            problems.append(
                f'SPANLEDGER_MODEL_HOSTS: "{provider}" is no provider that is known: {meant} Its calls are rows, and have a '
                "price only where the price table has that provider"
            )
    for problem in problems:
        notices.add(problem)
    return ConfiguredHosts(provider_by_host, tuple(problems))


def _host_name(host: str, port: str | None) -> str:
    """The name under which a host is looked up; "" if it is none."""
    host = host.strip("[]").rstrip(".")
    number = int(port[1:]) if port else None
    if number is not None and not 0 < number < 65536:
        return ""
    with suppress(UnicodeError):
        host = host.encode("idna").decode() if not host.isascii() else host
    return "" if not host or host.isdecimal() else f"{host}:{number}" if number else host


@lru_cache(maxsize=1024)
def is_billed(host: str, provider: str) -> bool:
    """Whether SPANLEDGER_MODEL_HOSTS says that a private host stands for this provider, which sends invoices."""
    host = host.lower().rstrip(".").strip("[]")
    return any(
        configured == provider not in SELF_HOSTED and host in (name, name.rpartition(":")[0])
        for name, configured in configured_hosts().provider_by_host.items()
    )


@lru_cache(maxsize=1024)
def provider_for_host(host: str, port: int | None = None) -> str | None:
    """The provider known to answer at `host`, e.g. "eu.api.openai.com" -> "openai". `port`: None for the scheme's own."""
    host = host.lower().rstrip(".").strip("[]")
    configured = configured_hosts().provider_by_host
    if configured:
        ports = (port,) if port else (443, 80)
        names = (*(f"{host}:{number}" for number in ports), host)
        if name := next((configured[name] for name in names if name in configured), None):
            return name
    return _listed_provider(host)


@lru_cache(maxsize=1024)
def is_unknown(host: str) -> bool:
    """Whether a public name is in no list, neither ours nor the user's: nobody knows whose prices it has."""
    host = host.lower().rstrip(".")
    is_name = any(character.isalpha() for character in host.rpartition(".")[2])
    return is_name and not is_private(host) and provider_for_host(host) is None


UNIQUE_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-|(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{16}")
"""In an id that is random, so that no server gives it twice: a UUID, or sixteen letters and digits."""


@lru_cache(maxsize=1024)
def is_listed(host: str) -> bool:
    """Whether a host is that of a provider, which never gives an id twice."""
    return _listed_provider(host.lower().rstrip(".").strip("[]")) is not None


def server_of_id(host: str, port: int | None, name: str) -> str:
    """Whose job or file an id means: "" where it means the same everywhere, else host:port.

    Programs that speak a provider's format may count from one, each of them.
    """
    if not host or is_listed(host) or UNIQUE_ID.search(name):
        return ""
    host = host.lower().rstrip(".").strip("[]")
    host = "localhost" if host in ("127.0.0.1", "::1") else host
    return host if port in (None, 80, 443) else f"{host}:{port}"


def _listed_provider(host: str) -> str | None:
    if BEDROCK_HOST.search(host):
        return "aws.bedrock"
    if VERTEX_HOST.search(host):
        return "gcp.vertex_ai"
    if CLAUDE_ON_AWS.search(host):
        return "anthropic"
    if VOLCENGINE_HOST.search(host):
        return "volcengine"
    while host:
        if host in PROVIDER_BY_SUFFIX:
            return PROVIDER_BY_SUFFIX[host]
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
