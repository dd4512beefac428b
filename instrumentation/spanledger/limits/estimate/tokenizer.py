"""Tokens as tiktoken counts them, for OpenAI's models, where the application has it: nearer than a bound, and slower.

tiktoken fetches the table of an encoding once, from its cache or over the network, and takes its time. That happens in
a thread of its own; until it is there, the bound is all there is.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from spanledger.runtime.guard import log, quietly

MAX_CHARACTERS: Final = 100_000
"""Of a request: a longer one would hold the caller up for too long (about 20 ms for so many); the rest counts by bytes."""
PROVIDERS: Final = frozenset({"openai", "azure.ai.openai"})

_encodings: Final[dict[str, Any]] = {}
"""Model -> its encoding; None: not there yet, or none."""


@lru_cache(maxsize=1)
def installed() -> bool:
    return importlib.util.find_spec("tiktoken") is not None


def counter(provider: str, model: str) -> Callable[[str], int] | None:
    """How many tokens each text of one request has for a model; None where that is not known, or not yet."""
    if provider not in PROVIDERS or not installed():
        return None
    if model not in _encodings:
        if len(_encodings) >= 1000:  # names that nobody has bounded
            return None
        _encodings[model] = None
        threading.Thread(target=_load, args=(model,), name="spanledger-tokenizer", daemon=True).start()
    encoding = _encodings[model]
    if encoding is None:
        return None
    left = MAX_CHARACTERS

    def counted(text: str) -> int:
        nonlocal left
        left -= len(text)
        return len(encoding.encode_ordinary(text)) if left >= 0 else len(text.encode("utf-8", "surrogatepass"))

    return counted


def _load(model: str) -> None:
    with quietly("loading a tokenizer"):
        import tiktoken  # pyright: ignore[reportMissingImports]

        try:
            _encodings[model] = tiktoken.encoding_for_model(model)
        except KeyError:
            return  # a model that it does not know
        except OSError as error:  # of requests, or of the disk
            log.info("tiktoken has no table for %s (%s): tokens are bounded by bytes", model, type(error).__name__)
