"""10,000 random calls, priced here, by litellm and by genai-prices: where they differ, what kind of difference it is.

A call is a model of the table, a usage (input, output, cache reads and writes, reasoning) and a service tier. litellm and genai-prices run
in an environment of their own (`.bench/`, see bench_pricing.py). The kinds are judged in docs/pricing.md, "A second opinion"; a difference of no
judged kind is named, and ends the command with 1.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from bench_pricing import peers

from spanledger.pricing import Price, quote
from spanledger.pricing.model_names import canonical
from spanledger.pricing.price_table import prices

CALLS, SEED = 10_000, 23
NOT_JUDGED = "not judged"
TOLERANCE = 1e-6
REGIONAL = re.compile(
    r"azure/(?:us|eu|apac|us-gov)/|azure/gpt-4-turbo|bedrock/|bedrock_mantle/|(?:us|eu|apac|jp|au|us-gov|global)\.|anthropic\.|openai\."
)
"""Keys of Azure's and Bedrock's regions, and of Bedrock's own price of a vendor's model; Azure's gpt-4-turbo is a data zone's (+10 %)."""
JUDGED = {
    "a moving name": r"mistral/(?:.*-latest|mistral-medium)$",
    "a former price there": r"(?:deepseek/)?deepseek-(?:chat|reasoner)$|xai/grok-code-fast",
    "long context": r"claude-sonnet-4-5|gpt-5\.6-cyber",
    "no cache rate there": r"ft:gpt-4o|azure/gpt-5\.[45]-pro|gpt-4o-search-preview|gemini/gemini-2\.5-pro-preview-tts|mistral/mistral-tiny",
    "no cache rate here": r"azure/global-standard/gpt-4o-mini",
    "a list price in doubt": r"mistral/open-mistral-nemo|deepseek/deepseek-v3\.2",
}
"""What differs by model -> the models (each looked at, see docs/pricing.md)."""
MODES = {"chat", "responses", "completion"}
PROVIDERS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
    "xai": "x-ai",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "groq": "groq",
    "azure": "azure",
    "bedrock_converse": "aws",
    "moonshot": "moonshotai",
}
"""LiteLLM's name of a provider -> genai-prices'."""

LITELLM = """
import json, sys
import litellm
from litellm.types.utils import Usage
for line in sys.stdin:
    call = json.loads(line)
    u = call["usage"]
    details = {"cached_tokens": u["cache_read"]}
    usage = Usage(prompt_tokens=u["input"], completion_tokens=u["output"], total_tokens=u["input"] + u["output"], reasoning_tokens=u["reasoning"],
                  prompt_tokens_details=details, cache_creation_input_tokens=u["cache_write"], cache_read_input_tokens=u["cache_read"])
    try:
        cost = sum(litellm.cost_per_token(model=call["key"], custom_llm_provider=call["provider"], usage_object=usage, service_tier=call["tier"] or None))
    except Exception as error:
        cost = None
    print(json.dumps(cost))
"""
GENAI_PRICES = """
import json, sys
from genai_prices import Usage, calc_price
for line in sys.stdin:
    call = json.loads(line)
    u = call["usage"]
    usage = Usage(input_tokens=u["input"], output_tokens=u["output"], cache_read_tokens=u["cache_read"] or None, cache_write_tokens=u["cache_write"] or None)
    try:
        cost = float(calc_price(usage, call["key"].rpartition("/")[2], provider_id=call["genai"]).total_price)
    except Exception as error:
        cost = None
    print(json.dumps(cost))
"""


def calls(dice: random.Random) -> list[dict[str, Any]]:
    models = [
        (key, entry)
        for key, entry in prices().live.models.items()
        if entry.get("litellm_provider") in PROVIDERS and entry.get("mode") in MODES
    ]
    made: list[dict[str, Any]] = []
    for _ in range(CALLS):
        key, entry = dice.choice(models)
        total = int(10 ** dice.uniform(1, 5.9))
        read = dice.choice([0, 0, int(total * dice.random())])
        written = dice.choice([0, 0, 0, int((total - read) * dice.random())])
        output = int(10 ** dice.uniform(0, 4))
        usage = {
            "input": total, "output": output, "cache_read": read, "cache_write": written,
            "reasoning": dice.choice([0, int(output * dice.random())]),
        }  # fmt: skip
        provider = str(entry["litellm_provider"])
        made.append({
            "key": key, "provider": provider, "genai": PROVIDERS[provider], "tier": dice.choice(["", "", "", "flex", "priority"]), "usage": usage,
        })  # fmt: skip
    return made


def asked(code: str, made: list[dict[str, Any]]) -> list[float | None]:
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    text = "\n".join(json.dumps(call) for call in made)
    done = subprocess.run([peers(), "-c", code], input=text, capture_output=True, text=True, check=True, env=env)
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] in "n0123456789-"][-len(made) :]


def kind(call: dict[str, Any], price: Price, theirs: float | None) -> str:
    """What a figure of a peer is beside ours."""
    entry = prices().live.entry(call["key"])
    ours = price.total_picousd / 1e12 if price.total_picousd is not None else None
    if ours is None or theirs is None:
        return "no price there" if ours is not None else "no price here" if theirs is not None else "no price at all"
    if abs(ours - theirs) <= TOLERANCE * max(ours, theirs) + 1e-11:
        return "equal"
    assert entry is not None
    reasons = {
        "price by the hour": bool(entry.off_peak),
        "prices by bracket": bool(entry.brackets),
        "service tier": bool(call["tier"]),
        "a region's price": REGIONAL.match(call["key"]) is not None,
        **{name: re.match(models, call["key"]) is not None for name, models in JUDGED.items()},
    }
    return next((name for name, holds in reasons.items() if holds), NOT_JUDGED)


def main() -> int:
    """The exit code: 1 if a difference is of no judged kind."""
    not_judged = 0
    dice = random.Random(SEED)
    made = calls(dice)
    now = datetime.now(UTC)
    ours: list[Price] = []
    for call in made:
        usage = {name: count for name, count in call["usage"].items() if count}
        ours.append(quote(canonical(call["provider"]), call["key"], usage, tier=call["tier"], at=now))
    for peer, code in (("litellm", LITELLM), ("genai-prices", GENAI_PRICES)):
        theirs = asked(code, made)
        kinds: dict[str, list[int]] = {}
        for number, (call, price, other) in enumerate(zip(made, ours, theirs, strict=True)):
            kinds.setdefault(kind(call, price, other), []).append(number)
        both = sum(len(numbers) for name, numbers in kinds.items() if not name.startswith("no price"))
        not_judged += len(kinds.get(NOT_JUDGED, []))
        print(f"{peer}: {both:,} of {len(made):,} priced by both, {len(kinds.get('equal', [])) / both:.2%} equal")
        for name, numbers in sorted(kinds.items(), key=lambda item: -len(item[1])):
            models = Counter(made[number]["key"] for number in numbers)
            example = "" if name == "equal" else f"  e.g. {', '.join(model for model, _ in models.most_common(3))}"
            print(f"  {len(numbers):6,}  {name}{example}")
    return int(bool(not_judged))


if __name__ == "__main__":
    raise SystemExit(main())
