"""Finds the model that the text of an invoice line names: line items, SKUs, meters and usage types, by provider."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from spanledger_clickhouse.invoices.lines import model_key


def model_of_line_item(item: Any) -> str:
    """The model of OpenAI's "gpt-5.4-mini-2026-03-17, cached input"; "web search tool calls" has none."""
    name, comma, _ = str(item or "").partition(", ")
    return model_key(name) if comma and " " not in name else ""


def model_of_description(description: str) -> str:
    """The model of Anthropic's "Claude Sonnet 4.6 Usage - Input Tokens", and of AWS Marketplace's "Claude Sonnet 4.6 (Amazon
    Bedrock Edition)"."""
    name, usage, _ = description.partition(" Usage")
    marketplace, edition, _ = description.partition(" (Amazon Bedrock")
    if edition:
        return model_key(marketplace)
    return model_key(name) if usage and name.lower().startswith("claude") else ""


def _model_of_google_sku(sku: str) -> str:
    """Of "Gemini 3.5 Flash Text Output - Predictions", or "Claude Sonnet 4.5 Input Tokens"."""
    if google := re.search(r"gemini[ -](\d+(?:\.\d+)?)[ -](pro|flash(?:[ -]lite)?|ultra|nano)", sku, re.IGNORECASE):
        return model_key(f"gemini {google[1]} {google[2]}")
    if claude := re.search(
        r"claude (?:(sonnet|opus|haiku) )?(\d(?:\.\d+)?)(?: (sonnet|opus|haiku))?", sku, re.IGNORECASE
    ):
        return model_key(f"claude {claude[1] or claude[3] or ''} {claude[2]}".replace("  ", " "))
    return ""


AZURE_METER: Final = re.compile(
    r"^(?:azure openai )?(?P<model>(?:gpt[- ]?)?\d(?:\.\d)?o?(?:[- ](?:mini|nano|pro|turbo|codex|chat))*|gpt[- ]?[\w.]+?(?:[- ](?:mini|nano|pro|turbo|codex|audio|realtime|image))*"
    r"|o\d(?:[- ](?:mini|pro))?|text[- ]embedding[- ][\w-]+?)"
    r"(?:[- ]\d{4})?[- ](?:batch[- ]|pp[- ]|pty[- ]|cc?c?h?d[- ]|cached[- ]|ccchd[- ]|shortco[- ]|longco[- ])*(?:inp|in|outp|out|opt|input|output|glbl|regnl|dz|cd|gl|rg)\b",
    re.IGNORECASE,
)
"""Meters of Azure OpenAI: "gpt-4o-mini-0718-Inp-glbl Tokens", "gpt 4.1 cached Inp regnl Tokens", "5.4 mini cd Inp Gl 1M Tokens"."""


def _model_of_azure_meter(meter: str) -> str:
    match = AZURE_METER.match(meter.strip())
    if match is None:
        return ""
    model = match["model"]
    return model_key(model if re.match(r"(?i)gpt|o\d|text", model) else f"gpt-{model}")


AWS_USAGE: Final = re.compile(
    r"^(?:[A-Z]{2,4}\d?-)?(?P<model>(?:Claude|Nova|Llama|Titan|Mistral|Command|DeepSeek|Qwen)[\w.]*?)-(?:input|output|cache|text|embed|[A-Za-z]*[Tt]oken)",
    re.IGNORECASE,
)
"""Usage types of Bedrock's own models: "USE1-NovaLite-input-tokens", "USW2-Claude4.5Sonnet-output-tokens"."""


def _model_of_aws_usage(usage: str) -> str:
    match = AWS_USAGE.match(usage)
    if match is None:
        return ""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=\d)(?=[A-Z])", "-", match["model"])
    if claude := re.fullmatch(r"(?i)claude-?(\d(?:\.\d+)?)-?(sonnet|haiku|opus)", spaced):
        return model_key(f"claude-{claude[2]}-{claude[1]}")
    return model_key(spaced)


READERS: Final[tuple[Callable[[str], str], ...]] = (
    model_of_description, _model_of_google_sku, _model_of_aws_usage, model_of_line_item, _model_of_azure_meter,
)  # fmt: skip


def model_in(text: str) -> str:
    """The model that a line item, a SKU, a meter or a usage type of any provider names; "" if it names none."""
    return next((model for read in READERS if (model := read(text))), "")
