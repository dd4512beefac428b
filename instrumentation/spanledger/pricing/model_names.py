"""Resolves a provider's model name to an entry of the price table, with flags for the confidence of the match.

Exactness first: a name is only loosened (case, version suffix, date) inside its provider's own
namespace, because a date decides a price (gpt-4o-2024-05-13 costs twice gpt-4o), and a looser match
carries a flag. A bare `gemini-*` key is Vertex's, not the Gemini API's: a key counts for a provider
only if the table says that it is the provider's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import unquote

from spanledger.pricing.price_table import Prices, Table, suffixes
from spanledger.pricing.rates import Entry


@dataclass(frozen=True, slots=True)
class Namespace:
    """A provider's key prefixes in the price table."""

    prefixes: tuple[str, ...]
    """Key prefixes, the provider's own first."""
    litellm_providers: tuple[str, ...]
    """Prefixes of `litellm_provider` that belong to the provider."""
    home_provider: str | None = None
    """The provider whose list price is the fallback (flag home_vendor)."""
    fallback_prefixes: tuple[str, ...] = ()
    """Prefixes of another API of the provider, tried if the bare name is not one of its keys."""


NAMESPACES: Final[dict[str, Namespace]] = {
    "openai": Namespace(("openai/",), ("openai", "text-completion-openai")),
    "azure.ai.openai": Namespace(("azure/", "azure_ai/"), ("azure",), "openai"),
    "azure.ai.inference": Namespace(("azure_ai/", "azure/"), ("azure",), "openai"),
    "anthropic": Namespace(("anthropic/",), ("anthropic",)),
    "aws.bedrock": Namespace(("bedrock/",), ("bedrock",), "anthropic", ("bedrock_mantle/",)),
    "bedrock_mantle": Namespace(("bedrock_mantle/",), ("bedrock",), "anthropic"),
    "gcp.gemini": Namespace(("gemini/",), ("gemini",)),
    "gcp.vertex_ai": Namespace(("vertex_ai/",), ("vertex_ai",), "anthropic"),
    "x_ai": Namespace(("xai/",), ("xai",)),
    "mistral_ai": Namespace(("mistral/",), ("mistral",)),
    "moonshot_ai": Namespace(("moonshot/",), ("moonshot",)),
    "github": Namespace(("github/",), ("github",), "openai"),
}
"""`gen_ai.provider.name` -> its namespace; a provider not listed uses its own name."""

LITELLM_NAMES: Final = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "azure_text": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "gcp.gen_ai": "gcp.gemini",
    "google": "gcp.gemini",
    "xai": "x_ai",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "text-completion-openai": "openai",
}

GOOGLE: Final = ("gcp.vertex_ai", "gcp.gemini")
ARN: Final = re.compile(r"arn:aws[\w-]*:(?P<service>\w+):(?P<region>[\w-]*):\d*:(?P<kind>[\w-]+)/(?P<model>.+)")
CUSTOMER_ARN_KINDS: Final = (
    "application-inference-profile",
    "provisioned-model",
    "custom-model",
    "endpoint",
    "imported-model",
)
GEO: Final = re.compile(r"^(?:us-gov|us|eu|apac|au|jp|global|ca|in|sa|me|af|amer)\.(?=\w+\.)")
DATE: Final = re.compile(r"(?:[-@](?:20\d{6}|20\d\d-\d\d-\d\d|\d{4}|\d{3}))$")
PROPRIETARY_MODEL: Final = re.compile(
    r"(?:^|[-_./: ])(?:(?:claude|sonnet|haiku|opus(?!-mt)|doubao|abab\d|gemini|grok(?!-1\b)|chatgpt|dall-e|sora|imagen|veo|sonar|palmyra|learnlm)(?![a-z])"
    r"|gpt[-_.]?(?:[3-9]|\d\d|image|audio|realtime)(?!all)|text-(?:embedding-\d|davinci)|omni-moderation|nova-(?:\d|pro|lite|micro)"
    r"|voyage-\d|inflection-\d|mistral-medium|qwen[\d.]*-(?:max|plus|turbo)|hunyuan-(?:turbo|large|pro)|ernie-[\d.]+-(?:turbo|speed|lite)|step-\d)|(?:^|[/:])o\d(?:-|$)"
)
"""Families with proprietary weights, anywhere in a name ("azure-gpt-4o", "ft:gpt-6:acme::x"): a name newer than the
table is not taken for a self-hosted model."""
DASHES: Final = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"))
VERSION: Final = re.compile(r"(?:-v\d+)?(?::\d+)?$")


class Match(NamedTuple):
    """The matched entry, its table, and the match flags (exact, or weaker)."""

    entry: Entry
    table: Table
    flags: tuple[str, ...]


class Unresolved(NamedTuple):
    needs_mapping: bool
    """The name is a customer's own (an ARN, a deployment): an alias in the overrides file will price it."""


def canonical(provider: str) -> str:
    """`gen_ai.provider.name` for a provider name of the semantic conventions or of LiteLLM."""
    if provider.startswith("vertex_ai"):
        return "gcp.vertex_ai"
    if provider in ("bedrock", "bedrock_converse"):
        return "aws.bedrock"
    return LITELLM_NAMES.get(provider, provider)


def namespace(provider: str) -> Namespace:
    space = NAMESPACES.get(provider)
    return space or Namespace((f"{provider}/",), (provider,))


def resolve(prices: Prices, provider: str, names: tuple[str, ...], region: str = "") -> Match | Unresolved:
    """Find the entry for a call: `names` are the candidates, the most reliable first.

    Steps: the user's alias; the exact key, live then retired; a variant of the name in the same
    namespace; the home vendor's list price.
    """
    provider = canonical(provider)
    names = _without_vendor(provider, names) if provider in (*GOOGLE, "github") else names
    needs_mapping = False
    for name in names:
        alias = prices.overrides.aliases.get(name)
        if alias is not None:
            match = _match_variants(prices, provider, alias, region) or _match_any_provider(prices, alias)
            if match:
                return Match(match.entry, match.table, ("alias", *(f for f in match.flags if f != "exact")))
    for name in names:
        cleaned, own_region, mapped = parse_model_name(name)
        needs_mapping = needs_mapping or mapped
        match = _match_exact(prices, provider, name, region)
        if not match and not mapped:
            match = _match_variants(prices, provider, cleaned, own_region or region)
        if match:
            return match
    home_provider = namespace(provider).home_provider
    if home_provider:
        for name in names:
            cleaned, _, mapped = parse_model_name(name)
            match = None if mapped else _match_variants(prices, home_provider, cleaned.rpartition("anthropic.")[2], "")
            if match:
                return Match(match.entry, match.table, ("home_vendor", *(f for f in match.flags if f != "exact")))
    return Unresolved(needs_mapping or (provider in ("azure.ai.openai", "azure.ai.inference") and bool(names)))


def _without_vendor(provider: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names without their vendor's before them, as Google's OpenAI-compatible endpoint and GitHub have it."""
    if provider == "github":
        return tuple(dict.fromkeys(name.rpartition("/")[2] for name in names))
    return tuple(dict.fromkeys(name.removeprefix("google/").removeprefix("anthropic/") for name in names))


def parse_model_name(name: str) -> tuple[str, str, bool]:
    """Parse a model name into (model, region, whether it is a customer's own resource)."""
    name = unquote(name).strip()
    arn = ARN.match(name)
    if arn:
        return arn["model"], arn["region"], arn["kind"] in CUSTOMER_ARN_KINDS
    if name.startswith("tunedModels/"):
        return name, "", True
    for marker in ("publishers/", "models/"):
        head, separator, tail = name.rpartition(marker)
        if separator and (not head or head.endswith("/")):
            name = tail.partition("/models/")[2] if marker == "publishers/" and "/models/" in tail else tail
    if name.startswith("ft:"):
        name = ":".join(name.split(":")[:2])
    return name, "", False


def is_vendor_model(prices: Prices, names: tuple[str, ...]) -> bool:
    """Whether one of these names is a vendor's model, or of a proprietary family: a self-hosted server cannot serve
    these."""
    index = prices.vendor_names
    for name in names:
        cleaned = parse_model_name(name)[0].lower().translate(DASHES)
        if PROPRIETARY_MODEL.search(cleaned):
            return True
        spellings = {cleaned, *name_variants(cleaned)}
        if any(
            part in index for spelling in spellings for part in suffixes(spelling.replace(":", "/").replace("--", "/"))
        ):
            return True
    return False


def _match_exact(prices: Prices, provider: str, name: str, region: str) -> Match | None:
    """The entry under exactly this name."""
    space = namespace(provider)
    for table in prices.tables:
        entry = _exact_entry(table, space, name, region)
        if entry:
            return _flagged_match(entry, table, ())
    return None


def _match_variants(prices: Prices, provider: str, name: str, region: str) -> Match | None:
    space = namespace(provider)
    match = _match_exact(prices, provider, name, region)
    if match:
        return match
    for variant in name_variants(name):
        for table in prices.tables:
            entry = _exact_entry(table, space, variant, region)
            if entry:
                return _flagged_match(entry, table, ("variant",))
    return None


def _flagged_match(entry: Entry, table: Table, flags: tuple[str, ...]) -> Match:
    if table.source == "retired":
        flags = (*flags, "archived")
    return Match(entry, table, flags or ("exact",))


def _exact_entry(table: Table, space: Namespace, name: str, region: str) -> Entry | None:
    for prefix in space.prefixes:
        for key in (f"{prefix}{region}/{name}", f"{prefix}{name}") if region else (f"{prefix}{name}",):
            entry = table.entry(key)
            if entry:
                return entry
    entry = table.entry(name)
    if entry and (table.source == "override" or entry.provider.startswith(space.litellm_providers)):
        return entry
    return next((entry for prefix in space.fallback_prefixes if (entry := table.entry(f"{prefix}{name}"))), None)


def _match_any_provider(prices: Prices, key: str) -> Match | None:
    for table in prices.tables:
        entry = table.entry(key)
        if entry:
            return _flagged_match(entry, table, ())
    return None


def name_variants(name: str) -> Iterator[str]:
    """Other spellings of a name, nearest first; each of them is a guess, and flagged as one."""
    known_spellings = {name}

    def new(*spellings: str) -> Iterator[str]:
        for spelling in spellings:
            if spelling and spelling not in known_spellings:
                known_spellings.add(spelling)
                yield spelling

    lower = name.lower()
    yield from new(lower)
    yield from new(lower.replace("gpt-35", "gpt-3.5"), lower.replace("gpt-3.5", "gpt-35"))
    base, separator, version = lower.partition("@")
    if separator:
        yield from new(f"{base}-{version}", f"{base}@default", base)
    else:
        yield from new(f"{lower}@default", DATE.sub(lambda m: "@" + m[0][1:], lower))
    for spelling in (lower, base):
        without_geo = GEO.sub("", spelling)
        yield from new(without_geo, VERSION.sub("", without_geo), VERSION.sub("", spelling))
        undated = DATE.sub("", VERSION.sub("", without_geo))
        yield from new(undated, undated.removesuffix("-latest"), f"{undated}-latest", f"{undated}@default")
