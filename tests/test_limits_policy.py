"""Policy files: what a valid one contains, and why an invalid one is rejected."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

import spanledger
from limiters import USD, blocking
from spanledger.limits import api
from spanledger.limits.limiter import Decision
from spanledger.limits.policy import Policy
from spanledger.limits.policy_documents import PolicyError, load

BERLIN = ZoneInfo("Europe/Berlin")


GOOD = """
[[budget]]
name = "all"
window = "month"
amount_usd = 10000
action = "block"
[[budget]]
name = "a user's hour"
window = "hour"
amount_usd = 1.5
action = "block"
per = "user"
scope = { tier = "free" }
zone = "Europe/Berlin"
fail_closed = true
[request]
max_input_tokens = 32000
max_output_tokens = 4096
"""


def test_a_policy_file_is_read_with_the_shortest_period_first(tmp_path: Path):
    file = tmp_path / "limits.toml"
    file.write_text(GOOD)
    assert load(str(file)) == Policy(
        (blocking("a user's hour", "hour", 15 * USD // 10, {"tier": "free"}, "user", BERLIN, True), blocking("all", "month", 10_000 * USD)),
        32_000,
        4_096,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[budget]]\nwindow='day'\namount_usd=1", "budget 1 has no name"),
        ("[[budget]]\nname='a'\nwindow='week'\namount_usd=1", "use hour, day, month"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=-1", "dollars from 0.000001"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=true", "dollars from 0.000001"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=nan", "dollars from 0.000001"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=1\nzone='Mars'", "is not a valid time zone"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=1\nper='planet'", "use user, feature"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=1\nscope={planet='x'}", "scope must be a table"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=1\nfail_closed='yes'", "true or false"),
        (
            "[[budget]]\nname='a'\nwindow='day'\namount_usd=1\n[[budget]]\nname='a'\nwindow='day'\namount_usd=2",
            "duplicate budget",
        ),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=1\naction='shout'", "use warn, downgrade, block"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=1\nthresholds=[0.8, 'x']", "use shares such as"),
        ("[[budgets]]", "'budgets' is not a valid key"),
        ("[request]\nmax_input_tokens='many'", "a number of tokens"),
        ("budget = 3 = 4", "not valid TOML"),
    ],
)
def test_an_invalid_policy_is_rejected_with_its_reason(text: str, message: str, tmp_path: Path):
    file = tmp_path / "limits.toml"
    file.write_text(text)
    with pytest.raises(PolicyError, match=message):
        load(str(file))


def test_a_policy_file_that_is_not_utf8_is_rejected(tmp_path: Path):
    file = tmp_path / "limits.toml"
    file.write_bytes(b"[[budget]]\nname = '\xff'\n")
    with pytest.raises(PolicyError, match="not valid TOML"):
        load(str(file))


def test_a_missing_policy_file_enforces_nothing_and_is_logged(monkeypatch, caplog):
    api.reset()
    monkeypatch.setenv("SPANLEDGER_LIMITS", "/nowhere/limits.toml")
    allowed = spanledger.check_request_allowed(
        provider="openai", model="gpt-5.4-mini", input_tokens=1, max_output_tokens=1
    )
    assert allowed == Decision(True).as_dict()
    assert "no limits are enforced: SPANLEDGER_LIMITS=/nowhere/limits.toml cannot be read" in caplog.text
    api.reset()
