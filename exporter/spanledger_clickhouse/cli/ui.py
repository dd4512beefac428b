"""`spanledger ui`: the ledger as a page in the browser."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import webbrowser
from typing import Final

import click

from spanledger_clickhouse.cli.output import report_user_errors
from spanledger_clickhouse.database.connection import resolve_target


@click.command()
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="The port on 127.0.0.1; default: a free one.")
@click.option("--open/--no-open", "opens", default=True, show_default=True, help="Open the page in the browser.")
@report_user_errors
def ui(port: int, opens: bool) -> None:
    """Open the ledger as a page in the browser.

    Spend against the budget, requests, calls, users, features, models, and an invoice beside the ledger. It is served on
    127.0.0.1 only, to whoever has the address with its token, and it writes nothing. Ctrl-C ends it.

    \b
    Example:
      spanledger ui --no-open --port 8787
    """
    try:
        from spanledger_clickhouse.ui.server import Ui, serve
    except ImportError as error:
        raise click.ClickException(f"{error}: pip install 'spanledger[ui]'") from error
    target = resolve_target()
    token = secrets.token_urlsafe(24)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()  # before a browser comes
        except OSError as error:
            raise click.ClickException(
                f"port {port} cannot be used: {error.strerror}; give another one, or none"
            ) from error
        pages, base = Ui(target, token), f"http://{HOST}:{listener.getsockname()[1]}/?token="
        click.echo(f"The ledger {target.masked_dsn}: {base}{token}\nCtrl-C ends it.", err=True)
        if opens:
            webbrowser.open(f"{base}{pages.ticket()}")
        with contextlib.suppress(KeyboardInterrupt):
            serve(pages.app(), listener)
    os._exit(0)  # a page that still waits for its ledger is a thread that cannot be ended


HOST: Final = "127.0.0.1"
COMMANDS: Final = (ui,)
