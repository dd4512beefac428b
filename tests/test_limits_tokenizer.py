"""A tokenizer counts a prompt where its bound would refuse the call."""

from __future__ import annotations

import threading
import time
from typing import Any

import openai
import pytest

import spanledger
from conftest import Recorded
from limited_calls import BLOCK, balance
from spanledger import BudgetExceeded
from spanledger.limits.estimate import tokenizer
from spanledger_clickhouse.demo.loopback_provider import Provider


@pytest.fixture
def tiktoken(no_tokenizer, monkeypatch) -> threading.Event:
    """tiktoken with a small table of its own, which is loaded when the event is set: the real ones are downloaded."""
    import tiktoken as real

    loaded = threading.Event()

    ranks = {bytes([n]): n for n in range(256)} | {b"wo": 256, b"rd": 257, b"word": 258, b" word": 259, b" wo": 260}
    encoding = real.Encoding("small", pat_str=r" ?\w+|\W", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(real, "encoding_for_model", lambda _: loaded.wait(10) and encoding)
    monkeypatch.setattr(tokenizer, "_encodings", {})
    monkeypatch.setattr(tokenizer, "installed", lambda: True)
    return loaded


def wait_for_the_tokenizer(loaded: threading.Event) -> None:
    loaded.set()
    while tokenizer.token_counter("openai", "gpt-5.4-mini") is None:
        time.sleep(0.01)


def test_a_prompt_over_its_cap_is_counted_by_the_tokenizer_before_it_is_refused(
    limited, ledger: Recorded, provider: Provider, tiktoken
):
    limited("5", BLOCK + "[request]\nmax_input_tokens = 700\n")
    prompt = [{"role": "user", "content": "word" + " word" * 499}]

    def call(messages: Any) -> None:
        with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
            client.chat.completions.create(model="gpt-5.4-mini", messages=messages, max_tokens=100)

    with pytest.raises(BudgetExceeded, match="tokens of input, and 700 are allowed"):
        call(prompt)  # 2,499 bytes; the tokenizer is being loaded
    wait_for_the_tokenizer(tiktoken)
    call(prompt)
    assert len(provider.sold) == 1
    with pytest.raises(BudgetExceeded, match=r"may use 1,6\d\d tokens of input"):
        call([{"role": "user", "content": " word" * 1500}])


def test_a_call_that_fits_its_budget_by_the_tokenizer_is_allowed(
    limited, ledger: Recorded, provider: Provider, tiktoken
):
    wait_for_the_tokenizer(tiktoken)
    limited("0.005", BLOCK)
    with spanledger.attribution(user="ada"), openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
        client.chat.completions.create(
            model="gpt-5.4-mini", messages=[{"role": "user", "content": " word" * 2000}], max_tokens=10
        )
    assert balance()[1] == 0
    assert tokenizer.token_counter("anthropic", "claude-sonnet-4-6") is None
