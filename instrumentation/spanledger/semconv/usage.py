"""Usage: the disjoint meters of one billed response, and its form as span attributes.

Providers count in overlapping totals (cached tokens inside the input, reasoning inside the output,
each provider differently); here every token stands in exactly one meter, so any total is a plain sum.
`reasoning` alone is informational: it is a part of `output`.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Final, NamedTuple

from spanledger.runtime.untrusted_json import MAX_COUNT
from spanledger.semconv import attributes as a

NON_TOKEN_METERS: Final[dict[str, str]] = {
    "web_searches": a.WEB_SEARCHES,
    "file_searches": a.FILE_SEARCHES,
    "code_sessions": a.CODE_SESSIONS,
    "maps_queries": a.MAPS_QUERIES,
    "images": a.IMAGES,
    "audio_input_ms": a.AUDIO_INPUT_MS,
    "audio_output_ms": a.AUDIO_OUTPUT_MS,
    "video_output_ms": a.VIDEO_OUTPUT_MS,
    "characters": a.CHARACTERS,
    "pages": a.PAGES,
    "queries": a.QUERIES,
    "training_tokens": a.TRAINING_TOKENS,
}
"""Meters that are not tokens of a prompt or an answer: field -> attribute."""

GET_NON_TOKEN_COUNTS: Final = attrgetter(*NON_TOKEN_METERS)

USAGE_ATTRIBUTES: Final = (
    a.INPUT_TOKENS,
    a.OUTPUT_TOKENS,
    a.CACHE_READ_TOKENS,
    a.CACHE_WRITE_TOKENS,
    a.CACHE_WRITE_1H_TOKENS,
    a.CACHE_WRITE_12H_TOKENS,
    a.REASONING_TOKENS,
    a.AUDIO_INPUT_TOKENS,
    a.IMAGE_INPUT_TOKENS,
    a.VIDEO_INPUT_TOKENS,
    a.AUDIO_CACHE_READ_TOKENS,
    a.IMAGE_CACHE_READ_TOKENS,
    a.VIDEO_CACHE_READ_TOKENS,
    a.AUDIO_OUTPUT_TOKENS,
    a.IMAGE_OUTPUT_TOKENS,
    a.VIDEO_OUTPUT_TOKENS,
    *NON_TOKEN_METERS.values(),
    a.REPORTED_TOTAL,
)
"""Every usage attribute."""


class Usage(NamedTuple):
    """Tokens (and billed tool requests) of one response. All fields are counts >= 0 and disjoint.

    A tuple, as `Request` and `Response`: a frozen dataclass of this size takes five times as long to make.
    """

    input: int = 0
    """Input tokens neither cached nor of another modality than text (nor unspecified)."""
    input_audio: int = 0
    input_image: int = 0
    input_video: int = 0
    cache_read: int = 0
    cache_read_audio: int = 0
    cache_read_image: int = 0
    cache_read_video: int = 0
    cache_write: int = 0
    """Cache writes at the provider's default time to live (Anthropic 5 minutes, OpenAI 30 minutes)."""
    cache_write_1h: int = 0
    cache_write_12h: int = 0
    output: int = 0
    """Output tokens of text, reasoning included (also billed predictions that were rejected)."""
    output_audio: int = 0
    output_image: int = 0
    output_video: int = 0
    reasoning: int = 0
    """Of `output`: the tokens spent on reasoning."""
    web_searches: int = 0
    file_searches: int = 0
    code_sessions: int = 0
    maps_queries: int = 0
    images: int = 0
    """Images made, where they are not counted in tokens."""
    audio_input_ms: int = 0
    """Milliseconds of audio heard, where it is not counted in tokens."""
    audio_output_ms: int = 0
    video_output_ms: int = 0
    characters: int = 0
    """Characters of input (speech synthesis, some embeddings)."""
    pages: int = 0
    queries: int = 0
    """Searches of a reranker or a search API."""
    training_tokens: int = 0
    """Tokens that a fine-tuning job trained on."""
    reported_total: int | None = None
    """The provider's own total of tokens, where it gives one."""

    @property
    def total_cache_read(self) -> int:
        return self.cache_read + self.cache_read_audio + self.cache_read_image + self.cache_read_video

    @property
    def total_cache_write(self) -> int:
        return self.cache_write + self.cache_write_1h + self.cache_write_12h

    @property
    def total_input(self) -> int:
        """Input tokens, cache reads and writes and all modalities included (the convention's input_tokens)."""
        uncached = self.input + self.input_audio + self.input_image + self.input_video
        return uncached + self.total_cache_read + self.total_cache_write

    @property
    def total_output(self) -> int:
        return self.output + self.output_audio + self.output_image + self.output_video

    @property
    def total(self) -> int:
        return self.total_input + self.total_output


def from_totals(
    input: int = 0,  # noqa: A002 - the field's standard term
    output: int = 0,
    *,
    cache_read: int = 0,
    cache_write: int = 0,
    cache_write_1h: int = 0,
    cache_write_12h: int = 0,
    reasoning: int = 0,
    input_audio: int = 0,
    input_image: int = 0,
    input_video: int = 0,
    cache_read_audio: int = 0,
    cache_read_image: int = 0,
    cache_read_video: int = 0,
    output_audio: int = 0,
    output_image: int = 0,
    output_video: int = 0,
    reported_total: int | None = None,
    **units: int,
) -> Usage:
    """Split inclusive totals into disjoint meters.

    `input` includes everything read, cached or written; `output` includes reasoning and modalities;
    `cache_read` includes its own audio, image and video part; `input_audio` and its like are the
    uncached part only; `units` are the fields of
    `NON_TOKEN_METERS`. Where the parts contradict the total, the total stands and the parts are clamped, cache
    first, then modalities (rule R2): a sum of meters never exceeds what was billed.
    """
    rest = min(input, MAX_COUNT)
    cache_read = min(cache_read, rest)
    rest -= cache_read
    cache_write_12h = min(cache_write_12h, rest)
    rest -= cache_write_12h
    cache_write_1h = min(cache_write_1h, rest)
    rest -= cache_write_1h
    cache_write = min(cache_write, rest)
    rest -= cache_write
    input_audio = min(input_audio, rest)
    rest -= input_audio
    input_image = min(input_image, rest)
    rest -= input_image
    input_video = min(input_video, rest)
    rest -= input_video
    if cache_read_audio or cache_read_image or cache_read_video:
        cache_read_audio = min(cache_read_audio, cache_read)
        cache_read -= cache_read_audio
        cache_read_image = min(cache_read_image, cache_read)
        cache_read -= cache_read_image
        cache_read_video = min(cache_read_video, cache_read)
        cache_read -= cache_read_video
    output = min(output, MAX_COUNT)
    if output_audio or output_image or output_video:
        output_audio = min(output_audio, output)
        output -= output_audio
        output_image = min(output_image, output)
        output -= output_image
        output_video = min(output_video, output)
        output -= output_video
    return Usage(
        rest,
        input_audio,
        input_image,
        input_video,
        cache_read,
        cache_read_audio,
        cache_read_image,
        cache_read_video,
        cache_write,
        cache_write_1h,
        cache_write_12h,
        output,
        output_audio,
        output_image,
        output_video,
        min(reasoning, output),
        reported_total=reported_total,
        **units,
    )


def to_attributes(usage: Usage) -> dict[str, int]:
    """The usage as span attributes: inclusive totals under the conventions' names, zero parts left out."""
    out = {a.INPUT_TOKENS: usage.total_input, a.OUTPUT_TOKENS: usage.total_output}
    if usage.reported_total is not None:
        out[a.REPORTED_TOTAL] = usage.reported_total
    if usage.reasoning:
        out[a.REASONING_TOKENS] = usage.reasoning
    if usage.input + usage.output == usage.total:
        return out | _non_token_attributes(usage) if any(GET_NON_TOKEN_COUNTS(usage)) else out
    for name, value in (
        (a.CACHE_READ_TOKENS, usage.total_cache_read),
        (a.CACHE_WRITE_TOKENS, usage.total_cache_write),
        (a.CACHE_WRITE_1H_TOKENS, usage.cache_write_1h),
        (a.CACHE_WRITE_12H_TOKENS, usage.cache_write_12h),
        (a.AUDIO_INPUT_TOKENS, usage.input_audio + usage.cache_read_audio),
        (a.IMAGE_INPUT_TOKENS, usage.input_image + usage.cache_read_image),
        (a.VIDEO_INPUT_TOKENS, usage.input_video + usage.cache_read_video),
        (a.AUDIO_CACHE_READ_TOKENS, usage.cache_read_audio),
        (a.IMAGE_CACHE_READ_TOKENS, usage.cache_read_image),
        (a.VIDEO_CACHE_READ_TOKENS, usage.cache_read_video),
        (a.AUDIO_OUTPUT_TOKENS, usage.output_audio),
        (a.IMAGE_OUTPUT_TOKENS, usage.output_image),
        (a.VIDEO_OUTPUT_TOKENS, usage.output_video),
    ):
        if value:
            out[name] = value
    return out | _non_token_attributes(usage)


def _non_token_attributes(usage: Usage) -> dict[str, int]:
    return {
        name: value for name, value in zip(NON_TOKEN_METERS.values(), GET_NON_TOKEN_COUNTS(usage), strict=True) if value
    }


def from_attributes(attributes: Mapping[str, object]) -> Usage | None:
    """The usage that a span carries, or None where it carries none: the inverse of `to_attributes`."""
    counts: dict[str, int] = {}
    for name in USAGE_ATTRIBUTES:
        value = attributes.get(name)
        if type(value) is int and 0 <= value <= MAX_COUNT:
            counts[name] = value
    if not counts:
        return None
    n = counts.get
    cached_audio, cached_image = n(a.AUDIO_CACHE_READ_TOKENS, 0), n(a.IMAGE_CACHE_READ_TOKENS, 0)
    cached_video = n(a.VIDEO_CACHE_READ_TOKENS, 0)
    written_1h, written_12h = n(a.CACHE_WRITE_1H_TOKENS, 0), n(a.CACHE_WRITE_12H_TOKENS, 0)
    return from_totals(
        n(a.INPUT_TOKENS, 0),
        n(a.OUTPUT_TOKENS, 0),
        cache_read=n(a.CACHE_READ_TOKENS, 0),
        cache_write=max(0, n(a.CACHE_WRITE_TOKENS, 0) - written_1h - written_12h),
        cache_write_1h=written_1h,
        cache_write_12h=written_12h,
        reasoning=n(a.REASONING_TOKENS, 0),
        input_audio=max(0, n(a.AUDIO_INPUT_TOKENS, 0) - cached_audio),
        input_image=max(0, n(a.IMAGE_INPUT_TOKENS, 0) - cached_image),
        input_video=max(0, n(a.VIDEO_INPUT_TOKENS, 0) - cached_video),
        cache_read_audio=cached_audio,
        cache_read_image=cached_image,
        cache_read_video=cached_video,
        output_audio=n(a.AUDIO_OUTPUT_TOKENS, 0),
        output_image=n(a.IMAGE_OUTPUT_TOKENS, 0),
        output_video=n(a.VIDEO_OUTPUT_TOKENS, 0),
        reported_total=n(a.REPORTED_TOTAL),
        **{field: counts[name] for field, name in NON_TOKEN_METERS.items() if name in counts},
    )
