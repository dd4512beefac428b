"""`spanledger ci-diff`: compares the LLM cost of two test runs, before a change is merged."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import click

from spanledger_clickhouse.cli.output import PerCent, Usd, as_json, console, json_value, report_user_errors, show
from spanledger_clickhouse.database.ledger import Result
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.money import usd
from spanledger_clickhouse.report.run_costs import FeatureDifference, RunError, differences, read_run
from spanledger_clickhouse.report.sections import NO_FEATURE
from spanledger_clickhouse.report.text import escape_markdown, markdown_table
from spanledger_clickhouse.session import open_ledger

LIVE_DAYS: Final = 7
COLUMNS: Final = ("feature", "requests", "$/request before", "after", "change", "calls/request", "$/month")


class Volume(click.ParamType[tuple[str, int]]):
    """FEATURE=REQUESTS."""

    name = "FEATURE=REQUESTS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        feature, equals, count = str(value).rpartition("=")
        if not equals or not count.isdigit():
            self.fail(f"{value!r} is not FEATURE=REQUESTS, e.g. summarize=120000", param, ctx)
        return feature, int(count)


@click.command("ci-diff")
@click.argument("base", type=click.Path(exists=True, path_type=Path))
@click.argument("head", type=click.Path(exists=True, path_type=Path))
@click.option("--volume", type=Volume(), multiple=True, help="Requests per month of a feature; repeatable.")
@click.option("--live", is_flag=True, help="Take the volume of the last seven days from the ledger (SPANLEDGER_DSN).")
@click.option(
    "--fail-over", "limit", type=Usd(), help="Exit with status 1 if the change costs more than this per month."
)
@click.option(
    "--fail-over-percent",
    "percent",
    type=PerCent(),
    help="Exit with status 1 if the cost per request of a feature rises by more than this per cent.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "md"]),
    default="text",
    show_default=True,
    help="md: a comment for the pull request.",
)
@as_json
@report_user_errors
def ci_diff(
    base: Path, head: Path, volume: tuple[tuple[str, int], ...], live: bool, limit: Decimal | None, percent: float | None,
    form: str, as_json: bool,
) -> None:  # fmt: skip
    """Compare the cost of two test runs, BASE and HEAD. BASE is that of the base branch, HEAD that of the change.

    Each is the spool directory of a run: SPANLEDGER_SPOOL_DIR=base opentelemetry-instrument pytest. Costs are compared
    by feature and request (calls with the same request id, else the same trace).

    \b
    Examples:
      spanledger ci-diff base head --volume summarize=120000 --fail-over 500
      spanledger ci-diff base head --live --format md > comment.md
    """
    try:
        runs = read_run(base), read_run(head)
    except RunError as error:
        raise click.ClickException(str(error)) from error
    changes = differences(*runs, {**(_live_requests() if live else {}), **dict(volume)})
    monthly_costs = [change.month_usd for change in changes if change.month_usd is not None]
    month = sum(monthly_costs, Decimal(0)) if monthly_costs else None
    violations = _limit_violations(changes, month, limit, percent)
    if as_json:
        click.echo(json.dumps({"month_usd": json_value(month), "broken": violations, "features": [_json_fields(change) for change in changes]}, indent=2))  # fmt: skip
    elif form == "md":
        click.echo(_markdown_comment(changes, month, violations))
    else:
        types = ("String", *["Decimal"] * (len(COLUMNS) - 1))
        compared = Result(COLUMNS, types, [_cells(change) for change in changes])
        show(compared, "Cost per request, before and after", json_output=False)
        console().print(f"\n{_summary(month)}")
    for violation in violations:
        click.echo(f"over the limit: {violation}", err=True)
    if violations:
        raise click.exceptions.Exit(1)


def _live_requests() -> dict[str | None, int]:
    with open_ledger(take_in=False) as database:  # the spool holds the test run
        return dict(database.query(statement("cli/live_requests"), {"days": LIVE_DAYS}).rows)


def _limit_violations(
    changes: list[FeatureDifference], month: Decimal | None, limit: Decimal | None, percent: float | None
) -> list[str]:
    """The limits that were exceeded, as messages."""
    violations: list[str] = []
    unpriced = sum(change.head.unpriced for change in changes)
    if unpriced and (limit is not None or percent is not None):
        violations.append(f"{unpriced} calls have no price: their cost is unknown")
    if limit is not None:
        if month is None:
            raise click.UsageError("--fail-over needs a volume: give --live, or --volume FEATURE=REQUESTS")
        if month > limit:
            violations.append(f"{usd(month)} more per month; the limit is {usd(limit)}")
    if percent is not None:
        violations += [
            f"a request of {change.feature or NO_FEATURE} costs {change.change_share:+.1%}; the limit is {percent:g} %"
            for change in changes
            if change.change_share is not None and change.head.requests and change.change_share * 100 > percent
        ]
    return violations


def _cells(change: FeatureDifference) -> tuple[str, ...]:
    before, after = change.base, change.head
    share = change.change_share
    return (
        change.feature or NO_FEATURE,
        f"{before.requests:,} / {after.requests:,}",
        usd(before.request_usd) if before.requests else "-",
        usd(after.request_usd) if after.requests else "-",
        "removed"
        if not after.requests
        else "no price"
        if before.unpriced or after.unpriced
        else "new"
        if share is None
        else f"{share:+.1%}",
        f"{_per_request(before)} / {_per_request(after)}",
        usd(change.month_usd),
    )


def _per_request(run: Any) -> str:
    return f"{run.calls / run.requests:.2f}" if run.requests else "-"


def _json_fields(change: FeatureDifference) -> dict[str, Any]:
    return {
        "feature": change.feature,
        **{f"{name}_{what}": json_value(getattr(run, what)) for name, run in (("base", change.base), ("head", change.head))
           for what in ("cost_usd", "requests", "calls", "unpriced", "tokens", "request_usd")},
        "change_usd": json_value(change.change_usd),
        "change_share": change.change_share,
        "month_usd": json_value(change.month_usd),
    }  # fmt: skip


def _summary(month: Decimal | None) -> str:
    if month is None:
        return "The volume of live traffic is unknown: give --live, or --volume FEATURE=REQUESTS."
    return f"At live volume this change costs {usd(abs(month))} {'less' if month < 0 else 'more'} per month."


def _markdown_comment(changes: list[FeatureDifference], month: Decimal | None, violations: list[str]) -> str:
    lines = ["### LLM cost of this change", "", _summary(month), ""]
    lines += markdown_table(COLUMNS, [_cells(change) for change in changes])
    unpriced = sum(change.head.unpriced for change in changes)
    if unpriced:
        lines += ["", f"{unpriced} calls have no price and are not counted."]
    return "\n".join([*lines, *(f"\n**Over the limit:** {escape_markdown(violation)}" for violation in violations)])


COMMANDS: Final = (ci_diff,)
