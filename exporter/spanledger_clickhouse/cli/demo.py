"""`spanledger demo`: the whole way from a call to a sum, on this machine, without keys."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

import click

NEEDED: Final = ("fastapi", "uvicorn", "httpx", "openai", "anthropic", "google.genai", "chdb")


@click.command()
@click.option("--requests", type=click.IntRange(1), default=60, show_default=True, help="How many requests to send.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".demo"),
    show_default=True,
    help="Directory of the application and its ledger; an earlier demo there is replaced.",
)
def demo(requests: int, keep: Path) -> None:
    """See it work: an application with three SDKs, on this machine. It ends with the spend of its requests.

    Needs no keys and no network. It uses none of your settings, and writes only to --keep. Exit status 1 if the
    ledger's sum is not what the provider sold.

    \b
    Example:
      pip install "spanledger[demo]" && spanledger demo
    """
    missing = [package for package in NEEDED if not _is_installed(package)]
    if missing:
        raise click.ClickException(f"the demo needs {', '.join(missing)}: pip install 'spanledger[demo]'")
    from spanledger_clickhouse.demo.run import DemoError, run

    try:
        same = run(requests, keep.absolute())
    except DemoError as error:
        raise click.ClickException(str(error)) from error
    if not same:
        raise SystemExit(1)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # nor the package that it would be in
        return False


COMMANDS: Final = (demo,)
