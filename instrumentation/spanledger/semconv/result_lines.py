"""The lines of a batch's result file within one span: what each used, in short keys.

A line is an object: `i` the id of what was billed, `r` of the response, `m` the model, `t` the tier, `g` the geography,
`s` the speed, `o` the operation (where it is not the span's), `z` size and `q` quality, `c` Unix seconds, `u` the meters that are not zero, `n` what of
the usage is not read, `d` what else is in doubt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

from spanledger.runtime.untrusted_json import Json, count, label, mapping, parse_json
from spanledger.semconv import attributes as a
from spanledger.semconv.usage import Usage, to_attributes

LABELS: Final = {
    "i": a.JOB_ID,
    "r": a.RESPONSE_ID,
    "m": a.RESPONSE_MODEL,
    "t": a.SERVICE_TIER,
    "g": a.INFERENCE_GEO,
    "s": a.SPEED,
    "o": a.OPERATION,
    "z": a.MEDIA_SIZE,
    "q": a.MEDIA_QUALITY,
    "n": a.USAGE_UNREAD,
    "d": a.USAGE_DOUBTS,
}
"""Key of a line -> the span attribute of the same meaning."""
ENCODE: Final = json.JSONEncoder(separators=(",", ":")).encode
MAX_LINES: Final = 1000
"""Lines in a span; we write 500."""


def entry(usage: Usage, labels: Mapping[str, str | None], created: int | None) -> str:
    """One line, as JSON: text, which the garbage collector does not look at.

    `labels`: span attribute -> its value, those of `LABELS`; what is None is left out.
    """
    line: Json = {key: value for key, name in LABELS.items() if (value := labels.get(name)) is not None}
    if created is not None:
        line["c"] = created
    line["u"] = {name: value for name, value in zip(Usage._fields, usage, strict=True) if value}
    return ENCODE(line)


def joined(entries: Iterable[str]) -> str:
    """Lines as the attribute `spanledger.result.lines`."""
    return f"[{','.join(entries)}]"


def usage_of(line: Json) -> Usage:
    """The meters of a line; what is no count is left out."""
    used = mapping(line, "u")
    counts = {name: n for name in used if name in Usage._fields and (n := count(used, name)) is not None}
    return Usage(**counts)


def attributes_of_lines(text: object) -> Iterator[tuple[dict[str, Any], Usage]]:
    """The span attributes that each line stands for, and its usage."""
    lines = parse_json(text) if isinstance(text, str) else None
    for item in cast("list[object]", lines)[:MAX_LINES] if isinstance(lines, list) else ():
        line = mapping(item)
        attributes: dict[str, Any] = {name: value for key, name in LABELS.items() if (value := label(line, key))}
        if a.JOB_ID not in attributes:
            continue
        created = count(line, "c")
        if created is not None:
            attributes[a.JOB_CREATED] = created
        usage = usage_of(line)
        attributes[a.USAGE_SOURCE] = "exact"
        yield {**attributes, **to_attributes(usage)}, usage
