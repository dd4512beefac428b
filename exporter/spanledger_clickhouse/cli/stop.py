"""`spanledger stop` and `resume`: kill switches for features, users, tenants and tiers in every process, audited."""

from __future__ import annotations

import difflib
import json
from contextlib import ExitStack, nullcontext
from typing import Any, Final

import click

from spanledger.limits.dimensions import normalize_dimension
from spanledger.limits.store.protocol import StoreError
from spanledger.limits.store.redis import RedisStore
from spanledger.semconv.dimensions import BUDGET_DIMENSIONS
from spanledger_clickhouse.budgets import audit
from spanledger_clickhouse.budgets.publish import shared_store
from spanledger_clickhouse.cli.output import as_table, console, ledger, report_user_errors, show
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.database.ledger import Ledger, Result
from spanledger_clickhouse.database.statements import statement


class StopTarget(click.ParamType[tuple[str, str]]):
    """DIMENSION=VALUE."""

    name = "DIMENSION=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        dimension, _, key = str(value).partition("=")
        if dimension not in BUDGET_DIMENSIONS or not key:
            self.fail(
                f"{value!r} is not DIMENSION=VALUE, e.g. feature=summarize ({', '.join(BUDGET_DIMENSIONS)})", param, ctx
            )
        return dimension, normalize_dimension(dimension, key)


def _redis_store() -> RedisStore:
    store = shared_store()
    if store is None:
        raise click.ClickException(
            "SPANLEDGER_REDIS_URL is not set: stops reach every process via Redis. Set it here and in the "
            "application (docs/limits.md)"
        )
    return store


@click.command()
@click.argument("what", type=StopTarget(), required=False)
@click.option("--reason", "why", default="", help="The reason; recorded with user and time in the table limit_events.")
@click.option("--force", is_flag=True, help="Stop a name that no call of the last 90 days has.")
@as_table
@report_user_errors
def stop(what: tuple[str, str] | None, why: str, force: bool, as_json: bool) -> None:
    """Refuse the calls of a user, feature, tenant or tier at once. It holds in every process within five seconds. Without WHAT, list
    the stops.

    A stop applies to applications that enforce limits (docs/limits.md), and reaches them via the Redis of SPANLEDGER_REDIS_URL. A name that no call has is refused: it may be
    misspelt, and the calls that cost money go on. Where the ledger does not answer, the name is not checked.

    \b
    Example:
      spanledger stop feature=summarize --reason "loops since the release of noon"
    """
    try:
        if what is None and why:
            raise click.UsageError("--reason requires WHAT")
        if what is not None and as_json:
            raise click.UsageError("--json is only for the list of stops")
        store = _redis_store()
        stopped = sorted(store.controls().stopped)
        if what is None:
            _list_stops(stopped, as_json=as_json)
            return
        with ExitStack() as stack:  # the ledger is opened once: that takes most of the time
            database = None if force else _answering_ledger(stack)
            if database is not None:
                _check_name(database, *what)
            store.stop("=".join(what))
            console().print(f"{'='.join(what)} is stopped", markup=False)
            _record_audit("stop", what, why, database)
    except StoreError as error:
        prefix = "" if what is None else f"nothing is stopped ({'='.join(what)}): "
        raise click.ClickException(f"{prefix}{error}") from error


def _answering_ledger(stack: ExitStack) -> Ledger | None:
    """The ledger until the stack ends; None if it does not answer: in an emergency the stop is worth more than the check."""
    try:
        return stack.enter_context(ledger())
    except DatabaseError:
        return None


def _check_name(database: Ledger, dimension: str, key: str) -> None:
    """Refuse a name that no call has.

    Raises:
        click.ClickException: the ledger has calls, and none of that name; the message has similar names.
    """
    try:
        query = statement("cli/known_names", column=BUDGET_DIMENSIONS[dimension].column)
        names = [str(name) for (name,) in database.query(query).rows]
        exact = statement("cli/knows_name", column=BUDGET_DIMENSIONS[dimension].column)
        is_known = bool(database.query(exact, {"name": key}).rows[0][0])
        has_calls = bool(names or database.query("SELECT 1 FROM llm_calls LIMIT 1").rows)
    except DatabaseError:
        return
    if is_known or not has_calls:
        return
    near = difflib.get_close_matches(key, names, 3)
    advice = f" Did you mean {' or '.join(f'{dimension}={name}' for name in near)}?" if near else ""
    raise click.ClickException(
        f"nothing is stopped: no call of the last 90 days has {dimension}={key}.{advice} To stop it all the same: --force"
    )


def _list_stops(stops: list[str], *, as_json: bool) -> None:
    """Lists the stops; for people with who, when and why, as far as the ledger knows."""
    if as_json:
        click.echo(json.dumps(stops))
        return
    known: dict[str, tuple[Any, ...]] = {}
    try:
        with ledger() as database:
            known = {str(name): tuple(rest) for name, *rest in database.query(statement("budgets/stops")).rows}
    except DatabaseError as error:
        click.echo(f"note: who stopped what is not known: {error}", err=True)
    rows = [(name, *known.get(name, (None, "", ""))) for name in stops]
    if not rows:
        console().print("nothing is stopped")
        return
    show(
        Result(("stopped", "at", "who", "reason"), ("String", "DateTime", "String", "String"), rows),
        "Stopped",
        json_output=False,
    )


@click.command()
@click.argument("what", type=StopTarget())
@click.option("--reason", "why", default="", help="The reason; recorded with user and time in the table limit_events.")
@report_user_errors
def resume(what: tuple[str, str], why: str) -> None:
    """Lift a stop.

    \b
    Example:
      spanledger resume feature=summarize
    """
    try:
        store = _redis_store()
        if "=".join(what) not in store.controls().stopped:
            raise click.ClickException(f"{'='.join(what)} is not stopped; see `spanledger stop`")
        store.resume("=".join(what))
    except StoreError as error:
        raise click.ClickException(str(error)) from error
    console().print(f"{'='.join(what)} resumed", markup=False)
    _record_audit("resume", what, why)


def _record_audit(kind: str, what: tuple[str, str], why: str, opened: Ledger | None = None) -> None:
    """Writes the audit entry, after the stop: an unavailable ledger does not delay a stop. `opened`: the ledger, if it is open."""
    try:
        with nullcontext(opened) if opened is not None else ledger() as database:
            audit.log_change(database, kind, *what, why)
    except audit.AuditError:
        raise
    except DatabaseError as error:
        raise audit.AuditError(error) from error


COMMANDS: Final = (stop, resume)
