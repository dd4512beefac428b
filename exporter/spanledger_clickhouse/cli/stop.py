"""`spanledger stop` and `resume`: refuse a feature, user, tenant or tier in every process, within seconds, and say who did it."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from spanledger.limits.dimensions import on_rows
from spanledger.limits.policy import DIMENSIONS
from spanledger.limits.store.protocol import StoreError
from spanledger.limits.store.redis import RedisStore
from spanledger_clickhouse.budgets import audit
from spanledger_clickhouse.budgets.publish import shared_store
from spanledger_clickhouse.cli.output import as_json, console, ledger, reported
from spanledger_clickhouse.database.connection import DatabaseError


class What(click.ParamType[tuple[str, str]]):
    """DIMENSION=VALUE."""

    name = "DIMENSION=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        dimension, _, key = str(value).partition("=")
        if dimension not in DIMENSIONS or not key:
            self.fail(f"{value!r} is not DIMENSION=VALUE, e.g. feature=summarize ({', '.join(DIMENSIONS)})", param, ctx)
        return dimension, on_rows(dimension, key)


def _store() -> RedisStore:
    store = shared_store()
    if store is None:
        raise click.ClickException(
            "SPANLEDGER_REDIS_URL is not set: it is by way of Redis that every process hears of it. Set it here and in the "
            "application (docs/limits.md)"
        )
    return store


@click.command()
@click.argument("what", type=What(), required=False)
@click.option("--reason", "why", default="", help="Why; it is kept with who and when in the table limit_events.")
@as_json
@reported
def stop(what: tuple[str, str] | None, why: str, as_json: bool) -> None:
    """Refuse calls of a feature, user, tenant or tier, in every process within five seconds; without WHAT, list what is.

    It is in force where the application enforces limits (docs/limits.md).

    \b
    Example:
      spanledger stop feature=summarize --reason "loops since the release of noon"
    """
    try:
        if what is None and why:
            raise click.UsageError("--reason goes with what is to be stopped")
        if what is not None and as_json:
            raise click.UsageError("--json goes with the list of what is stopped")
        store = _store()
        if what is None:
            stops = sorted(store.controls().stopped)
            if as_json:
                click.echo(json.dumps(stops))
            for line in [] if as_json else stops or ["nothing is stopped"]:
                console().print(line, markup=False)
            return
        store.stop("=".join(what))
    except StoreError as error:
        prefix = "" if what is None else f"nothing is stopped ({'='.join(what)}): "
        raise click.ClickException(f"{prefix}{error}") from error
    console().print(f"{'='.join(what)} is stopped", markup=False)
    _note("stop", what, why)


@click.command()
@click.argument("what", type=What())
@click.option("--reason", "why", default="", help="Why; it is kept with who and when in the table limit_events.")
@reported
def resume(what: tuple[str, str], why: str) -> None:
    """Let go on what `spanledger stop` has stopped.

    \b
    Example:
      spanledger resume feature=summarize
    """
    try:
        store = _store()
        if "=".join(what) not in store.controls().stopped:
            raise click.ClickException(f"{'='.join(what)} is not stopped; see `spanledger stop`")
        store.resume("=".join(what))
    except StoreError as error:
        raise click.ClickException(str(error)) from error
    console().print(f"{'='.join(what)} goes on", markup=False)
    _note("resume", what, why)


def _note(kind: str, what: tuple[str, str], why: str) -> None:
    """A row of who did it. It comes after the deed: a ledger that is away delays no stop."""
    try:
        with ledger() as database:
            audit.note(database, kind, *what, why)
    except audit.NotNotedError:
        raise
    except DatabaseError as error:
        raise audit.NotNotedError(error) from error


COMMANDS: Final = (stop, resume)
