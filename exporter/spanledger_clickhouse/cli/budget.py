"""`spanledger budget`: what may be spent, what becomes of calls when it runs short; the questions are in budget_questions."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import click

from spanledger.limits.dimensions import named, on_rows
from spanledger.limits.estimate.worst_case import worst_picousd
from spanledger.limits.periods import WINDOWS
from spanledger.limits.policy import ACTIONS, DIMENSIONS, EVERY, Budget, Policy, Rule
from spanledger.limits.policy_documents import PolicyError, load
from spanledger_clickhouse.budgets import audit
from spanledger_clickhouse.budgets import table as budget_table
from spanledger_clickhouse.budgets.publish import publish
from spanledger_clickhouse.cli.budget_status import QUESTIONS, amount_told
from spanledger_clickhouse.cli.output import Usd, console, ledger, reported
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.database.ledger import Ledger

PROVIDERS: Final = ("openai", "anthropic", "gcp.gemini", "gcp.vertex_ai", "azure.ai.openai", "aws.bedrock")
"""Whose prices are looked at."""
SCOPES: Final = ("global", *DIMENSIONS)


@click.group()
def budget() -> None:
    """Budgets: set them, see how far each has come, have calls refused or downgraded when one runs short."""


for question in QUESTIONS:
    budget.add_command(question)


@contextlib.contextmanager
def _changing() -> Generator[Ledger]:
    """The ledger; what was changed in it is published at the end, where a Redis is set, also where noting it failed."""
    failed: DatabaseError | None = None
    with ledger() as found:
        try:
            yield found
        except audit.NotNotedError as error:
            failed = error
        try:
            count = publish(found)
        except DatabaseError as error:
            raise DatabaseError(f"{failed or 'the ledger has it'}, but {error}") from error
        if count is not None:
            console().print(f"published to Redis: {count} budgets; processes take them within seconds", markup=False)
    if failed is not None:
        raise failed


@budget.command("set")
@click.argument("name")
@click.argument("amount", type=Usd())
@click.option(
    "--scope", "scopes", multiple=True, metavar="DIMENSION=VALUE",
    help="What it limits: tenant, tier, feature, user; repeat it for several at once; or global. [default: global]",
)  # fmt: skip
@click.option("--key", default="", help="With --scope DIMENSION: which one.")
@click.option(
    "--per", type=click.Choice([*DIMENSIONS, "all"]), help="Each of these has the amount for itself. [default: all]"
)
@click.option("--period", type=click.Choice(WINDOWS), help="How long it is for. [default: month]")
@click.option("--zone", help="Whose clock says when a day begins, e.g. Europe/Berlin. [default: UTC]")
@click.option("--action", type=click.Choice(ACTIONS), help="What becomes of calls. [default: warn]")
@click.option("--at", type=float, help="The share from which it acts; default: 0.95 to downgrade, 1 to block.")
@click.option(
    "--fail-closed/--fail-open",
    default=None,
    help="Whether calls are refused where Redis does not answer. [default: no]",
)
@click.option(
    "--threshold",
    "thresholds",
    type=float,
    multiple=True,
    help="Share to tell of; repeat it. [default: 0.8 0.9 0.95 1]",
)
@reported
def put(
    name: str,
    amount: Decimal,
    scopes: tuple[str, ...],
    key: str,
    per: str | None,
    period: str | None,
    zone: str | None,
    action: str | None,
    at: float | None,
    fail_closed: bool | None,
    thresholds: tuple[float, ...],
) -> None:
    """Set the budget NAME to AMOUNT dollars, or change it: what is not said stays as it was.

    Calls are downgraded or refused only by applications that enforce budgets (docs/limits.md).

    \b
    Examples:
      spanledger budget set all 10000
      spanledger budget set summaries 500 --scope feature=summarize --threshold 0.8 --threshold 1
      spanledger budget set "a user's hour" 1 --per user --period hour --action block
    """
    said: dict[str, Any] = {
        "amount_usd": amount,
        "scope": _scope(scopes, key) if scopes or key else None,
        "per": "" if per == "all" else per,
        "window": period,
        "zone": zone,
        "action": action,
        "at": at,
        "fail_closed": fail_closed,
        "thresholds": list(thresholds) or None,
    }
    budget_table.described(name, **{"window": "month", **_given(said)})  # what makes no sense by itself opens no ledger
    with _changing() as opened:
        known = next((each for each in budget_table.read(opened).budgets if each.name == name), None)
        found = _changed(known, name, _given(said))
        budget_table.put(opened, found)
        audit.note(opened, "set", "budget", name, told(found))
    was = f" (was: {told(known)})" if known is not None and known != found else ""
    console().print(f"budget {name}: {told(found)}{was}", markup=False)


def _given(said: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in said.items() if value is not None}


def _changed(known: Budget | None, name: str, said: dict[str, Any]) -> Budget:
    """The budget of a name with what is said of it, and the rest as it was."""
    fields: dict[str, Any] = {"window": "month"} if known is None else budget_table.fields(known)
    if said.get("action", fields.get("action")) != fields.get("action"):
        fields.pop("at", None)  # of another action
        if said["action"] == "warn":
            fields.pop("fail_closed", None)
    found = budget_table.described(name, **fields | said)
    if found.action == "warn" and (found.at is not None or found.fail_closed):
        raise click.UsageError("--at and --fail-closed go with --action downgrade or block")
    return found


def _scope(scopes: tuple[str, ...], key: str) -> dict[str, str]:
    """ "feature=summarize", or "feature" and --key."""
    found: dict[str, str] = {}
    if key and any("=" in scope for scope in scopes):
        raise click.UsageError("--key goes with --scope DIMENSION, not with --scope DIMENSION=VALUE")
    if "global" in scopes and len(scopes) > 1:
        raise click.UsageError("--scope global is everything: it goes with no other")
    for scope in scopes:
        dimension, given, value = scope.partition("=")
        if dimension not in SCOPES:
            raise click.UsageError(f"--scope {scope}: use {', '.join(DIMENSIONS)}, e.g. --scope feature=summarize")
        if dimension == "global":
            continue
        if dimension in found:
            raise click.UsageError(f"--scope {dimension} is given twice")
        if not (value if given else key):
            raise click.UsageError(f"--scope {dimension}={'...'} or --key says which {dimension}")
        found[dimension] = on_rows(dimension, value if given else key)
    if key and not found:
        raise click.UsageError("a global budget has no --key")
    return found


def told(found: Budget) -> str:
    """A budget in words."""
    words = [
        amount_told(found),
        ", ".join(f"{k}={v}" for k, v in found.scope.items()) or ("" if found.per else "global"),
    ]
    if found.per:
        words.append(f"each {found.per}")
    if str(found.zone) != "UTC":
        words.append(str(found.zone))
    if found.action != "warn":
        words.append(f"{found.action} at {found.acts_at.normalize():%}")
    if found.fail_closed:
        words.append("fails closed")
    return ", ".join(word for word in words if word)


@budget.command("remove")
@click.argument("name")
@reported
def remove(name: str) -> None:
    """Remove the budget NAME.

    \b
    Example:
      spanledger budget remove summaries
    """
    with _changing() as opened:
        known = opened.query("SELECT count() FROM budgets FINAL WHERE name = {name:String}", {"name": name}).rows[0][0]
        if not known:
            raise click.ClickException(f"there is no budget {name!r}; see `spanledger budget list`")
        budget_table.put(opened, Budget(name, "month", 0), deleted=True)
        audit.note(opened, "remove", "budget", name)
    console().print(f"budget {name} removed", markup=False)


class Downgrade(click.ParamType[tuple[str, str]]):
    """MODEL=CHEAPER."""

    name = "MODEL=CHEAPER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        model, _, other = str(value).partition("=")
        if not model or not other:
            self.fail(f"{value!r} is not MODEL=CHEAPER, e.g. gpt-5.4=gpt-5.4-mini", param, ctx)
        return model, other


@budget.command("feature")
@click.argument("feature")
@click.option("--downgrade", type=Downgrade(), multiple=True, help="Which model to ask in place of which; repeat it.")
@click.option("--pinned", is_flag=True, help="Never another model.")
@click.option("--critical", is_flag=True, help="Never another model, and never refused.")
@click.option("--max-input-tokens", type=click.IntRange(1, 2**32 - 1), help="Of one request.")
@click.option("--max-output-tokens", type=click.IntRange(1, 2**32 - 1), help="Of one request.")
@click.option("--remove", "removed", is_flag=True, help="Forget what holds for it.")
@reported
def feature_rule(
    feature: str,
    downgrade: tuple[tuple[str, str], ...],
    pinned: bool,
    critical: bool,
    max_input_tokens: int | None,
    max_output_tokens: int | None,
    removed: bool,
) -> None:
    """What budgets may do to the calls of FEATURE ("*": of every feature that is not named); it replaces what held before.

    \b
    Examples:
      spanledger budget feature summarize --downgrade gpt-5.4=gpt-5.4-mini
      spanledger budget feature checkout --critical
    """
    if not feature.strip():
        raise click.UsageError('FEATURE has no name; "*" is every feature that is not named')
    found = Rule(dict(downgrade), pinned, critical, max_input_tokens, max_output_tokens)
    if (found == Rule()) != removed:
        raise click.UsageError("say what holds for it, or --remove")
    if downgrade and (pinned or critical):
        raise click.UsageError("--downgrade goes neither with --pinned nor with --critical: they keep their model")
    for model, other in downgrade:
        if not any(worst_picousd(provider, other, 1000, 1000) for provider in PROVIDERS):
            click.echo(f"{other} has no price: calls of {model} keep their model until it has one", err=True)
    with _changing() as opened:
        if removed and feature not in budget_table.read(opened).features:
            raise click.ClickException(f"nothing holds for {feature!r}")
        budget_table.put_rule(opened, feature, found, deleted=removed)
        audit.note(opened, "remove" if removed else "set", "feature", feature, _rule_told(found))
    console().print(f"feature {feature}: {'removed' if removed else _rule_told(found)}", markup=False)


def _rule_told(rule: Rule) -> str:
    words = [f"{model} -> {other}" for model, other in rule.downgrade.items()]
    words += [name for name, on in (("pinned", rule.pinned), ("critical", rule.critical)) if on]
    words += [
        f"at most {cap:,} tokens of {what}"
        for what, cap in (("input", rule.max_input_tokens), ("output", rule.max_output_tokens))
        if cap
    ]
    return ", ".join(words)


@budget.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@reported
def taken_in(file: Path) -> None:
    """Set the budgets and rules of features of a TOML FILE (docs/limits.md); those of other names stay as they are.

    \b
    Example:
      spanledger budget import limits.toml
    """
    try:
        policy = named(load(str(file)))
    except PolicyError as error:
        raise DatabaseError(str(error).removeprefix("SPANLEDGER_LIMITS=")) from error
    ignored = [name for name, on in (("enforce", policy.enforce), ("assumed_output_tokens", policy.assumed_output_tokens != Policy.assumed_output_tokens)) if on]  # fmt: skip
    if ignored:
        click.echo(f"not taken: {', '.join(ignored)} (they hold for the application that has the file)", err=True)
    with _changing() as opened:
        rules = _rules(policy, budget_table.read(opened).features)
        for each in policy.budgets:
            budget_table.put(opened, each)
            audit.note(opened, "set", "budget", each.name, told(each))
        for feature, rule in rules.items():
            budget_table.put_rule(opened, feature, rule)
            audit.note(opened, "set", "feature", feature, _rule_told(rule))
    console().print(f"{len(policy.budgets)} budgets and the rules of {len(rules)} features are set", markup=False)


@budget.command("publish")
@click.option("--take-over", is_flag=True, help="Also where the Redis has the budgets of another ledger.")
@reported
def published(take_over: bool) -> None:
    """Put the budgets into the Redis of SPANLEDGER_REDIS_URL, where applications take them from.

    `set`, `remove`, `feature` and `import` do it by themselves, and so does `spanledger guard`: this is for a Redis that
    was away, or has lost what it had.

    \b
    Example:
      spanledger budget publish
    """
    with ledger() as opened:
        count = publish(opened, take_over=take_over)
    if count is None:
        raise click.ClickException("SPANLEDGER_REDIS_URL is not set (docs/limits.md)")
    console().print(f"{count} budgets are published", markup=False)


def _rules(policy: Policy, known: Mapping[str, Rule]) -> dict[str, Rule]:
    """The rules of a file's features; with the file's caps of every request, which hold for every other feature too."""
    found = dict(policy.features)
    if policy.max_input_tokens or policy.max_output_tokens:
        found = {EVERY: Rule(), **known, **found}
    return {
        feature: replace(
            rule,
            max_input_tokens=rule.max_input_tokens or policy.max_input_tokens,
            max_output_tokens=rule.max_output_tokens or policy.max_output_tokens,
        )
        for feature, rule in found.items()
    }


COMMANDS: Final = (budget,)
