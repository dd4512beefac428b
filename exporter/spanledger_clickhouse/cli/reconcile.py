"""`spanledger reconcile`, `close` and `rates`: invoices compared with the ledger, months sealed, exchange rates."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import click

from spanledger_clickhouse.budgets import audit
from spanledger_clickhouse.cli.groups import Group
from spanledger_clickhouse.cli.output import PerCent, as_table, console, ledger, report_user_errors, show, spinner
from spanledger_clickhouse.cli.periods import MONTH, days_of
from spanledger_clickhouse.database.ledger import Ledger, Result
from spanledger_clickhouse.invoices import closing, exchange_rates, fetch, provider_exports
from spanledger_clickhouse.invoices import reconcile as reconciling
from spanledger_clickhouse.invoices.lines import InvoiceError, InvoiceLine
from spanledger_clickhouse.invoices.reconcile import CAUSES, Residual
from spanledger_clickhouse.money import usd
from spanledger_clickhouse.report.sections import share

PROJECT_BY: Final = click.option(
    "--project-by", default="provider", show_default=True,
    help="The source of a call's project: provider (as OpenAI and Vertex report it), service, environment, "
         "feature, tenant, tier, label:<name>.",
)  # fmt: skip


@click.command()
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--fetch", "source", type=click.Choice(list(fetch.SOURCES)), help="Fetch the costs from the provider's API."
)
@click.option("--month", type=MONTH, help="With --fetch: the month, e.g. 2026-10.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="With --fetch: the first day; default: 3 days ago.")
@click.option(
    "--until", type=click.DateTime(["%Y-%m-%d"]), help="With --fetch: the last day, inclusive; default: yesterday."
)
@click.option("--base-url", default="", help="With --fetch: the API's address, if it is not the provider's own.")
@click.option(
    "--provider", default="", help="The provider of the invoice, if the file does not name it (openai, anthropic, ...)."
)
@PROJECT_BY
@click.option("--dry-run", is_flag=True, help="Compare only; do not store the invoice in the table invoices.")
@click.option(
    "--fail-over",
    type=PerCent(),
    help="Exit with status 1 if more than this per cent is unexplained or outside.",
)
@as_table
@report_user_errors
def reconcile(
    files: tuple[Path, ...],
    source: str | None,
    month: date | None,
    since: datetime | None,
    until: datetime | None,
    base_url: str,
    provider: str,
    project_by: str,
    dry_run: bool,
    fail_over: float | None,
    as_json: bool,
) -> None:
    """Compare invoices with the ledger, and name what differs. It is by day, project and model.

    FILE is an export of OpenAI's costs, Anthropic's cost report or console, AWS (cost and usage report), Azure (cost
    management) or Google (billing export), or a CSV with day, provider, project, model, amount_usd; packed (gzip) or not.
    With --fetch the costs come from the provider's API, with the key in OPENAI_ADMIN_KEY, ANTHROPIC_ADMIN_KEY or
    GOOGLE_ACCESS_TOKEN. Only days and providers of the invoice are compared. Causes of a residual:

    \b
    rounding       decimals that the invoice left out
    tax, credit, refund, commitment   what the invoice itself says is no usage
    contract       negotiated discounts (`spanledger contract`)
    unpriced       calls of the ledger without a price (at the mean of those that have one)
    unattributed   calls whose project is unknown
    lost_rows      rows that processes numbered and that never arrived
    duplicates     responses that have more than one row
    price          calls that today's prices would price otherwise (`spanledger reprice`)
    tier           calls whose service tier or batch rate was estimated
    maybe_billed   attempts whose response was lost (at the mean cost of a call)
    other_account  calls of a project that the invoice does not have
    outside        a model or a project without calls in the ledger: they bypassed the instrumentation

    \b
    Examples:
      spanledger reconcile costs.json --fail-over 1
      spanledger reconcile --fetch openai --month 2026-10
    """
    if bool(files) == (source is not None):
        raise click.UsageError("give FILE, or --fetch PROVIDER")
    if source is None and (month or since or until or base_url):
        raise click.UsageError("--month, --since, --until and --base-url belong to --fetch: a file has its own days")
    fetched = _fetched(source, month, since, until, base_url) if source is not None else None
    with ledger() as database:
        lines = _lines(database, files, fetched, provider)
        with spinner("comparing"):
            residuals = reconciling.reconcile(database, lines, project_by)
            if not dry_run:
                reconciling.store_invoice(database, lines)
        notes = list(_notes(database, lines))
    _show(residuals, as_json=as_json)
    for note in notes:
        click.echo(note, err=True)
    billed = sum((residual.invoiced for residual in residuals), Decimal(0))
    unexplained = sum((abs(residual.unexplained) for residual in residuals), Decimal(0))
    if not as_json:
        total = sum((residual.ledger for residual in residuals), Decimal(0))
        console().print(
            f"\ninvoiced {usd(billed)}, ledger {usd(total)}, residual {usd(billed - total)}; "
            f"unexplained {usd(unexplained)} ({share(unexplained, billed)} of the invoice)"
        )
        sums = {cause: sum((residual.causes[cause] for residual in residuals), Decimal(0)) for cause in CAUSES}
        console().print(f"explained by: {_explanation(sums)}", markup=False)
        if any(residual.unexplained < 0 for residual in residuals) and any(r.unexplained > 0 for r in residuals):
            console().print(
                "(unexplained: the sum of amounts without their signs, as those of two lines may cancel out)"
            )
    if fail_over is not None:
        outside = sum((residual.causes["outside"] for residual in residuals), Decimal(0))
        ledger_total = sum((residual.ledger for residual in residuals), Decimal(0))
        if reconciling.share_of(unexplained + outside, billed, ledger_total) * 100 > fail_over:
            raise click.exceptions.Exit(1)


def _notes(database: Ledger, lines: list[InvoiceLine]) -> Iterator[str]:
    """What somebody should know who has brought these lines."""
    unknown = reconciling.unknown_providers(database, {line.provider for line in lines})
    if unknown:
        yield f"no call so far is of {', '.join(unknown)}: is it spelt as on the calls?"
    for month in sorted({line.day.replace(day=1) for line in lines}):
        if closing.closed(database, month):
            yield (
                f"{month:%Y-%m} is closed: what was sealed stays as it is. To seal it with this invoice: "
                f"spanledger close {month:%Y-%m} --reopen, then close it again"
            )


def _fetched(source: str, month: date | None, since: datetime | None, until: datetime | None, base_url: str) -> bytes:
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    if month is not None:
        first, end = days_of(month)
    else:
        first = since.date() if since else yesterday - timedelta(days=2)
        end = (until.date() if until else yesterday) + timedelta(days=1)
    try:
        with spinner(f"fetching the costs of {source}") as note:
            return fetch.fetch(source, first, end, base_url, lambda pages: note(f"{pages} page{'s' * (pages != 1)}"))
    except InvoiceError as error:
        raise click.ClickException(str(error)) from error


def _lines(database: Ledger, files: tuple[Path, ...], fetched: bytes | None, provider: str) -> list[InvoiceLine]:
    rates = exchange_rates.stored(database)
    lines: list[InvoiceLine] = []
    sources: dict[InvoiceLine, str] = {}
    for name, read in (
        *((str(file), file.read_bytes) for file in files),
        *([("the report", lambda: fetched)] if fetched else []),
    ):
        try:
            own = provider_exports.read(read() or b"", provider, rates)
        except (InvoiceError, OSError) as error:
            raise click.ClickException(f"{name}: {error}") from error
        twice = next((line for line in own if line.usd and line in sources), None)
        if twice is not None:
            raise click.ClickException(
                f"{name} and {sources[twice]} have the same line, {usd(twice.usd)} of {twice.provider} on {twice.day}: it would count twice"
            )
        sources |= dict.fromkeys(own, name)
        lines += own
    return lines


def _show(residuals: list[Residual], *, as_json: bool) -> None:
    if as_json:
        names = ("day", "provider", "project", "model", "invoiced_usd", "ledger_usd", "residual_usd",
                 *(f"{cause}_usd" for cause in CAUSES), "unexplained_usd")  # fmt: skip
        rows = [
            (r.day, r.provider, r.project, r.model, r.invoiced, r.ledger, r.residual, *r.causes.values(), r.unexplained)
            for r in residuals
        ]
    else:
        names = ("day", "provider", "project", "model", "invoiced_usd", "ledger_usd", "residual_usd", "explained by", "unexplained_usd")  # fmt: skip
        rows = [
            (
                r.day,
                r.provider,
                r.project,
                r.model,
                r.invoiced,
                r.ledger,
                r.residual,
                _explanation(r.causes),
                r.unexplained,
            )
            for r in residuals
        ]
    types = tuple("Decimal" if name.endswith("_usd") else "String" for name in names)
    show(
        Result(names, types, list(rows)),
        "Invoice and ledger",
        json_output=as_json,
        important=("provider", "model", "invoiced_usd", "ledger_usd", "unexplained_usd", "explained by"),
    )


def _explanation(causes: dict[str, Decimal]) -> str:
    return ", ".join(f"{cause} {usd(amount)}" for cause, amount in causes.items() if abs(amount) >= VISIBLE) or "-"


VISIBLE: Final = Decimal("0.000001")
"""USD: less is not worth a word."""


# --- months -----------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("month", type=MONTH, required=False)
@click.option("--without-invoice", multiple=True, metavar="PROVIDER", help="A provider that sends no invoice for it.")
@PROJECT_BY
@click.option(
    "--max-unexplained", type=PerCent(), default=0.1, show_default=True,
    help="Per cent of a provider's invoice that may be unexplained.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Close although more is unexplained, or the invoice lacks days.")
@click.option("--reopen", is_flag=True, help="Open a closed month again; who did it, and why, is kept in limit_events.")
@click.option("--note", default="", help="Recorded with who closed it.")
@click.option("--dry-run", is_flag=True, help="Show what would be sealed.")
@as_table
@report_user_errors
def close(
    month: date | None,
    without_invoice: tuple[str, ...],
    project_by: str,
    max_unexplained: float,
    force: bool,
    reopen: bool,
    note: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Seal MONTH's ledger and invoice; without MONTH, list sealed ones. The causes of their difference and who closed it are kept.

    The month's invoices are those that `spanledger reconcile` has stored. A closed month is not changed: what comes later,
    late rows or a price that was put right, is an adjustment, which the next month to be closed carries.

    \b
    Examples:
      spanledger close 2026-10 --note "November board"
      spanledger close
    """
    if reopen and month is None:
        raise click.UsageError("--reopen needs MONTH")
    if reopen and (dry_run or force or without_invoice):
        raise click.UsageError(
            "--reopen opens the month at once: --dry-run, --force and --without-invoice belong to closing"
        )
    with ledger() as database:
        if month is None:
            result = database.query("SELECT * FROM month_closing")
            show(
                result,
                "Closed months",
                json_output=as_json,
                important=("provider", "invoiced_usd", "sealed_usd", "adjustment_usd", "unexplained_usd"),
            )
            return
        if reopen:
            _reopen(database, month, note)
            return
        sealed, problems = _compared(database, month, project_by, without_invoice, max_unexplained)
        _show_statements(sealed, as_json=as_json)
        if dry_run:
            for problem in problems:
                click.echo(problem, err=True)
            return
        if problems and not force:
            for problem in problems:
                click.echo(problem, err=True)
            raise click.ClickException(f"{month:%Y-%m} is not closed: reconcile these, or close with --force")
        closing.seal(database, sealed, note)
        audit.log_change(database, "close", "month", f"{month:%Y-%m}", note)
    if not as_json:
        console().print(f"\n{month:%Y-%m} is closed")


def _compared(
    database: Ledger, month: date, project_by: str, without_invoice: tuple[str, ...], max_unexplained: float
) -> tuple[list[closing.Statement], list[str]]:
    """What would be sealed of a month that is open, and what speaks against it."""
    if closing.closed(database, month):
        raise click.ClickException(
            f"{month:%Y-%m} is closed; later corrections are carried by the next month. To open it: --reopen"
        )
    with spinner("comparing"):
        sealed = closing.statements(database, month, project_by, without_invoice=without_invoice)
    if not sealed:
        raise click.ClickException(
            f"there is nothing to close: neither the ledger nor an invoice has costs in {month:%Y-%m}"
        )
    return sealed, _problems(sealed, max_unexplained)


def _problems(sealed: list[closing.Statement], percent: float) -> list[str]:
    problems = [
        f"{usd(s.unexplained)} ({s.unexplained_share:.2%}) of {s.provider} are unexplained, more than {percent:g}%"
        for s in sealed
        if s.unexplained_share * 100 > percent
    ]
    problems += [
        f"{usd(s.causes[cause])} ({s.share_of(s.causes[cause]):.2%}) of {s.provider} are {cause}: {meaning}"
        for s in sealed
        for cause, meaning in UNSEEN.items()
        if cause in s.causes and s.share_of(s.causes[cause]) * 100 > percent
    ]
    problems += [
        f"the invoice of {s.provider} has no line for {len(s.uncovered)} day{'s' * (len(s.uncovered) != 1)} with spend "
        f"({s.uncovered[0]} ...)"
        for s in sealed
        if s.uncovered
    ]
    return problems


UNSEEN: Final = {
    "outside": "spend that no call of the ledger shows",
    "unpriced": "calls without a price, whose cost is only assumed",
}
"""Causes that have a name, and still mean that the ledger does not know the cost."""


def _reopen(database: Ledger, month: date, note: str) -> None:
    if not closing.closed(database, month):
        raise click.ClickException(f"{month:%Y-%m} is not closed")
    rows = database.query("SELECT provider FROM closed_months FINAL WHERE month = {month:Date}", {"month": month}).rows
    nothing = [
        closing.Statement(month, str(name), Decimal(0), Decimal(0), 0, {}, Decimal(0), Decimal(0)) for (name,) in rows
    ]
    closing.seal(database, nothing, note, is_open=True)
    audit.log_change(database, "reopen", "month", f"{month:%Y-%m}", note)
    console().print(f"{month:%Y-%m} is open again")


def _show_statements(sealed: list[closing.Statement], *, as_json: bool) -> None:
    names = (
        "provider",
        "calls",
        "invoiced_usd",
        "ledger_usd",
        "difference_usd",
        "causes",
        "unexplained_usd",
        "adjustments_usd",
    )
    rows: list[tuple[Any, ...]] = [
        (
            s.provider, s.calls, s.invoiced, s.ledger, s.invoiced - s.ledger,
            {cause: str(amount) for cause, amount in s.causes.items()} if as_json else _explanation(s.causes),
            s.unexplained, s.adjustments,
        )
        for s in sealed
    ]  # fmt: skip
    types = tuple("Decimal" if name.endswith("_usd") else "UInt64" if name == "calls" else "String" for name in names)
    title = f"{sealed[0].month:%Y-%m}" if sealed else "No spend"
    show(
        Result(names, types, rows),
        title,
        json_output=as_json,
        important=("invoiced_usd", "ledger_usd", "unexplained_usd", "causes"),
    )


# --- exchange rates -----------------------------------------------------------------------------------------------------


@click.group(cls=Group)
def rates() -> None:
    """Keep exchange rates, for other currencies than USD. Invoices and reports have the rate of the day."""


@rates.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@report_user_errors
def import_rates(file: Path) -> None:
    """Import FILE: the European Central Bank's eurofxref-hist.csv, or a CSV with day, currency, rate (what one US dollar costs).

    \b
    Example:
      spanledger rates import eurofxref-hist.csv
    """
    try:
        read = exchange_rates.read(file.read_bytes())
    except (InvoiceError, OSError) as error:
        raise click.ClickException(f"{file}: {error}") from error
    with ledger() as database, spinner("storing the rates"):
        count = exchange_rates.store(database, read, file.name)
    days = [day for rates_of_days in read.per_usd.values() for day in rates_of_days]
    currencies = ", ".join(sorted(read.per_usd))
    console().print(f"{count:,} rates of {min(days)} to {max(days)}: {currencies}", markup=False)


@rates.command("list")
@as_table
@report_user_errors
def list_rates(as_json: bool) -> None:
    """List the currencies of which the ledger has rates.

    \b
    Example:
      spanledger rates list
    """
    query = (
        "SELECT toString(currency) AS currency, count() AS days, min(day) AS first, max(day) AS last, "
        "argMax(per_usd, day) AS last_per_usd FROM exchange_rates FINAL GROUP BY currency ORDER BY currency"
    )
    with ledger() as database:
        result = database.query(query)
    show(result, "Exchange rates (what one USD costs)", json_output=as_json)


COMMANDS: Final = (reconcile, close, rates)
