"""`spanledger prices` and its price table: the prices in force, and the cost of a usage."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from spanledger.pricing import calculator, price_table, quote
from spanledger.semconv.usage import from_totals
from spanledger_clickhouse.cli import main

pytestmark = [pytest.mark.clock, pytest.mark.services]


@pytest.fixture(autouse=True)
def own_prices(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(price_table, "_prices", None)


def invoke(*arguments: str, stdin: str | None = None):
    return CliRunner().invoke(main, list(arguments), input=stdin)


def test_prices_shows_source_version_checksum_and_age():
    [bundled, retired] = json.loads(invoke("prices", "--json").output)
    assert (bundled["source"], bundled["version"], bundled["models"]) == ("bundled", "1.110.2", 4876)
    assert len(bundled["sha256"]) == 64
    assert bundled["age_days"] >= 0
    assert retired["source"] == "retired"
    assert "1.110.2" in invoke("prices").output


def test_quote_explains_quantity_times_rate():
    done = invoke(
        "prices",
        "quote",
        "--provider",
        "anthropic",
        "--model",
        "claude-opus-5-5",
        "--input",
        "10000",
        "--cache-read",
        "8000",
        "--output",
        "400",
    )
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["input", "2,000", "x", "4,000,000", "pUSD", "=", "8,000,000,000", "pUSD", "input_cost_per_token"],
        ["cache_read", "8,000", "x", "200,000", "pUSD", "=", "1,600,000,000", "pUSD", "cache_read_input_token_cost"],
        ["output", "400", "x", "20,000,000", "pUSD", "=", "8,000,000,000", "pUSD", "output_cost_per_token"],
    ]
    assert "0.017600000000 USD" in lines[3]


def test_quote_of_an_unknown_model_fails_with_a_message():
    done = invoke("prices", "quote", "--provider", "openai", "--model", "no-such-model", "--input", "1")
    assert (done.exit_code, done.output) == (1, "not priced: unpriced:no_model\n")


def test_quote_jsonl_returns_a_line_for_every_input_line():
    asked = [
        {"provider": "openai", "model": "gpt-4.1-mini", "usage": {"input": 1000, "output": 100}},
        {"provider": "openai", "model": "no-such-model", "usage": {"input": 1}},
        {"provider": "openai", "model": "gpt-4.1-mini", "usage": None},
        {"provider": "openai", "model": "gpt-4.1-mini", "usage": {"input": 1000}, "tier": "batch"},
        {"provider": 1},
    ]
    lines = [json.dumps(line) for line in asked]
    output = invoke("prices", "quote", "--jsonl", stdin="\n".join([*lines, "no json", ""])).output
    answers = [json.loads(line) for line in output.splitlines()]
    assert [answer["total_picousd"] for answer in answers] == [560_000_000, None, None, 200_000_000, None, None]
    assert [answer["status"] for answer in answers] == [
        "priced", "unpriced:no_model", "unpriced:no_usage", "priced", "error", "error",
    ]  # fmt: skip
    assert answers[0]["components"] == {"input": 400_000_000, "output": 160_000_000}


TABLE = {"gpt-4.1-mini": {"litellm_provider": "openai", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}}


def test_a_custom_price_table_is_used(tmp_path: Path, monkeypatch):
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(TABLE))
    monkeypatch.setenv("SPANLEDGER_PRICES_FILE", str(file))
    price = quote("openai", "gpt-4.1-mini", {"input": 1, "output": 1})
    assert (price.total_picousd, price.source, price.version) == (3_000_000, "file", "prices.json")


def wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(price_table.TABLE_IN_WHEEL, json.dumps(TABLE))
        archive.writestr("litellm/__init__.py", "raise SystemExit('executed')")
    return path


def test_a_wheel_is_read_and_not_executed(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SPANLEDGER_PRICES_FILE", str(wheel(tmp_path / "litellm-1.110.2-py3-none-any.whl")))
    price = quote("openai", "gpt-4.1-mini", {"input": 1})
    assert (price.total_picousd, price.source, price.version) == (1_000_000, "file", "litellm 1.110.2")
    assert "litellm" not in sys.modules


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.107.0", "1.107.0rc1"])
def test_a_wheel_of_a_compromised_release_is_refused(version: str, tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setenv("SPANLEDGER_PRICES_FILE", str(wheel(tmp_path / f"litellm-{version}-py3-none-any.whl")))
    assert quote("openai", "gpt-4.1-mini", {"input": 1}).source == "bundled"
    assert [f"litellm {version} is a compromised release" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("version", "source"), [("1.109.0", "bundled"), ("1.111.0", "litellm"), ("1.107.0", "bundled")]
)
def test_an_installed_litellm_is_used_if_it_is_newer_and_valid(version: str, source: str, tmp_path: Path, monkeypatch):
    (tmp_path / "litellm").mkdir()
    (tmp_path / "litellm/__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / price_table.TABLE_IN_WHEEL).write_text(json.dumps(TABLE))
    (tmp_path / f"litellm-{version}.dist-info").mkdir()
    (tmp_path / f"litellm-{version}.dist-info/METADATA").write_text(f"Name: litellm\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert quote("openai", "gpt-4.1-mini", {"input": 1}).source == source
    assert "litellm" not in sys.modules


def test_overrides_add_prices_and_names(tmp_path: Path, monkeypatch):
    file = tmp_path / "prices.toml"
    file.write_text(
        '[aliases]\n"my-deployment" = "azure/gpt-4.1-mini"\n"arn:aws:bedrock:us-east-1:1:application-inference-profile/x" = '
        '"us.anthropic.claude-opus-5-5"\n[models."gpt-4.1-mini"]\nlitellm_provider = "openai"\ninput_cost_per_token = 5e-07\n'
        "output_cost_per_token = 0.000001\n"
    )
    monkeypatch.setenv("SPANLEDGER_PRICE_OVERRIDES", str(file))
    own = quote("openai", "gpt-4.1-mini", {"input": 1, "output": 1})
    assert (own.total_picousd, own.source) == (1_500_000, "override")
    deployment = quote("azure.ai.openai", None, {"input": 1}, request_model="my-deployment")
    assert (deployment.key, deployment.flags) == ("azure/gpt-4.1-mini", ("alias",))
    profile = quote(
        "aws.bedrock", None, {"input": 1}, request_model="arn:aws:bedrock:us-east-1:1:application-inference-profile/x"
    )
    assert profile.key == "us.anthropic.claude-opus-5-5"


def test_a_custom_deployment_name_needs_a_mapping():
    assert (
        quote("azure.ai.openai", None, {"input": 1}, request_model="my-deployment").status == "unpriced:needs_mapping"
    )
    arn = "arn:aws:bedrock:us-east-1:1:application-inference-profile/x"
    assert quote("aws.bedrock", None, {"input": 1}, request_model=arn).status == "unpriced:needs_mapping"


@pytest.mark.parametrize(
    ("provider", "model", "key", "flags"),
    [
        ("openai", "gpt-4.1-mini", "gpt-4.1-mini", ("exact",)),
        ("openai", "GPT-4.1-Mini", "gpt-4.1-mini", ("variant",)),
        ("openai", "ft:gpt-4.1-mini-2025-04-14:acme::abc", "ft:gpt-4.1-mini-2025-04-14", ("exact",)),
        ("anthropic", "claude-sonnet-4-6", "claude-sonnet-4-6", ("exact",)),
        ("gcp.gemini", "models/gemini-3.5-flash", "gemini/gemini-3.5-flash", ("exact",)),
        ("gcp.vertex_ai", "publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash", ("exact",)),
        (
            "aws.bedrock",
            "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-pro-v1:0",
            "amazon.nova-pro-v1:0",
            ("exact",),
        ),
        ("openai", "gpt-4o-audio-preview", "gpt-4o-audio-preview", ("archived",)),
    ],
)
def test_names_resolve_with_flags_for_uncertain_matches(provider, model, key, flags):
    price = quote(provider, model, {"input": 1, "output": 1})
    assert (price.key, price.flags) == (key, flags)


def test_a_date_that_affects_the_price_is_kept():
    dated = quote("openai", "gpt-4o-2024-05-13", {"input": 1})
    plain = quote("openai", "gpt-4o", {"input": 1})
    assert dated.total_picousd == 2 * plain.total_picousd


def test_the_cost_reported_by_the_provider_wins_and_both_are_kept():
    price = quote("x_ai", "grok-4", {"input": 1000, "output": 10}, provider_cost_usd="0.005")
    assert (price.status, price.total_picousd, price.source) == ("provider_reported", 5_000_000_000, "provider")
    assert price.computed_picousd == quote("x_ai", "grok-4", {"input": 1000, "output": 10}).total_picousd


def test_every_tool_fee_is_a_component_of_the_price():
    price = quote("openai", "gpt-4.1-mini", {"input": 10, "web_searches": 3, "file_searches": 2, "code_sessions": 1})
    assert {part.meter: part.amount for part in price.components} == {
        "input": 4_000_000,
        "web_searches": 75_000_000_000,
        "file_searches": 5_000_000_000,
        "code_sessions": 30_000_000_000,
    }


MODELS = st.sampled_from(
    [("openai", "gpt-4.1-mini"), ("openai", "gpt-6.1-sol"), ("anthropic", "claude-opus-5-5"), ("gcp.gemini", "gemini-3.5-flash"),
     ("aws.bedrock", "us.anthropic.claude-opus-5-5"), ("dashscope", "qwen-flash"), ("x_ai", "grok-4")]
)  # fmt: skip
TOKENS = st.integers(0, 100_000)


@given(MODELS, TOKENS, TOKENS, TOKENS, TOKENS, st.sampled_from(["", "batch", "flex", "priority"]))
def test_components_sum_to_the_total_in_whole_picodollars(model, total, output, read, write, tier):
    price = quote(*model, from_totals(total, output, cache_read=read, cache_write=write), tier=tier)
    assert price.total_picousd == sum(part.amount for part in price.components)
    assert all(type(part.amount) is int and type(part.rate) is int and part.amount >= 0 for part in price.components)


@given(MODELS, TOKENS, TOKENS, TOKENS, TOKENS, st.sampled_from(["", "batch", "flex", "priority"]))
def test_the_shortcut_for_flat_rates_changes_no_price(model, total, output, read, reasoning, tier):
    usage = from_totals(
        total, output, cache_read=read, cache_write=read // 2, reasoning=reasoning, input_audio=read // 3
    )
    now = quote(*model, usage, tier=tier)
    long_way = calculator._price(
        calculator._resolve(price_table.prices(), model[0], model[1], "", "", "", "", ""),
        usage,
        tier,
        "",
        "",
        None,
        None,
    )
    assert now == long_way


@given(MODELS, st.integers(0, 30_000), st.integers(0, 30_000), st.integers(0, 1000), st.integers(0, 1000))
def test_more_tokens_never_cost_less_within_one_band(model, total, output, more_in, more_out):
    less = quote(*model, from_totals(total, output))
    more = quote(*model, from_totals(total + more_in, output + more_out))
    assert less.total_picousd <= more.total_picousd


def test_show_lists_every_provider_of_a_model():
    found = json.loads(invoke("prices", "show", "gpt-4.1-mini", "--json").output)
    assert {"gpt-4.1-mini", "azure/gpt-4.1-mini"} <= {entry["key"] for entry in found}
    assert "= 0.4 USD a million" in invoke("prices", "show", "gpt-4.1-mini").output
    unknown = invoke("prices", "show", "no-such-model")
    assert unknown.exit_code == 1
    assert "SPANLEDGER_PRICE_OVERRIDES" in unknown.output


def test_diff_lists_added_removed_and_changed_models(tmp_path: Path):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    cheaper = {"gpt-4.1-mini": {**TABLE["gpt-4.1-mini"], "input_cost_per_token": 5e-07}}
    before.write_text(json.dumps({**TABLE, "old": TABLE["gpt-4.1-mini"]}))
    after.write_text(json.dumps({**cheaper, "new": TABLE["gpt-4.1-mini"]}))
    assert json.loads(invoke("prices", "diff", str(before), str(after), "--json").output) == {
        "added": ["new"],
        "removed": ["old"],
        "changed": [
            {"model": "gpt-4.1-mini", "field": "input_cost_per_token", "before": "1 USD/M", "after": "0.5 USD/M"}
        ],
    }
    assert (
        "1 models added, 1 removed, 1 with 1 changed rates" in invoke("prices", "diff", str(before), str(after)).output
    )
    assert "cannot be read as a price table" in invoke("prices", "diff", "/no/such/file", "bundled").output


def test_check_accepts_the_snapshot_and_reports_errors_of_a_custom_table(tmp_path: Path, monkeypatch):
    found = json.loads(invoke("prices", "check", "--json").output)
    problems = [finding for finding in found if "days old" not in finding["problem"]]
    assert {finding["model"] for finding in problems} == {"gemini-2.5-flash"}, "a slip of litellm 1.110.2"
    assert all(finding["problem"].endswith("(corrected)") for finding in problems)
    file = tmp_path / "prices.toml"
    file.write_text('[aliases]\n"mine" = "no-such-model"\n[models.own]\ninput_cost_per_token = 1e-06\n')
    monkeypatch.setenv("SPANLEDGER_PRICE_OVERRIDES", str(file))
    monkeypatch.setattr(price_table, "_prices", None)
    done = invoke("prices", "check")
    assert done.exit_code == 1
    assert "your alias names 'no-such-model', which no table has" in done.output
    assert "your rates lack litellm_provider" in done.output


def encrypted(path: Path) -> None:
    """A wheel whose table says that it is encrypted (the flag in both headers)."""
    wheel(path)
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(price_table.TABLE_IN_WHEEL, b" " * (price_table.MAX_TABLE_BYTES + 1))


def table_with(number: str) -> Callable[[Path], object]:
    return lambda path: path.write_text('{"m": {"input_cost_per_token": ' + number + "}}")


def large(path: Path) -> None:
    path.touch()
    os.truncate(path, price_table.MAX_TABLE_BYTES + 1)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "deep.json": (lambda path: path.write_text("[" * 200_000), "nested too deeply"),
    "large.json": (large, "is larger than 64 MB"),
    "exponent.json": (table_with("1e308"), "a number that is no price: 1e308"),
    "digits.json": (table_with("9" * 5_000_000), "a number that is no price: 99999999999999999999"),
    "nan.json": (table_with("NaN"), "a number that is no price: NaN"),
    "pipe.json": (os.mkfifo, "is not a regular file"),
    "folder.json": (Path.mkdir, "is not a regular file"),
    "missing.json": (lambda path: None, "does not exist"),
    "litellm-2.0.0-py3-none-any.whl": (encrypted, "cannot be unpacked"),
    "litellm-2.0.1-py3-none-any.whl": (bomb, "is larger than 64 MB"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_price_file_is_refused_in_one_line(name: str, tmp_path: Path, monkeypatch, caplog):
    make, reason = HOSTILE[name]
    make(tmp_path / name)
    monkeypatch.setenv("SPANLEDGER_PRICES_FILE", str(tmp_path / name))
    assert quote("openai", "gpt-4.1-mini", {"input": 1}).source == "bundled"
    [record] = caplog.records
    assert reason in record.getMessage()
    assert len(record.getMessage()) < 400
    assert "\n" not in record.getMessage()
