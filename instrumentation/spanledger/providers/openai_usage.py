"""OpenAI's usage objects, and those of its imitators, as disjoint meters.

Totals include everything: cached and cache-write tokens, audio and image are parts of the input,
reasoning is a part of the output (openai 3.57 `types/completion_usage.py`, `types/responses/response_usage.py`).
`semconv/dialects.py` says who deviates, and how.
"""

from __future__ import annotations

from spanledger.runtime.untrusted_json import Json, count, counts, number
from spanledger.semconv import dialects
from spanledger.semconv import usage as usages
from spanledger.semconv.usage import Usage


def read_usage(
    usage_fields: Json, tools: Json, provider: str = "", model: str = "", *, whole_output: str = ""
) -> Usage | None:
    """A usage object.

    Args:
        usage_fields: as it was sent.
        tools: counts of billed tool calls, by meter.
        provider: `gen_ai.provider.name`, for its dialect.
        model: any of its names.
        whole_output: the meter of output that no detail calls text (output_image, output_audio).
    """
    if usage_fields.get("type") == "duration":
        seconds = number(usage_fields, "seconds")
        return None if seconds is None or not 0 <= seconds < 1e6 else Usage(audio_input_ms=round(seconds * 1000))
    n = counts(usage_fields).get
    if "prompt_tokens" in usage_fields:
        prompt, completion, into, out = (
            n("prompt_tokens"),
            n("completion_tokens"),
            "prompt_tokens_details",
            "completion_tokens_details",
        )
    else:
        prompt, completion, into, out = (
            n("input_tokens"),
            n("output_tokens"),
            "input_tokens_details",
            "output_tokens_details",
        )
        if "input_token_details" in usage_fields:  # the realtime API's spelling
            into, out = "input_token_details", "output_token_details"
    if "prompt_token_details" in usage_fields:
        into = "prompt_token_details"
    if prompt is None and completion is None:
        total = n("total_tokens")  # of embeddings, where that is all there is (Voyage, Jina)
        return usages.from_totals(total, reported_total=total) if total else None
    prompt, completion = prompt or 0, completion or 0
    reasoning = n(f"{out}.reasoning_tokens", 0)
    total = n("total_tokens")
    cached = n(f"{into}.cached_tokens", 0)
    if not cached:
        cached = next((read for name in dialects.READ_NAMES if (read := n(name))), 0)
    writes = n(f"{into}.cache_write_tokens", 0)
    if not writes:
        writes = next((w for name in dialects.WRITE_NAMES if (w := n(name.replace("*", into)))), 0)
    if cached + writes or (total or 0) > prompt + completion:
        prompt, completion, reasoning = dialects.settled(
            provider, model, prompt, completion, cached + writes, reasoning, total
        )
    writes_12h = min(writes, n(f"{into}.cache_write_tokens_details.ttl_12h_tokens", 0)) if writes else 0
    cached_audio = n(f"{into}.cached_tokens_details.audio_tokens", 0)
    cached_image = n(f"{into}.cached_tokens_details.image_tokens", 0)
    return usages.from_totals(
        prompt,
        completion,
        cache_read=cached,
        cache_write=writes,
        cache_write_12h=writes_12h,
        reasoning=reasoning,
        input_audio=max(0, n(f"{into}.audio_tokens", 0) - cached_audio),
        input_image=max(0, n(f"{into}.image_tokens", 0) - cached_image),
        input_video=n(f"{into}.video_tokens", 0),
        cache_read_audio=cached_audio,
        cache_read_image=cached_image,
        reported_total=total,
        **{
            "output_audio": n(f"{out}.audio_tokens", 0),
            "output_image": n(f"{out}.image_tokens", 0),
            "output_video": n(f"{out}.video_tokens", 0),
            **({whole_output: max(0, completion - n(f"{out}.text_tokens", 0))} if whole_output else {}),
            **{meter: count(tools, meter) or 0 for meter in tools},
        },
    )
