"""`spanledger prices`: shows the price tables in force and quotes the cost of a usage."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import click

from spanledger.pricing import Price, quote
from spanledger.pricing.calculator import SHORT_NAMES
from spanledger.pricing.price_table import prices as in_force
from spanledger.runtime.untrusted_json import Json, count, get_path, label, mapping
from spanledger.semconv.usage import METERS
from spanledger_clickhouse.cli import price_tables
from spanledger_clickhouse.cli.groups import Group
from spanledger_clickhouse.cli.output import as_table, console, ledger, report_user_errors, show, step_progress
from spanledger_clickhouse.cli.price_tables import price_breakdown
from spanledger_clickhouse.database.ledger import Result
from spanledger_clickhouse.prices import price_table_sync, what_if

TOKEN_OPTIONS: Final = (
    "input",
    "output",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "cache_write_12h",
    "reasoning",
)


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
@as_table
def prices(context: click.Context, as_json: bool) -> None:
    """Show the price tables in force: source, version, checksum and age.

    \b
    Precedence:
      SPANLEDGER_PRICE_OVERRIDES   your own rates and names (TOML)
      SPANLEDGER_PRICES_FILE       a LiteLLM table (.json) or a litellm wheel
      an installed litellm, where it is newer than the bundled snapshot (never imported)
      the bundled snapshot, then the prices of retired models
    """
    if context.invoked_subcommand is not None:
        return
    prices_in_force = in_force()
    rows: list[dict[str, Any]] = [
        {
            "source": table.source,
            "version": table.version,
            "models": len(table.models),
            "sha256": table.sha256,
            "date": table.dated.isoformat() if table.dated else None,
            "age_days": (datetime.now(UTC).date() - table.dated).days if table.dated else None,
            "origin": table.origin,
        }
        for table in prices_in_force.tables
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        age = f"{row['date']}, {row['age_days']} days old" if row["date"] else "undated"
        console().print(f"{row['source']:<9} {row['version']}  {row['models']:,} models, {age}  ({row['origin']})")
        if row["sha256"]:
            console().print(f"{'':<9} sha256 {row['sha256']}")


@prices.command("quote")
@click.option("--jsonl", is_flag=True, help="Read JSON lines from standard input, write JSON lines.")
@click.option("--provider", help="openai, anthropic, gcp.gemini, azure.ai.openai, aws.bedrock, ...")
@click.option("--model", help="The model, as the provider spells it.")
@click.option("--input", type=click.IntRange(0), default=0, help="Input tokens, cached ones included.")
@click.option("--output", type=click.IntRange(0), default=0, help="Output tokens, reasoning included.")
@click.option("--cache-read", type=click.IntRange(0), default=0, help="Input tokens that were read from the cache.")
@click.option("--cache-write", type=click.IntRange(0), default=0, help="Input tokens that were written to the cache.")
@click.option("--cache-write-1h", type=click.IntRange(0), default=0, help="Input tokens that were cached for an hour.")
@click.option(
    "--cache-write-12h", type=click.IntRange(0), default=0, help="Input tokens that were cached for twelve hours."
)
@click.option("--reasoning", type=click.IntRange(0), default=0, help="Output tokens that were reasoning.")
@click.option("--tier", default="", help="batch, flex, priority, ...")
@click.option("--geo", default="", help="A processing region or geography (eu, us, europe-west4).")
@click.option("--speed", default="", help="fast")
@click.option("--host", default="", help="Where the call goes: llm.example.com; it decides whose price counts.")
@as_table
def quote_command(
    jsonl: bool,
    provider: str | None,
    model: str | None,
    tier: str,
    geo: str,
    speed: str,
    host: str,
    as_json: bool,
    **tokens: int,
) -> None:
    """Quote the cost of a usage.

    \b
    Examples:
      spanledger prices quote --provider openai --model gpt-4.1-mini --input 1200 --output 300
      spanledger prices quote --jsonl < usages.jsonl
        {"provider": "openai", "model": "gpt-4.1-mini", "usage": {"input": 1200, "output": 300}, "tier": "batch"}
    """
    if jsonl:
        _quote_lines()
        return
    if not provider or not model:
        raise click.UsageError("give --provider and --model, or --jsonl")
    within = sum(tokens[name] for name in ("cache_read", "cache_write", "cache_write_1h", "cache_write_12h"))
    if within > tokens["input"] or tokens["reasoning"] > tokens["output"]:
        raise click.UsageError(
            "--input includes what was read from the cache and written to it, and --output the reasoning"
        )
    price = quote(provider, model, tokens, tier=tier, geo=geo, speed=speed, host=host)
    if as_json:
        click.echo(json.dumps(as_dict(price)))
        return
    for part in price_breakdown(price):
        console().print(part)
    if not price.priced:
        sys.exit(1)


def _quote_lines() -> None:
    write = sys.stdout.write
    for line in sys.stdin:
        if not line.strip():
            continue
        write(_quote_line(line) + "\n")


def _quote_line(line: str) -> str:
    try:
        request: object = json.loads(line)
    except ValueError:
        return '{"total_picousd": null, "status": "error", "error": "not JSON"}'
    provider = label(request, "provider")
    if provider is None:
        return (
            '{"total_picousd": null, "status": "error", "error": "an object with provider, model and usage is needed"}'
        )
    usage = mapping(request, "usage")
    unknown = sorted((cast("Json", request).keys() - LINE_FIELDS) | (usage.keys() - USAGE_FIELDS))
    if unknown:
        return json.dumps({"total_picousd": None, "status": "error", "error": f"unknown: {', '.join(unknown)[:200]}"})
    price = quote(
        provider,
        label(request, "model"),
        {key: count(usage, key) or 0 for key in usage} if usage else None,
        tier=label(request, "tier") or "",
        geo=label(request, "geo") or "",
        speed=label(request, "speed") or "",
        host=label(request, "host") or "",
        at=_parse_time(get_path(request, "at")),
    )
    return json.dumps(as_dict(price))


LINE_FIELDS: Final = frozenset({"provider", "model", "usage", "tier", "geo", "speed", "host", "at"})
USAGE_FIELDS: Final = frozenset({*METERS, *SHORT_NAMES})


def _parse_time(value: object) -> datetime | None:
    try:
        timestamp = datetime.fromisoformat(str(value)) if value else None
    except ValueError:
        return None
    return timestamp.replace(tzinfo=UTC) if timestamp and timestamp.tzinfo is None else timestamp


def as_dict(price: Price) -> dict[str, Any]:
    components: dict[str, int] = {}
    for part in price.components:
        components[part.meter] = components.get(part.meter, 0) + part.amount
    return {
        "total_picousd": price.total_picousd,
        "components": components,
        "status": price.status,
        "key": price.key,
        "source": price.source,
        "version": price.version,
        "flags": list(price.flags),
    }


@prices.command("what-if")
@click.option("--model", default="", help="Another model, as its provider spells it.")
@click.option("--provider", default="", help="The provider of that model; default: that of the call.")
@click.option("--tier", type=click.Choice(what_if.TIERS), help="Another service tier, or batches.")
@click.option("--no-cache", is_flag=True, help="With everything cached as plain input.")
@click.option("--of", "now_model", default="", help="Only calls of this model.")
@click.option("--days", default=30, show_default=True, type=click.IntRange(1, 366), help="How many days back.")
@as_table
@report_user_errors
def what_if_command(
    model: str, provider: str, tier: str | None, no_cache: bool, now_model: str, days: int, as_json: bool
) -> None:
    """Price past calls again as they might have been. By feature: what they cost, and what the same tokens would have.

    It compares prices. Another model writes other answers and counts other tokens, a batch comes up to a day later, and without a cache
    a prompt may be written otherwise: the difference is no saving until it is measured.

    \b
    Examples:
      spanledger prices what-if --tier batch
      spanledger prices what-if --of gpt-5.4 --model gpt-5.4-mini
    """
    change = what_if.Change(no_cache, tier or "", model, provider)
    if change == what_if.Change():
        raise click.UsageError("say what would be different: --model, --tier or --no-cache")
    until = datetime.now(UTC)
    with ledger() as database, step_progress("pricing days") as progress:
        comparisons = what_if.compare(
            database, until - timedelta(days=days), until, change, now_model=now_model, progress=progress
        )
    rows = [
        (c.feature, c.calls, c.cost_usd, c.otherwise_usd, c.otherwise_usd - c.cost_usd, c.not_comparable, c.estimated)
        for c in comparisons
    ]
    title = f"The calls of the last {days} day{'s' * (days != 1)}, as they were and otherwise"
    show(
        Result(tuple(WHAT_IF), tuple(WHAT_IF.values()), rows),
        title,
        json_output=as_json,
        important=("cost_usd", "otherwise_usd", "difference_usd"),
    )


WHAT_IF: Final = {
    "feature": "String",
    "calls": "UInt64",
    "cost_usd": "Decimal",
    "otherwise_usd": "Decimal",
    "difference_usd": "Decimal",
    "not_comparable": "UInt64",
    "estimated": "UInt64",
}


@prices.command()
@report_user_errors
def sync() -> None:
    """Write the prices in force to the table llm_prices.

    The views cache_savings and unpriced_calls (bounds) read it. Run the command again after a price update.

    \b
    Example:
      spanledger prices sync
    """
    with ledger() as database:
        count = price_table_sync.sync(database.client, database.target, in_force())
    console().print(f"{count:,} prices written")


for command in price_tables.COMMANDS:
    prices.add_command(command)

COMMANDS: Final = (prices,)
