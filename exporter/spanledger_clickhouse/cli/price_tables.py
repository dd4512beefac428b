"""`spanledger prices show | diff | check | explain`: entries and errors of the price tables, price breakdown of a row."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from spanledger.pricing import Price, price_table
from spanledger.pricing.model_names import parse_model_name
from spanledger.pricing.price import Component
from spanledger.pricing.price_table import Overrides, Prices, Table
from spanledger.pricing.rates import GRAMMAR, Entry, Rate, attousd, compile_entry
from spanledger.runtime.untrusted_json import Json, mapping
from spanledger_clickhouse.cli.output import as_table, console, ledger, report_user_errors
from spanledger_clickhouse.prices import second_opinion
from spanledger_clickhouse.rows.rows import billed_call

STALE_DAYS: Final = 60
"""A table older than this misses models that its providers sell today."""
CORRECTED: Final = " (corrected)"
"""End of a finding that `pricing/data/corrections.toml` puts right."""
EXPLAINED: Final = " (explained)"
IMPLAUSIBLE_RATIO: Final = 50
"""A cached or batch rate this many times the plain rate is an error of the table."""


def price_breakdown(price: Price) -> Iterator[str]:
    """Each component as quantity x rate = amount, with the field of the table that gave the rate."""
    for part in price.components:
        yield _format_component(part)
    if price.total_picousd is None:
        yield f"not priced: {price.status}"
    else:
        usd = f"{price.total_picousd / 1e12:.12f}"
        yield f"{'total':<18} {price.total_picousd:>35,} picodollars = {usd} USD ({price.status})"
    if price.key:
        yield f"{price.key} in {price.source} {price.version} ({', '.join(price.flags)})"


def _format_component(part: Component) -> str:
    rate = f"{part.rate / 1e6:,.6f}".rstrip("0").rstrip(".")
    return f"{part.meter:<18} {part.quantity:>12,} x {rate:>20} pUSD = {part.amount:>18,} pUSD  {part.field}"


@click.command()
@click.argument("model")
@as_table
def show(model: str, as_json: bool) -> None:
    """Show the entries for MODEL in the price tables, of every provider, with former prices.

    \b
    Example:
      spanledger prices show gpt-4.1-mini
    """
    alias = price_table.prices().overrides.aliases.get(model)
    if alias is not None and not as_json:
        console().print(f"{model} is your name of {alias}")
    model_name = parse_model_name(alias or model)[0].lower().rpartition("/")[2]
    entries = [
        {"key": key, "source": table.source, "version": table.version, **table.models[key]}
        for table in price_table.prices().tables
        for key in table.models
        if key.lower() == model_name or key.lower().endswith((f"/{model_name}", f".{model_name}"))
    ]
    if not entries:
        raise click.ClickException(
            f"no table has {model!r}. Map a name of your own (a deployment, a tuned model) in the "
            "file of SPANLEDGER_PRICE_OVERRIDES; see docs/pricing.md"
        )
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        console().print(f"[bold]{entry.pop('key')}[/bold]  {entry.pop('source')} {entry.pop('version')}")
        for name, value in entry.items():
            console().print(f"  {name:<60} {_format_field(name, value)}")


def _format_field(name: str, value: Any) -> str:
    rate = attousd(value) if GRAMMAR.fullmatch(name) else None
    return f"{value}  = {rate / 1e12:,.6g} USD a million" if rate is not None else json.dumps(value).strip('"')


def _load_table(source: str) -> Table:
    """Loads a table from a file, or by name: bundled, retired or installed."""
    if source in ("bundled", "retired"):
        return getattr(price_table, source)()
    if source == "installed":
        table = price_table.installed("0")
        if table is None:
            raise click.ClickException("no litellm is installed here")
        return table
    try:
        return price_table.from_file(Path(source).expanduser())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{source} cannot be read as a price table: {error}") from error


@click.command()
@click.argument("a")
@click.argument("b")
@as_table
def diff(a: str, b: str, as_json: bool) -> None:
    """Show what changed from table A to table B.

    A table is a file (.json or a litellm .whl), or "bundled", "retired" or "installed".

    \b
    Example:
      spanledger prices diff bundled litellm-1.110.2-cp311-cp311-manylinux_2_28_x86_64.whl
    """
    before, after = _load_table(a).models, _load_table(b).models
    changes = [
        {"model": key, "field": field, "before": old, "after": new}
        for key in sorted(before.keys() & after.keys())
        for field in sorted(before[key].keys() | after[key].keys())
        if not field.startswith("_")
        and (GRAMMAR.fullmatch(field) or "_cost_per_" in field)
        and (old := _normalized_rate(before[key], field)) != (new := _normalized_rate(after[key], field))
    ]
    added, removed = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
    if as_json:
        click.echo(json.dumps({"added": added, "removed": removed, "changed": changes}, indent=2))
        return
    for sign, keys in (("+", added), ("-", removed)):
        for key in keys:
            console().print(f"{sign} {key}")
    for change in changes:
        console().print(
            f"~ {change['model']}  {change['field']}: {change['before'] or '-'} -> {change['after'] or '-'}"
        )
    models = len({change["model"] for change in changes})
    console().print(f"{len(added)} models added, {len(removed)} removed, {models} with {len(changes)} changed rates")


def _normalized_rate(entry: Json, field: str) -> str | None:
    """A rate in one spelling: 1e-06 and 0.000001 are the same price."""
    value = entry.get(field)
    rate = attousd(value)
    return (
        None if value is None else f"{rate / 1e12:g} USD/M" if rate is not None else json.dumps(value, sort_keys=True)
    )


@click.command()
@click.option("--against", type=click.Choice(["genai-prices"]), help="Compare with another list of prices.")
@as_table
def check(against: str | None, as_json: bool) -> None:
    """Check the prices in force for errors; exit with status 1 if there are any that are not corrected.

    With --against genai-prices (install it: uv pip install genai-prices, or pip) a second opinion instead: where the
    input, cached or output price of the 100 newest models that both lists have differs by more than 0.5 %, and why.

    \b
    Example:
      SPANLEDGER_PRICE_OVERRIDES=prices.toml spanledger prices check
    """
    prices = price_table.prices()
    findings = list(_findings(prices) if against is None else _second_opinion())
    subjects = (
        "the 100 newest models that both lists have"
        if against
        else f"{sum(len(t.models) for t in prices.tables):,} entries"
    )
    if as_json:
        click.echo(json.dumps(findings, indent=2))
    else:
        for finding in findings:
            console().print(f"{finding['model'] or '-'}: {finding['problem']}", markup=False)
        console().print(f"{len(findings)} finding{'s' * (len(findings) != 1)} in {subjects}")
    if any(not finding["problem"].endswith((CORRECTED, EXPLAINED)) for finding in findings):
        raise SystemExit(1)


def _second_opinion() -> Iterator[dict[str, str]]:
    try:
        differences = list(second_opinion.differences(price_table.prices()))
    except ModuleNotFoundError:
        raise click.ClickException(
            "genai-prices is not installed here: pip install genai-prices (uv pip install genai-prices, without pip)"
        ) from None
    for difference in differences:
        problem = f"{difference.field}: {difference.ours:g} USD/M here, {difference.theirs:g} in genai-prices"
        explained = f": {difference.explanation}{EXPLAINED}" if difference.explanation else ""
        yield {"model": difference.model, "problem": problem + explained}


def _findings(prices: Prices) -> Iterator[dict[str, str]]:
    live = prices.live
    yield from ({"model": "", "problem": problem} for problem in prices.problems)
    yield from _mistakes(prices.overrides, {name for entry in price_table.bundled().models.values() for name in entry})
    age = (datetime.now(UTC).date() - live.dated).days if live.dated else 0
    if age > STALE_DAYS:
        advice = "pip install a newer spanledger, or set SPANLEDGER_PRICES_FILE to a newer litellm wheel"
        yield {"model": "", "problem": f"the table is {age} days old: {advice}"}
    for name, alias in prices.overrides.aliases.items():
        if not any(key == alias or key.endswith(f"/{alias}") for table in prices.tables for key in table.models):
            yield {"model": name, "problem": f"your alias names {alias!r}, which no table has"}
    for key, entry in prices.overrides.table.models.items():
        if not mapping(entry).get("litellm_provider"):
            yield {"model": key, "problem": "your rates lack litellm_provider: they count for every provider"}
    for table in (prices.overrides.table, live):
        yield from _implausible_rates(table)


def _mistakes(own: Overrides, field_names: set[str]) -> Iterator[dict[str, str]]:
    """What in the user's own file means nothing, or can hardly be meant."""
    for section in own.unknown_sections:
        yield {
            "model": "",
            "problem": f"your rates have a section [{section}], which means nothing: write [aliases] or [models]",
        }
    for key, entry in own.table.models.items():
        for name, value in entry.items():
            problem = _mistake(name, value, field_names)
            if problem:
                yield {"model": key, "problem": problem}


def _mistake(name: str, value: object, field_names: set[str]) -> str:
    if name == "_history" or name in field_names or GRAMMAR.fullmatch(name):
        rate = attousd(value)
        if not GRAMMAR.fullmatch(name):
            return ""
        if rate is None:
            return f"your {name} = {json.dumps(value)} is not a number of USD a token"
        return (
            f"your {name} is {rate / 1e12:,.0f} USD a million tokens: is it meant for a million?"
            if rate > DEAREST
            else ""
        )
    near = difflib.get_close_matches(name, field_names, 1)
    return f"your field {name} means nothing" + (f": did you mean {near[0]}?" if near else "")


DEAREST: Final = 10**15
"""Attodollars a token: 1,000 USD a million, which no model costs."""


def _implausible_rates(table: Table) -> Iterator[dict[str, str]]:
    for key, published in table.models.items():
        compiled = table.entry(key)
        left = set(_contradictions(compiled)) if compiled is not None else set[str]()
        for problem in _contradictions(compile_entry(key, published)):
            yield {"model": key, "problem": problem if problem in left else f"{problem}{CORRECTED}"}
        plain = compiled.fields.get(("input_cost_per_token", 0, 0, "")) if compiled else None
        if compiled is None or plain is None or not plain.atto:
            continue
        for (base, _, _, _), rate in compiled.fields.items():
            if (
                base in ("input_cost_per_token", "cache_read_input_token_cost")
                and rate.atto > IMPLAUSIBLE_RATIO * plain.atto
            ):
                yield {"model": key, "problem": f"{rate.field} is {rate.atto / plain.atto:.0f} times the plain rate"}


def _contradictions(entry: Entry) -> Iterator[str]:
    """What no provider's price list has: more tokens, a cache or a batch that make a token dearer or cheaper the wrong way."""
    for (base, hours, threshold, tier), rate in entry.fields.items():
        below = entry.fields.get((base, hours, 0, tier))
        if threshold and below is not None and 0 < rate.atto < below.atto:
            yield f"{rate.field} is cheaper than below the threshold ({_per_million(rate)} < {_per_million(below)} USD/M)"
        standard = entry.fields.get((base, hours, threshold, ""))
        if tier in ("batches", "flex") and standard is not None and rate.atto > standard.atto > 0:
            yield f"{rate.field} is dearer than the standard rate ({_per_million(rate)} > {_per_million(standard)} USD/M)"
        if base == "cache_read_input_token_cost":
            plain = entry.fields.get(("input_cost_per_token", 0, threshold, tier))
            if plain is not None and rate.atto > plain.atto > 0:
                yield f"{rate.field} is dearer than uncached input ({_per_million(rate)} > {_per_million(plain)} USD/M)"


def _per_million(rate: Rate) -> str:
    return f"{rate.atto / 1e12:g}"


ROW_QUERY: Final = "SELECT * FROM llm_calls FINAL WHERE span_id = {id:String} OR response_id = {id:String} LIMIT 2"


@click.command()
@click.argument("row")
@report_user_errors
def explain(row: str) -> None:
    """Explain the price of a row of the ledger; ROW is its span id or response id.

    Prints each component as quantity x rate = amount under the prices in force now, and the cost that the
    row holds, under the prices that were in force then.

    \b
    Example:
      spanledger prices explain resp_0123456789abcdef
    """
    with ledger() as database:
        result = database.query(ROW_QUERY, {"id": row})
    if not result.rows:
        raise click.ClickException(f"no row has the span id or response id {row!r}")
    call = dict(zip(result.columns, result.rows[0], strict=True))
    for line in price_breakdown(billed_call(call).price()):
        console().print(line)
    held = "NULL" if call["cost_usd"] is None else f"{call['cost_usd']} USD"
    console().print(
        f"the row holds {held} ({call['price_status']}; {call['price_key']} {call['price_source']} {call['price_version']})"
    )


COMMANDS: Final = (show, diff, check, explain)
