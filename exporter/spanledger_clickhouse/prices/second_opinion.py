"""Compares the prices in force with those of genai-prices (pydantic), an independent list: where they differ, one of them is wrong.

It is not a dependency: whoever wants the second opinion installs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Final

from spanledger.pricing import quote
from spanledger.pricing.price_table import Prices

PROVIDERS: Final = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "gcp.gemini",
    "x-ai": "x_ai",
    "mistral": "mistral_ai",
    "deepseek": "deepseek",
    "groq": "groq",
}
"""genai-prices' name of a provider -> `gen_ai.provider.name`, those first whose models are most in use."""
MODELS: Final = 100
"""Compared, of those that both lists have: the newest of each provider first."""
TOLERANCE: Final = 0.005
TOKENS: Final = 1000
"""Few enough to be below every threshold of long context."""
FIELDS: Final = {
    "input": {"input": TOKENS},
    "output": {"output": TOKENS},
    "cached input": {"input": TOKENS, "cache_read": TOKENS},
}

NO_CACHED_PRICE: Final = "genai-prices has no price of cached input for it, and takes that of input"
EXPLANATIONS: Final = {
    ("openai", "gpt-4o-search-preview"): NO_CACHED_PRICE,
    ("gcp.gemini", "gemini-3.8-flash-tts"): NO_CACHED_PRICE,
    ("gcp.gemini", "gemini-3.8-flash-lite-tts"): NO_CACHED_PRICE,
}
"""(provider, begin of the model's name) -> why they differ."""


@dataclass(frozen=True)
class Difference:
    """One price that the lists do not agree on, in USD a million tokens."""

    model: str
    field: str
    ours: float
    theirs: float
    explanation: str


def differences(prices: Prices, *, at: datetime | None = None) -> Iterator[Difference]:
    """Where the price of a model differs by more than half a per cent.

    Raises:
        ModuleNotFoundError: genai-prices is not installed.
    """
    theirs: Any = import_module("genai_prices")
    providers: Any = import_module("genai_prices.data").providers
    moment = at or datetime.now(UTC)
    compared = 0
    for name, provider in PROVIDERS.items():
        for model in _models(providers, name):
            if compared >= MODELS:
                return
            own = {field: _ours(prices, provider, model, usage, moment) for field, usage in FIELDS.items()}
            if own["input"] is None or own["output"] is None:
                continue
            compared += 1
            for field, usage in FIELDS.items():
                other = _theirs(theirs, name, model, usage, moment)
                ours = own[field]
                if ours is not None and other is not None and abs(ours - other) > TOLERANCE * max(ours, other):
                    yield Difference(f"{provider} {model}", field, ours, other, _explanation(provider, model))


def _models(providers: Any, name: str) -> list[str]:
    models: list[Any] = [model for provider in providers if provider.id == name for model in provider.models]
    return [model.id for model in reversed(models) if not model.deprecated]


def _ours(prices: Prices, provider: str, model: str, usage: dict[str, int], moment: datetime) -> float | None:
    price = quote(provider, model, usage, at=moment, table=prices)
    return price.total_picousd / TOKENS / 1e6 if price.total_picousd is not None and "exact" in price.flags else None


def _theirs(module: Any, provider: str, model: str, usage: dict[str, int], moment: datetime) -> float | None:
    counts = module.Usage(
        input_tokens=usage.get("input", 0),
        output_tokens=usage.get("output", 0),
        cache_read_tokens=usage.get("cache_read", 0),
    )
    try:
        price = module.calc_price(counts, model, provider_id=provider, genai_request_timestamp=moment)
    except (LookupError, ValueError):
        return None
    return float(price.total_price) * 1e6 / TOKENS


def _explanation(provider: str, model: str) -> str:
    return next(
        (text for (name, begin), text in EXPLANATIONS.items() if name == provider and model.startswith(begin)), ""
    )
