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
    audit_error: DatabaseError | None = None
    with ledger() as database:
        try:
            yield database
        except audit.NotNotedError as error:
            audit_error = error
        try:
            count = publish(database)
        except DatabaseError as error:
            raise DatabaseError(f"{audit_error or 'the ledger has it'}, but {error}") from error
        if count is not None:
            console().print(f"published to Redis: {count} budgets; processes take them within seconds", markup=False)
    if audit_error is not None:
        raise audit_error


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
    action_share: float | None,
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
    options: dict[str, Any] = {
        "amount_usd": amount,
        "scope": _scope(scopes, key) if scopes or key else None,
        "per": "" if per == "all" else per,
        "window": period,
        "zone": zone,
        "action": action,
        "at": action_share,
        "fail_closed": fail_closed,
        "thresholds": list(thresholds) or None,
    }
    budget_table.described(name, **{"window": "month", **_given(options)})  # what makes no sense by itself opens no ledger
    with _changing() as database:
        old_budget = next((candidate for candidate in budget_table.read(database).budgets if candidate.name == name), None)
        new_budget = _changed(old_budget, name, _given(options))
        budget_table.put(database, new_budget)
        audit.note(database, "set", "budget", name, told(new_budget))
    was = f" (was: {told(old_budget)})" if old_budget is not None and old_budget != new_budget else ""
    console().print(f"budget {name}: {told(new_budget)}{was}", markup=False)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in options.items() if value is not None}


def _changed(old_budget: Budget | None, name: str, options: dict[str, Any]) -> Budget:
    """The budget of a name with what is said of it, and the rest as it was."""
    fields: dict[str, Any] = {"window": "month"} if old_budget is None else budget_table.fields(old_budget)
    if options.get("action", fields.get("action")) != fields.get("action"):
        fields.pop("at", None)  # of another action
        if options["action"] == "warn":
            fields.pop("fail_closed", None)
    new_budget = budget_table.described(name, **fields | options)
    if new_budget.action == "warn" and (new_budget.action_share is not None or new_budget.fail_closed):
        raise click.UsageError("--at and --fail-closed go with --action downgrade or block")
    return new_budget


def _scope(scopes: tuple[str, ...], key: str) -> dict[str, str]:
    """ "feature=summarize", or "feature" and --key."""
    dimensions: dict[str, str] = {}
    if key and any("=" in scope for scope in scopes):
        raise click.UsageError("--key goes with --scope DIMENSION, not with --scope DIMENSION=VALUE")
    if "global" in scopes and len(scopes) > 1:
        raise click.UsageError("--scope global is everything: it goes with no other")
    for scope in scopes:
        dimension, equals, value = scope.partition("=")
        if dimension not in SCOPES:
            raise click.UsageError(f"--scope {scope}: use {', '.join(DIMENSIONS)}, e.g. --scope feature=summarize")
        if dimension == "global":
            continue
        if dimension in dimensions:
            raise click.UsageError(f"--scope {dimension} is given twice")
        if not (value if equals else key):
            raise click.UsageError(f"--scope {dimension}={'...'} or --key says which {dimension}")
        dimensions[dimension] = on_rows(dimension, value if equals else key)
    if key and not dimensions:
        raise click.UsageError("a global budget has no --key")
    return dimensions


def told(budget: Budget) -> str:
    """A budget in words."""
    words = [
        amount_told(budget),
        ", ".join(f"{k}={v}" for k, v in budget.scope.items()) or ("" if budget.per else "global"),
    ]
    if budget.per:
        words.append(f"each {budget.per}")
    if str(budget.zone) != "UTC":
        words.append(str(budget.zone))
    if budget.action != "warn":
        words.append(f"{budget.action} at {budget.acts_at.normalize():%}")
    if budget.fail_closed:
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
    with _changing() as database:
        count = database.query("SELECT count() FROM budgets FINAL WHERE name = {name:String}", {"name": name}).rows[0][0]
        if not count:
            raise click.ClickException(f"there is no budget {name!r}; see `spanledger budget list`")
        budget_table.put(database, Budget(name, "month", 0), deleted=True)
        audit.note(database, "remove", "budget", name)
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
    rule = Rule(dict(downgrade), pinned, critical, max_input_tokens, max_output_tokens)
    if (rule == Rule()) != removed:
        raise click.UsageError("say what holds for it, or --remove")
    if downgrade and (pinned or critical):
        raise click.UsageError("--downgrade goes neither with --pinned nor with --critical: they keep their model")
    for model, other in downgrade:
        if not any(worst_picousd(provider, other, 1000, 1000) for provider in PROVIDERS):
            click.echo(f"{other} has no price: calls of {model} keep their model until it has one", err=True)
    with _changing() as database:
        if removed and feature not in budget_table.read(database).features:
            raise click.ClickException(f"nothing holds for {feature!r}")
        budget_table.put_rule(database, feature, rule, deleted=removed)
        audit.note(database, "remove" if removed else "set", "feature", feature, _rule_told(rule))
    console().print(f"feature {feature}: {'removed' if removed else _rule_told(rule)}", markup=False)


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
    with _changing() as database:
        rules = _rules(policy, budget_table.read(database).features)
        for budget in policy.budgets:
            budget_table.put(database, budget)
            audit.note(database, "set", "budget", budget.name, told(budget))
        for feature, rule in rules.items():
            budget_table.put_rule(database, feature, rule)
            audit.note(database, "set", "feature", feature, _rule_told(rule))
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
    with ledger() as database:
        count = publish(database, take_over=take_over)
    if count is None:
        raise click.ClickException("SPANLEDGER_REDIS_URL is not set (docs/limits.md)")
    console().print(f"{count} budgets are published", markup=False)


def _rules(policy: Policy, stored_rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """The rules of a file's features; with the file's caps of every request, which hold for every other feature too."""
    rules = dict(policy.features)
    if policy.max_input_tokens or policy.max_output_tokens:
        rules = {EVERY: Rule(), **stored_rules, **rules}
    return {
        feature: replace(
            rule,
            max_input_tokens=rule.max_input_tokens or policy.max_input_tokens,
            max_output_tokens=rule.max_output_tokens or policy.max_output_tokens,
        )
        for feature, rule in rules.items()
    }


COMMANDS: Final = (budget,)
