"""`spanledger budget`: sets, imports and publishes budgets and feature rules; its queries are in budget_status."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import click

from spanledger.limits.dimensions import normalize_dimension, normalize_policy
from spanledger.limits.estimate.worst_case import max_cost_picousd
from spanledger.limits.periods import WINDOWS
from spanledger.limits.policy import ACTIONS, ANY_FEATURE, Budget, Policy, Rule
from spanledger.limits.policy_documents import PolicyError, load
from spanledger.semconv.dimensions import BUDGET_DIMENSIONS
from spanledger_clickhouse.budgets import audit
from spanledger_clickhouse.budgets import table as budget_table
from spanledger_clickhouse.budgets.publish import publish
from spanledger_clickhouse.cli.budget_status import STATUS_COMMANDS, format_amount
from spanledger_clickhouse.cli.groups import Group
from spanledger_clickhouse.cli.output import Usd, console, ledger, report_user_errors
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.database.ledger import Ledger

PROVIDERS: Final = ("openai", "anthropic", "gcp.gemini", "gcp.vertex_ai", "azure.ai.openai", "aws.bedrock")
"""The providers whose prices are checked for a replacement model."""
SCOPES: Final = ("global", *BUDGET_DIMENSIONS)


@click.group(cls=Group)
def budget() -> None:
    """Set budgets, and show their status. Applications that enforce them refuse or downgrade calls (docs/limits.md)."""


for question in STATUS_COMMANDS:
    budget.add_command(question)


@contextlib.contextmanager
def _publishing_changes() -> Generator[Ledger]:
    """Opens the ledger; on exit publishes its budgets to Redis, if one is set, even if the audit entry failed."""
    audit_error: DatabaseError | None = None
    with ledger() as database:
        try:
            yield database
        except audit.AuditError as error:
            audit_error = error
        try:
            count = publish(database)
        except DatabaseError as error:
            raise DatabaseError(f"{audit_error or 'the ledger has the change'}, but {error}") from error
        if count is not None:
            console().print(f"published {count} budgets to Redis; processes apply them within seconds", markup=False)
    if audit_error is not None:
        raise audit_error


@budget.command("set")
@click.argument("name")
@click.argument("amount", type=Usd())
@click.option(
    "--scope", "scopes", multiple=True, metavar="DIMENSION=VALUE",
    help=f"What the budget covers: {', '.join(BUDGET_DIMENSIONS)} (repeat to combine), or global. [default: global]",
)  # fmt: skip
@click.option("--key", default="", help="With --scope DIMENSION: its value.")
@click.option(
    "--per",
    type=click.Choice([*BUDGET_DIMENSIONS, "all"]),
    help="Give each value of this dimension the amount. [default: all]",
)
@click.option("--period", type=click.Choice(WINDOWS), help="The period of the budget. [default: month]")
@click.option("--zone", help="The time zone in which days begin, e.g. Europe/Berlin. [default: UTC]")
@click.option("--action", type=click.Choice(ACTIONS), help="What happens to calls. [default: warn]")
@click.option(
    "--at",
    "action_share",
    type=float,
    help="The share of the amount at which the action starts; default: 0.95 to downgrade, 1 to block.",
)
@click.option(
    "--fail-closed/--fail-open",
    default=None,
    help="Whether calls are refused if Redis is unavailable. [default: no]",
)
@click.option(
    "--threshold",
    "thresholds",
    type=float,
    multiple=True,
    help="A share of the amount to alert at; repeatable. [default: 0.8 0.9 0.95 1]",
)
@report_user_errors
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
    """Set the budget NAME to AMOUNT dollars, or change it; options that are not given keep their values.

    Calls are downgraded or refused only by applications that enforce budgets (docs/limits.md).

    \b
    Examples:
      spanledger budget set all 10000
      spanledger budget set summaries 500 --scope feature=summarize --threshold 0.8 --threshold 1
      spanledger budget set "a user's hour" 1 --per user --period hour --action block
    """
    options: dict[str, Any] = {
        "amount_usd": amount,
        "scope": _parse_scope(scopes, key) if scopes or key else None,
        "per": "" if per == "all" else per,
        "window": period,
        "zone": zone,
        "action": action,
        "at": action_share,
        "fail_closed": fail_closed,
        "thresholds": list(thresholds) or None,
    }
    budget_table.parse_budget(name, **{"window": "month", **_without_none(options)})  # fails before the ledger opens
    with _publishing_changes() as database:
        old_budget = next(
            (candidate for candidate in budget_table.read(database).budgets if candidate.name == name), None
        )
        new_budget = _with_options(old_budget, name, _without_none(options))
        budget_table.put(database, new_budget)
        audit.log_change(database, "set", "budget", name, describe_budget(new_budget))
    was = f" (was: {describe_budget(old_budget)})" if old_budget is not None and old_budget != new_budget else ""
    console().print(f"budget {name}: {describe_budget(new_budget)}{was}", markup=False)


def _without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in options.items() if value is not None}


def _with_options(old_budget: Budget | None, name: str, options: dict[str, Any]) -> Budget:
    """The budget with the given options; its other fields keep their values."""
    fields: dict[str, Any] = {"window": "month"} if old_budget is None else budget_table.budget_options(old_budget)
    if options.get("action", fields.get("action")) != fields.get("action"):
        fields.pop("at", None)  # of another action
        if options["action"] == "warn":
            fields.pop("fail_closed", None)
    new_budget = budget_table.parse_budget(name, **fields | options)
    if new_budget.action == "warn" and (new_budget.action_share is not None or new_budget.fail_closed):
        raise click.UsageError("--at and --fail-closed go with --action downgrade or block")
    return new_budget


def _parse_scope(scopes: tuple[str, ...], key: str) -> dict[str, str]:
    """ "feature=summarize", or "feature" and --key."""
    dimensions: dict[str, str] = {}
    if key and any("=" in scope for scope in scopes):
        raise click.UsageError("--key goes with --scope DIMENSION, not with --scope DIMENSION=VALUE")
    if "global" in scopes and len(scopes) > 1:
        raise click.UsageError("--scope global covers everything and cannot be combined with another scope")
    for scope in scopes:
        dimension, equals, value = scope.partition("=")
        if dimension not in SCOPES:
            raise click.UsageError(
                f"--scope {scope}: use {', '.join(BUDGET_DIMENSIONS)}, e.g. --scope feature=summarize"
            )
        if dimension == "global":
            continue
        if dimension in dimensions:
            raise click.UsageError(f"--scope {dimension} is given twice")
        if not (value if equals else key):
            raise click.UsageError(
                f"--scope {dimension} needs a value: --scope {dimension}=VALUE, or --key gives the {dimension}"
            )
        dimensions[dimension] = normalize_dimension(dimension, value if equals else key)
    if key and not dimensions:
        raise click.UsageError("--key does not apply to a global budget")
    return dimensions


def describe_budget(budget: Budget) -> str:
    """A budget as one line of text."""
    words = [
        format_amount(budget),
        ", ".join(f"{k}={v}" for k, v in budget.scope.items()) or ("" if budget.per else "global"),
    ]
    if budget.per:
        words.append(f"each {budget.per}")
    if str(budget.zone) != "UTC":
        words.append(str(budget.zone))
    if budget.action != "warn":
        words.append(f"{budget.action} at {budget.effective_action_share.normalize():%}")
    if budget.fail_closed:
        words.append("fails closed")
    return ", ".join(word for word in words if word)


@budget.command("remove")
@click.argument("name")
@report_user_errors
def remove(name: str) -> None:
    """Remove the budget NAME.

    \b
    Example:
      spanledger budget remove summaries
    """
    with _publishing_changes() as database:
        count = database.query("SELECT count() FROM budgets FINAL WHERE name = {name:String}", {"name": name}).rows[0][
            0
        ]
        if not count:
            raise click.ClickException(f"there is no budget {name!r}; see `spanledger budget list`")
        budget_table.put(database, Budget(name, "month", 0), deleted=True)
        audit.log_change(database, "remove", "budget", name)
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
@click.option(
    "--downgrade", type=Downgrade(), multiple=True, help="A cheaper model to use instead of MODEL; repeatable."
)
@click.option("--pinned", is_flag=True, help="Never replace the model.")
@click.option("--critical", is_flag=True, help="Never replace the model, and never refuse a call.")
@click.option("--max-input-tokens", type=click.IntRange(1, 2**32 - 1), help="The limit of one request.")
@click.option("--max-output-tokens", type=click.IntRange(1, 2**32 - 1), help="The limit of one request.")
@click.option("--remove", "removed", is_flag=True, help="Remove the rule.")
@report_user_errors
def feature_rule(
    feature: str,
    downgrade: tuple[tuple[str, str], ...],
    pinned: bool,
    critical: bool,
    max_input_tokens: int | None,
    max_output_tokens: int | None,
    removed: bool,
) -> None:
    """Set what budgets may do to calls of FEATURE ("*": every feature without a rule); replaces its previous rule.

    \b
    Examples:
      spanledger budget feature summarize --downgrade gpt-5.4=gpt-5.4-mini
      spanledger budget feature checkout --critical
    """
    if not feature.strip():
        raise click.UsageError('FEATURE is empty; "*" stands for every feature without a rule')
    rule = Rule(dict(downgrade), pinned, critical, max_input_tokens, max_output_tokens)
    if (rule == Rule()) != removed:
        raise click.UsageError("give the options of the rule, or --remove")
    if downgrade and (pinned or critical):
        raise click.UsageError("--downgrade cannot be combined with --pinned or --critical, which keep the model")
    for model, other in downgrade:
        if not any(max_cost_picousd(provider, other, 1000, 1000) for provider in PROVIDERS):
            click.echo(f"{other} has no price: calls of {model} keep their model until it has one", err=True)
    with _publishing_changes() as database:
        if removed and feature not in budget_table.read(database).features:
            raise click.ClickException(f"there is no rule for {feature!r}")
        budget_table.put_rule(database, feature, rule, deleted=removed)
        audit.log_change(database, "remove" if removed else "set", "feature", feature, _describe_rule(rule))
    console().print(f"feature {feature}: {'removed' if removed else _describe_rule(rule)}", markup=False)


def _describe_rule(rule: Rule) -> str:
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
@report_user_errors
def taken_in(file: Path) -> None:
    """Import budgets and feature rules from a TOML FILE (docs/limits.md); all others stay unchanged.

    \b
    Example:
      spanledger budget import limits.toml
    """
    try:
        policy = normalize_policy(load(str(file)))
    except PolicyError as error:
        raise DatabaseError(str(error).removeprefix("SPANLEDGER_LIMITS=")) from error
    ignored = [name for name, on in (("enforce", policy.enforce), ("assumed_output_tokens", policy.assumed_output_tokens != Policy.assumed_output_tokens)) if on]  # fmt: skip
    if ignored:
        click.echo(f"not imported: {', '.join(ignored)} (valid only in an application that loads the file)", err=True)
    with _publishing_changes() as database:
        rules = _rules_with_caps(policy, budget_table.read(database).features)
        for budget in policy.budgets:
            budget_table.put(database, budget)
        for feature, rule in rules.items():
            budget_table.put_rule(database, feature, rule)
        for budget in policy.budgets:  # after all are set: a note that cannot be written leaves none of them out
            audit.log_change(database, "set", "budget", budget.name, describe_budget(budget))
        for feature, rule in rules.items():
            audit.log_change(database, "set", "feature", feature, _describe_rule(rule))
    console().print(f"{len(policy.budgets)} budgets and the rules of {len(rules)} features are set", markup=False)


@budget.command("publish")
@click.option("--take-over", is_flag=True, help="Replace the budgets of another ledger in this Redis.")
@report_user_errors
def published(take_over: bool) -> None:
    """Publish the budgets to the Redis of SPANLEDGER_REDIS_URL, where applications read them.

    `set`, `remove`, `feature`, `import` and `spanledger guard` publish automatically. Use this command after Redis was
    unavailable or lost its data.

    \b
    Example:
      spanledger budget publish
    """
    with ledger() as database:
        count = publish(database, take_over=take_over)
    if count is None:
        raise click.ClickException("SPANLEDGER_REDIS_URL is not set (docs/limits.md)")
    console().print(f"{count} budgets are published", markup=False)


def _rules_with_caps(policy: Policy, stored_rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """The feature rules of a file; its caps of every request apply to all other features too."""
    rules = dict(policy.features)
    if policy.max_input_tokens or policy.max_output_tokens:
        rules = {ANY_FEATURE: Rule(), **stored_rules, **rules}
    return {
        feature: replace(
            rule,
            max_input_tokens=rule.max_input_tokens or policy.max_input_tokens,
            max_output_tokens=rule.max_output_tokens or policy.max_output_tokens,
        )
        for feature, rule in rules.items()
    }


COMMANDS: Final = (budget,)
