"""Counts tokens with tiktoken for OpenAI models, if installed: more exact than the bound, and slower.

tiktoken fetches the table of an encoding once, from its cache or over the network, which is slow. It is loaded in
a background thread; until then, only the bound is available.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from spanledger.runtime.guard import log, quietly

MAX_CHARACTERS: Final = 100_000
"""Of a request: a longer one would block the caller too long (about 20 ms for this many); the rest is counted by bytes."""
PROVIDERS: Final = frozenset({"openai", "azure.ai.openai"})

_encodings: Final[dict[str, Any]] = {}
"""Model -> its encoding; None: not loaded yet, or unknown."""


@lru_cache(maxsize=1)
def installed() -> bool:
    return importlib.util.find_spec("tiktoken") is not None


def token_counter(provider: str, model: str) -> Callable[[str], int] | None:
    """A token counter for the texts of one request; None if the model's encoding is unknown or not loaded yet."""
    if provider not in PROVIDERS or not installed():
        return None
    if model not in _encodings:
        if len(_encodings) >= 1000:  # model names are unbounded input
            return None
        _encodings[model] = None
        threading.Thread(target=_load, args=(model,), name="spanledger-tokenizer", daemon=True).start()
    encoding = _encodings[model]
    if encoding is None:
        return None
    remaining = MAX_CHARACTERS

    def count_tokens(text: str) -> int:
        nonlocal remaining
        remaining -= len(text)
        return len(encoding.encode_ordinary(text)) if remaining >= 0 else len(text.encode("utf-8", "surrogatepass"))

    return count_tokens


def _load(model: str) -> None:
    with quietly("loading a tokenizer"):
        import tiktoken  # pyright: ignore[reportMissingImports]

        try:
            _encodings[model] = tiktoken.encoding_for_model(model)
        except KeyError:
            return  # unknown model
        except OSError as error:  # of requests, or of the disk
            log.info("tiktoken has no table for %s (%s): tokens are bounded by bytes", model, type(error).__name__)
