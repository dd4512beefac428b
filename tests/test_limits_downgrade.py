"""Downgrades: the cheaper model of a budget near its end, and the features and calls that keep theirs."""

from __future__ import annotations

import openai
import pytest
from google import genai

import spanledger
from canned import INTERACTION, Canned
from conftest import Recorded
from limited_calls import BLOCK, CALLS, MESSAGES, background, balance, call_openai, spend
from spanledger import BudgetExceeded
from spanledger_clickhouse.demo.loopback_provider import Provider

CHEAPER = {
    "gpt-5.4-mini": "gpt-5.4-nano",
    "claude-sonnet-4-6": "claude-haiku-4-5",
    "gemini-3.5-flash": "gemini-3.1-flash-lite",
}


DOWNGRADE = 'action = "downgrade"\n[features.f.downgrade]\n' + "".join(f'"{a}" = "{b}"\n' for a, b in CHEAPER.items())


@pytest.mark.parametrize("style", CALLS)
def test_a_budget_near_its_end_downgrades_the_model(style: str, limited, ledger: Recorded, provider: Provider):
    limited("0.000001", DOWNGRADE)
    with spanledger.attribution(user="ada", feature="f", request_id="r"):
        CALLS[style](provider.url)
    row = ledger.row
    requested, replacement = next(pair for pair in CHEAPER.items() if pair[1] == row["request_model"])
    assert row["attributes"]["spanledger.downgrade.requested_model"] == requested
    assert row["attributes"]["spanledger.downgrade.reason"] == "budget 'u': 95% of $0.000001 for the month is used"
    assert provider.sold[-1].model == replacement == row["response_model"]
    assert row["cost_usd"] > 0
    assert balance() == (row["cost_usd"], 0)


def test_an_interaction_is_downgraded(limited, ledger: Recorded, canned: Canned):
    limited("0.000001", DOWNGRADE)
    canned.answers["/interactions"] = {**INTERACTION, "model": "gemini-3.1-flash-lite"}
    client = genai.Client(api_key="k", http_options={"base_url": canned.url})
    with spanledger.attribution(user="ada", feature="f"):
        client.interactions.create(model="gemini-3.5-flash", input="how much is it?")
    [(_, _, body)] = canned.asked
    assert (body["model"], body["input"]) == ("gemini-3.1-flash-lite", "how much is it?")
    assert ledger.row["request_model"] == "gemini-3.1-flash-lite"
    assert ledger.row["attributes"]["spanledger.downgrade.requested_model"] == "gemini-3.5-flash"


@pytest.mark.parametrize("rule", ["pinned = true", "critical = true"])
def test_a_pinned_or_critical_feature_keeps_its_model(rule: str, limited, ledger: Recorded, provider: Provider):
    limited("0.000001", DOWNGRADE.replace("[features.f.downgrade]", f"[features.f]\n{rule}\n[features.f.downgrade]"))
    with spanledger.attribution(user="ada", feature="f"):
        call_openai(provider.url)
    assert ledger.row["request_model"] == "gpt-5.4-mini"
    assert "spanledger.downgrade.reason" not in ledger.row["attributes"]


def test_a_critical_feature_is_never_refused_and_still_counted(limited, ledger: Recorded, provider: Provider):
    limited("0.000001", BLOCK + "[features.f]\ncritical = true\n")
    with spanledger.attribution(user="ada", feature="f"):
        call_openai(provider.url)
    assert balance() == (ledger.row["cost_usd"], 0)
    with spanledger.attribution(user="ada", feature="another"), pytest.raises(BudgetExceeded):
        call_openai(provider.url)


def test_a_model_without_a_cheaper_one_is_not_replaced(limited, ledger: Recorded, provider: Provider):
    limited("0.000001", 'action = "downgrade"\n[features."*".downgrade]\n"another" = "gpt-5.4-nano"\n')
    with spanledger.attribution(user="ada", feature="f"):
        call_openai(provider.url)
    assert ledger.row["request_model"] == "gpt-5.4-mini"


def test_a_model_in_the_url_is_not_replaced(limited, ledger: Recorded, canned: Canned):
    limited("1", 'action = "downgrade"\n[features."*"]\ndowngrade = { "gpt-5.4" = "gpt-5.4-mini" }\n')
    canned.answers["/chat/completions"] = {
        "id": "azure-1", "object": "chat.completion", "model": "gpt-5.4", "created": 1,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }  # fmt: skip
    spend("2")
    with spanledger.attribution(user="ada", feature="f"):
        for fixed in ({"azure_deployment": "gpt-5.4"}, {}):
            client = openai.AzureOpenAI(api_key="k", api_version="2026-01-01", azure_endpoint=canned.url, **fixed)
            client.chat.completions.create(model="gpt-5.4", messages=MESSAGES, max_tokens=100)
    assert [path.partition("?")[0] for _, path, _ in canned.asked] == [
        "/openai/deployments/gpt-5.4/chat/completions",
        "/openai/deployments/gpt-5.4-mini/chat/completions",
    ]
    unchanged, replaced = ledger.rows
    assert (unchanged["request_model"], "downgrade" in str(unchanged["attributes"])) == ("gpt-5.4", False)
    assert (replaced["request_model"], "downgrade" in str(replaced["attributes"])) == ("gpt-5.4-mini", True)


def test_the_row_of_a_background_response_names_its_downgrade(limited, ledger: Recorded, canned: Canned):
    usage = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}
    canned.answers["/responses"] = background("resp_less_1", "queued")
    canned.answers["/resp_less_1"] = background("resp_less_1", "completed", usage=usage)
    limited("1", 'action = "downgrade"\n[features."*"]\ndowngrade = { "gpt-5.4" = "gpt-5.4-mini" }\n')
    spend("2")
    client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
    with spanledger.attribution(user="ada", feature="f"):
        client.responses.create(model="gpt-5.4", input="x", background=True, max_output_tokens=100)
        client.responses.retrieve("resp_less_1")
    assert canned.asked[0][2]["model"] == "gpt-5.4-mini"
    row = ledger.row
    assert (row["request_model"], row["attributes"]["spanledger.downgrade.requested_model"]) == (
        "gpt-5.4-mini",
        "gpt-5.4",
    )
