"""Attribution of a call from baggage; if it is missing, the call site and the reason."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry import baggage, context

from conftest import Recorded
from spanledger import attribution, carry
from spanledger.context.baggage import budget_dimensions
from spanledger_clickhouse.demo.loopback_provider import Provider


def within(**entries: object):
    current = context.get_current()
    for key, value in entries.items():
        current = baggage.set_baggage(key.replace("__", "."), value, current)
    return current


def call(provider: Provider) -> None:
    with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
        client.embeddings.create(model="text-embedding-3-small", input="who is it?")


def called_with(provider: Provider, current: context.Context) -> None:
    token = context.attach(current)
    try:
        call(provider)
    finally:
        context.detach(token)


WHO = ("user_id", "session_id", "request_id", "feature", "tenant_id", "customer_tier", "conversation_id")


def test_baggage_becomes_columns(provider: Provider, ledger: Recorded):
    called_with(
        provider,
        within(
            user__id="ada",
            session__id="s-1",
            spanledger__request__id="r-1",
            spanledger__feature="summarize",
            spanledger__tenant__id="acme",
            spanledger__tier="gold",
            gen_ai__conversation__id="c-1",
            spanledger__label__team="blue",
            unrelated="x",
        ),
    )
    row = ledger.row
    assert [row[name] for name in WHO] == ["ada", "s-1", "r-1", "summarize", "acme", "gold", "c-1"]
    assert row["labels"] == {"team": "blue"}
    assert (row["attribution_reason"], row["code_file"], row["code_line"]) == ("", "", 0)


@pytest.mark.parametrize(
    ("alias", "column"),
    [
        ("enduser.id", "user_id"),
        ("user_id", "user_id"),
        ("session_id", "session_id"),
        ("request.id", "request_id"),
        ("request_id", "request_id"),
        ("feature", "feature"),
        ("feature_id", "feature"),
        ("tenant.id", "tenant_id"),
        ("tenant_id", "tenant_id"),
        ("tier", "customer_tier"),
    ],
)
def test_other_spellings_are_read(alias: str, column: str, provider: Provider, ledger: Recorded):
    called_with(provider, baggage.set_baggage(alias, "x"))
    assert ledger.row[column] == "x"


@pytest.mark.parametrize("nobody", [None, "", "  ", "\t\n", "\u200b", "\x00", False])
def test_an_empty_user_value_is_missing(nobody: object, provider: Provider, ledger: Recorded):
    called_with(provider, within(user__id=nobody, spanledger__feature="chat", spanledger__request__id="r-1"))
    row = ledger.row
    assert (row["user_id"], row["feature"], row["attribution_reason"]) == (None, "chat", "partial")


@pytest.mark.parametrize("nobody", ["", " ", False])
def test_a_scope_without_a_user_clears_the_user(nobody: Any, provider: Provider, ledger: Recorded):
    with attribution(user="ada", feature="chat"), attribution(user=nobody):
        call(provider)
    assert (ledger.row["user_id"], ledger.row["feature"]) == (None, "chat")


def test_a_numeric_id_is_a_user(provider: Provider, ledger: Recorded):
    called_with(provider, within(user__id=0))
    assert ledger.row["user_id"] == "0"


@pytest.mark.parametrize("nobody", [None, "", " ", False])
def test_a_missing_user_has_no_budget(nobody: object):
    assert budget_dimensions(within(user__id=nobody, spanledger__feature="chat")) == {"spanledger.feature": "chat"}


@pytest.mark.parametrize("nobody", [None, "", " ", False])
def test_missing_values_are_not_carried_to_a_worker(nobody: object):
    token = context.attach(within(user__id=nobody, spanledger__feature="chat"))
    try:
        assert carry() == {"spanledger.feature": "chat"}
    finally:
        context.detach(token)


def test_a_label_with_the_value_none_is_dropped(provider: Provider, ledger: Recorded):
    with attribution(user="ada", labels={"team": None, "plan": "pro"}):
        call(provider)
    assert ledger.row["labels"] == {"plan": "pro"}


def test_the_canonical_key_wins(provider: Provider, ledger: Recorded):
    called_with(provider, within(user_id="alias", user__id="ada", enduser__id="other"))
    assert ledger.row["user_id"] == "ada"


def test_values_are_truncated_and_sanitized(provider: Provider, ledger: Recorded):
    called_with(provider, within(user__id="a\x00b\n" + "c" * 500, spanledger__feature=7))
    row = ledger.row
    assert row["user_id"].startswith("ab" + "c" * 200)
    assert len(row["user_id"]) == 256, "and its end keeps it from being another's that begins alike"
    assert row["feature"] == "7"


def test_an_unattributed_call_has_null_columns_and_a_call_site(provider: Provider, ledger: Recorded):
    thread = threading.Thread(target=call, args=(provider,))
    thread.start()
    thread.join()
    row = ledger.row
    assert [row[name] for name in WHO] == [None, None, None, None, "", None, None]
    assert row["attribution_reason"] == "context_lost"
    assert (row["code_file"], row["code_function"]) == (__file__, "call")
    line = Path(__file__).read_text().splitlines()[row["code_line"] - 1]
    assert "client.embeddings.create" in line


def test_a_trace_without_baggage_has_the_reason_no_baggage(provider: Provider, ledger: Recorded):
    with ledger.tracing.get_tracer("app").start_as_current_span("GET /"):
        call(provider)
    assert ledger.row["attribution_reason"] == "no_baggage"


def test_some_baggage_is_partial(provider: Provider, ledger: Recorded):
    called_with(provider, within(user__id="ada", spanledger__feature="chat"))
    row = ledger.row
    assert (row["attribution_reason"], row["user_id"], row["request_id"]) == ("partial", "ada", None)


def test_the_call_is_a_child_of_the_current_span(provider: Provider, ledger: Recorded):
    with ledger.tracing.get_tracer("app").start_as_current_span("GET /") as span:
        call(provider)
    row, parent = ledger.row, span.get_span_context()
    assert (row["trace_id"], row["parent_span_id"]) == (f"{parent.trace_id:032x}", f"{parent.span_id:016x}")
