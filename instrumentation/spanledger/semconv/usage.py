"""Usage meters, one row each: the disjoint counts of one billed response, and their form as span attributes.

Providers count in overlapping totals (cached tokens inside the input, reasoning inside the output, each provider
differently). Here every token is in exactly one meter, so any total is a plain sum. A field of `Usage` is a meter, and
its `Meter` says where the count is kept and what prices it. A new meter is a field here and a column in a new file of
`schema/` (which also redefines the columns that sum tokens, if it counts tokens).
"""  # without postponed annotations: the rows are read from them

from collections.abc import Mapping
from operator import itemgetter
from typing import Annotated, Final, NamedTuple

from spanledger.runtime.untrusted_json import MAX_COUNT
from spanledger.semconv import attributes as a

MAX_DIGITS: Final = 10
"""Of the largest count."""

INPUT: Final = "input"
CACHE_READ: Final = "cache_read"
CACHE_WRITE: Final = "cache_write"
OUTPUT: Final = "output"
TOOLS: Final = "tools"
OTHER: Final = "other"
"""Cost groups. In each group of tokens the plain meter bears the group's name."""

COST_ATTRIBUTES: Final = {
    INPUT: a.COST_INPUT,
    CACHE_READ: a.COST_CACHE_READ,
    CACHE_WRITE: a.COST_CACHE_WRITE,
    OUTPUT: a.COST_OUTPUT,
    TOOLS: a.COST_TOOLS,
    OTHER: a.COST_OTHER,
}
"""Cost group -> the span attribute for the sum of its meters; the column is `<group>_cost_usd`."""

TOTALS: Final = {
    INPUT: (a.INPUT_TOKENS,),
    CACHE_READ: (a.CACHE_READ_TOKENS, a.INPUT_TOKENS),
    CACHE_WRITE: (a.CACHE_WRITE_TOKENS, a.INPUT_TOKENS),
    OUTPUT: (a.OUTPUT_TOKENS,),
}
"""Cost group of tokens -> the attributes that include all its meters. The first is that of its own total."""

INPUT_RATE: Final = "input_cost_per_token"
OUTPUT_RATE: Final = "output_cost_per_token"
READ_RATE: Final = "cache_read_input_token_cost"
WRITE_RATE: Final = "cache_creation_input_token_cost"


class Meter(NamedTuple):
    """Where the count of one meter is kept, and what prices it."""

    attribute: str
    """The span attribute. Of tokens: an inclusive total, which also counts the meters that name it in `within`."""
    column: str
    """The column of `llm_calls`."""
    group: str
    """The cost group that sums it."""
    prices: tuple[str, ...] = ()
    """The fields of LiteLLM's table that may price it, the surest first (R5)."""
    per: int = 1
    """How many of the meter one price buys."""
    within: tuple[str, ...] = ()
    """Further attributes whose totals include it, beside those of its group."""
    subset_of: str = ""
    """The meter that includes it (`reasoning`, of the output): it is not a part of any sum of tokens, and is charged in
    place of that part of the other."""

    @property
    def counts_tokens(self) -> bool:
        return self.group in TOTALS

    @property
    def totals(self) -> tuple[str, ...]:
        """All attributes that count it."""
        return (
            (self.attribute,)
            if self.subset_of
            else (*dict.fromkeys((self.attribute, *self.within, *TOTALS.get(self.group, ()))),)
        )


class Usage(NamedTuple):
    """Tokens (and billed tool requests) of one response. All fields are counts >= 0 and disjoint.

    A tuple, as `Request` and `Response`: a frozen dataclass of this size takes five times as long to make.
    """

    input: Annotated[int, Meter(a.INPUT_TOKENS, "input_uncached_tokens", INPUT, (INPUT_RATE,))] = 0
    """Input tokens neither cached nor of another modality than text (nor unspecified)."""
    input_audio: Annotated[
        int, Meter(a.AUDIO_INPUT_TOKENS, "input_audio_tokens", INPUT, ("input_cost_per_audio_token", INPUT_RATE))
    ] = 0
    input_image: Annotated[
        int, Meter(a.IMAGE_INPUT_TOKENS, "input_image_tokens", INPUT, ("input_cost_per_image_token", INPUT_RATE))
    ] = 0
    input_video: Annotated[
        int, Meter(a.VIDEO_INPUT_TOKENS, "input_video_tokens", INPUT, ("input_cost_per_video_token", INPUT_RATE))
    ] = 0
    cache_read: Annotated[int, Meter(a.CACHE_READ_TOKENS, "cache_read_tokens", CACHE_READ, (READ_RATE, INPUT_RATE))] = 0
    cache_read_audio: Annotated[
        int,
        Meter(
            a.AUDIO_CACHE_READ_TOKENS, "cache_read_audio_tokens", CACHE_READ,
            ("cache_read_input_audio_token_cost", READ_RATE, INPUT_RATE), within=(a.AUDIO_INPUT_TOKENS,),
        ),
    ] = 0  # fmt: skip
    cache_read_image: Annotated[
        int,
        Meter(
            a.IMAGE_CACHE_READ_TOKENS, "cache_read_image_tokens", CACHE_READ,
            ("cache_read_input_image_token_cost", READ_RATE, INPUT_RATE), within=(a.IMAGE_INPUT_TOKENS,),
        ),
    ] = 0  # fmt: skip
    cache_read_video: Annotated[
        int,
        Meter(
            a.VIDEO_CACHE_READ_TOKENS, "cache_read_video_tokens", CACHE_READ,
            ("cache_read_input_video_token_cost", READ_RATE, INPUT_RATE), within=(a.VIDEO_INPUT_TOKENS,),
        ),
    ] = 0  # fmt: skip
    cache_write: Annotated[
        int, Meter(a.CACHE_WRITE_TOKENS, "cache_write_tokens", CACHE_WRITE, (WRITE_RATE, INPUT_RATE))
    ] = 0
    """Cache writes at the provider's default time to live (Anthropic 5 minutes, OpenAI 30 minutes)."""
    cache_write_1h: Annotated[
        int,
        Meter(
            a.CACHE_WRITE_1H_TOKENS, "cache_write_1h_tokens", CACHE_WRITE,
            (f"{WRITE_RATE}_above_1hr", WRITE_RATE, INPUT_RATE),
        ),
    ] = 0  # fmt: skip
    cache_write_12h: Annotated[
        int,
        Meter(
            a.CACHE_WRITE_12H_TOKENS, "cache_write_12h_tokens", CACHE_WRITE,
            (f"{WRITE_RATE}_above_12hr", WRITE_RATE, INPUT_RATE),
        ),
    ] = 0  # fmt: skip
    output: Annotated[int, Meter(a.OUTPUT_TOKENS, "output_text_tokens", OUTPUT, (OUTPUT_RATE,))] = 0
    """Output tokens of text, reasoning included (also billed predictions that were rejected)."""
    output_audio: Annotated[
        int, Meter(a.AUDIO_OUTPUT_TOKENS, "output_audio_tokens", OUTPUT, ("output_cost_per_audio_token", OUTPUT_RATE))
    ] = 0
    output_image: Annotated[
        int, Meter(a.IMAGE_OUTPUT_TOKENS, "output_image_tokens", OUTPUT, ("output_cost_per_image_token", OUTPUT_RATE))
    ] = 0
    output_video: Annotated[
        int, Meter(a.VIDEO_OUTPUT_TOKENS, "output_video_tokens", OUTPUT, ("output_cost_per_video_token", OUTPUT_RATE))
    ] = 0
    reasoning: Annotated[
        int,
        Meter(
            a.REASONING_TOKENS, "reasoning_tokens", OUTPUT, ("output_cost_per_reasoning_token", OUTPUT_RATE), subset_of=OUTPUT
        ),
    ] = 0  # fmt: skip
    """Of `output`: the tokens spent on reasoning."""
    web_searches: Annotated[
        int, Meter(a.WEB_SEARCHES, "web_searches", TOOLS, ("search_context_cost_per_query.search_context_size_medium",))
    ] = 0
    file_searches: Annotated[int, Meter(a.FILE_SEARCHES, "file_searches", TOOLS)] = 0
    code_sessions: Annotated[int, Meter(a.CODE_SESSIONS, "code_sessions", TOOLS)] = 0
    maps_queries: Annotated[
        int, Meter(a.MAPS_QUERIES, "maps_queries", TOOLS, ("google_maps_grounding_cost_per_query",))
    ] = 0
    session_ms: Annotated[int, Meter(a.SESSION_MS, "session_ms", TOOLS, per=3_600_000)] = 0
    """Milliseconds during which a hosted agent's session was running, which is billed by the hour."""
    images: Annotated[int, Meter(a.IMAGES, "images", OTHER, ("output_cost_per_image", "input_cost_per_image"))] = 0
    """Images made, where they are not counted in tokens."""
    audio_input_ms: Annotated[
        int,
        Meter(
            a.AUDIO_INPUT_MS, "audio_input_ms", OTHER, ("input_cost_per_second", "input_cost_per_audio_per_second"), 1000
        ),
    ] = 0  # fmt: skip
    """Milliseconds of audio heard, where it is not counted in tokens."""
    audio_output_ms: Annotated[
        int, Meter(a.AUDIO_OUTPUT_MS, "audio_output_ms", OTHER, ("output_cost_per_second",), 1000)
    ] = 0
    video_output_ms: Annotated[
        int,
        Meter(
            a.VIDEO_OUTPUT_MS, "video_output_ms", OTHER, ("output_cost_per_video_per_second", "output_cost_per_second"), 1000
        ),
    ] = 0  # fmt: skip
    characters: Annotated[int, Meter(a.CHARACTERS, "characters", OTHER, ("input_cost_per_character",))] = 0
    """Characters of input (speech synthesis, some embeddings)."""
    pages: Annotated[int, Meter(a.PAGES, "pages", OTHER, ("ocr_cost_per_page",))] = 0
    queries: Annotated[int, Meter(a.QUERIES, "queries", OTHER, ("input_cost_per_query",))] = 0
    """Searches of a reranker or a search API."""
    training_tokens: Annotated[
        int, Meter(a.TRAINING_TOKENS, "training_tokens", OTHER, ("training_cost_per_token",))
    ] = 0
    """Tokens that a fine-tuning job trained on. LiteLLM's table has no price of training: only the user's own rates have."""
    reported_total: int | None = None
    """The provider's own total of tokens, where it gives one."""

    @property
    def total_input(self) -> int:
        """Input tokens, cache reads and writes and all modalities included (the convention's input_tokens)."""
        return sum(_prompt_counts(self))

    @property
    def total_output(self) -> int:
        return sum(_output_counts(self))

    @property
    def total(self) -> int:
        return self.total_input + self.total_output

    def inclusive(self) -> dict[str, int]:
        """The totals of the conventions, each with its parts in it, by the ends of their names."""
        return {
            "input_tokens": self.total_input,
            "output_tokens": self.total_output,
            "cache_read.input_tokens": sum(_read_counts(self)),
            "cache_write.input_tokens": sum(_write_counts(self)),
            "reasoning.output_tokens": self.reasoning,
        }


METERS: Final[dict[str, Meter]] = {
    name: hint.__metadata__[0] for name, hint in Usage.__annotations__.items() if hasattr(hint, "__metadata__")
}
"""Field of `Usage` -> its row."""
TOKEN_METERS: Final = tuple(name for name, meter in METERS.items() if meter.counts_tokens and not meter.subset_of)
"""The disjoint meters of tokens."""
PROMPT_METERS: Final = tuple(name for name in TOKEN_METERS if METERS[name].group != OUTPUT)
NON_TOKEN_METERS: Final = tuple(name for name, meter in METERS.items() if not meter.counts_tokens)
"""Meters that are not tokens of a prompt or an answer."""


def counts_of(*meters: str) -> "itemgetter[tuple[int, ...]]":
    """A function of a usage: the counts of at least two meters, as a tuple."""
    return itemgetter(*(Usage._fields.index(meter) for meter in meters))


def _parts(group: str) -> tuple[str, ...]:
    """The meters of a group without the one named for it, which takes what the others leave."""
    return tuple(name for name in TOKEN_METERS if METERS[name].group == group and name != group)


INPUT_PARTS: Final = _parts(INPUT)
READ_PARTS: Final = _parts(CACHE_READ)
WRITE_PARTS: Final = tuple(reversed(_parts(CACHE_WRITE)))
OUTPUT_PARTS: Final = _parts(OUTPUT)
CACHED_PARTS: Final = {
    name: tuple(other for other in TOKEN_METERS if METERS[name].attribute in METERS[other].within)
    for name in INPUT_PARTS
}
"""Part of the input -> the meters that its inclusive total counts as well (audio read from the cache)."""

_prompt_counts: Final = counts_of(*PROMPT_METERS)
_output_counts: Final = counts_of(OUTPUT, *OUTPUT_PARTS)
_modal_inputs: Final = counts_of(*INPUT_PARTS, *READ_PARTS)
_modal_outputs: Final = counts_of(*OUTPUT_PARTS)
_read_counts: Final = counts_of(CACHE_READ, *READ_PARTS)
_write_counts: Final = counts_of(CACHE_WRITE, *WRITE_PARTS)
non_token_counts: Final = counts_of(*NON_TOKEN_METERS)


def from_totals(
    input: int = 0,  # noqa: A002 - the field's standard term
    output: int = 0,
    *,
    cache_read: int = 0,
    cache_write: int = 0,
    reasoning: int = 0,
    reported_total: int | None = None,
    **parts: int,
) -> Usage:
    """Split inclusive totals into disjoint meters.

    `input` includes everything read from the cache or written to it, `output` includes reasoning, and each of `input`,
    `output`, `cache_read` and `cache_write` includes its own parts (`cache_read_audio`, `cache_write_1h`, ...), but
    `input_audio` and its like are the uncached part only. Cache writes are at least the sum of their times to live: some
    providers state only these. Where else the parts contradict the total, the total stands and
    the parts are clamped, cache first, then modalities (rule R2): a sum of meters never exceeds what was billed.

    Raises:
        TypeError: a part is not a meter.
    """
    uncached = min(input, MAX_COUNT)
    cache_read = min(cache_read, uncached)
    uncached -= cache_read
    cache_write = min(
        max(cache_write, sum(parts.get(name, 0) for name in WRITE_PARTS)) if parts else cache_write, uncached
    )
    uncached -= cache_write
    output = min(output, MAX_COUNT)
    if parts:
        cache_read = _split_off(cache_read, READ_PARTS, parts)
        cache_write = _split_off(cache_write, WRITE_PARTS, parts)
        uncached = _split_off(uncached, INPUT_PARTS, parts)
        output = _split_off(output, OUTPUT_PARTS, parts)
    return Usage(
        input=uncached,
        cache_read=cache_read,
        cache_write=cache_write,
        output=output,
        reasoning=min(reasoning, output),
        reported_total=reported_total,
        **parts,
    )


def _split_off(total: int, names: tuple[str, ...], parts: dict[str, int]) -> int:
    """Clamp the named parts to what is left of the total, in order; returns the rest."""
    for name in names:
        if name in parts:
            parts[name] = min(parts[name], total)
            total -= parts[name]
    return total


_TOTALS_OF: Final = tuple(METERS[name].totals if name in METERS else (a.REPORTED_TOTAL,) for name in Usage._fields)


def to_attributes(usage: Usage) -> dict[str, int]:
    """The usage as span attributes: inclusive totals under the conventions' names, zero parts left out."""
    attributes = {a.INPUT_TOKENS: 0, a.OUTPUT_TOKENS: 0}
    for names, quantity in zip(_TOTALS_OF, usage, strict=True):
        if quantity:
            for name in names:
                attributes[name] = attributes.get(name, 0) + quantity
    if usage.reported_total == 0:
        attributes[a.REPORTED_TOTAL] = 0
    if any(_modal_inputs(usage)):
        attributes[a.TEXT_INPUT_TOKENS] = usage.total_input - sum(_modal_inputs(usage))
    if any(_modal_outputs(usage)):
        attributes[a.TEXT_OUTPUT_TOKENS] = usage.output
    return attributes


_FIELDS_OF_ATTRIBUTES: Final = {
    **{meter.attribute: name for name, meter in METERS.items()},
    a.REPORTED_TOTAL: "reported_total",
}
USAGE_ATTRIBUTES: Final = (*(meter.attribute for meter in METERS.values()), a.REPORTED_TOTAL)
"""Every usage attribute."""


def exact_count(value: object) -> int | None:
    """A count as other senders write it: 12, 12.0 or "12"; None for anything that is not one, or above the column's type."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None


def from_attributes(attributes: Mapping[str, object]) -> Usage | None:
    """The usage that a span carries: the inverse of `to_attributes`.

    None where it carries none, or one count that is not a count: the others alone would be a wrong price.
    """
    fields: dict[str, int] = {}
    for attribute in attributes.keys() & _FIELDS_OF_ATTRIBUTES.keys():
        value = attributes[attribute]
        if value is not None:
            exact = exact_count(value)
            if exact is not None:
                fields[_FIELDS_OF_ATTRIBUTES[attribute]] = exact
            elif attribute != a.REPORTED_TOTAL:
                return None
    if not fields:
        return None
    for name, parts in CACHED_PARTS.items():
        if name in fields:
            fields[name] = max(0, fields[name] - sum(fields.get(part, 0) for part in parts))
    return from_totals(**fields)
