"""`spanledger gateway`: OTLP/HTTP receiver that writes spans to ClickHouse."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from spanledger.runtime import settings
from spanledger_clickhouse.cli.output import report_user_errors
from spanledger_clickhouse.database.connection import DatabaseError, Target, resolve_target

if TYPE_CHECKING:
    from spanledger_clickhouse.gateway.server import Limits

MEGABYTE: Final = 1 << 20
DRAIN_SECONDS: Final = 30
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, envvar="SPANLEDGER_GATEWAY_HOST", help="The address to listen on."
)
@click.option(
    "--port", default=4319, show_default=True, envvar="SPANLEDGER_GATEWAY_PORT", type=click.IntRange(0, 65535)
)
@click.option(
    "--tokens-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), envvar="SPANLEDGER_GATEWAY_TOKENS_FILE",
    help="Lines of tenant=token; *=token accepts spans of any tenant. Also SPANLEDGER_GATEWAY_TOKENS=tenant=token,...",
)  # fmt: skip
@click.option("--no-auth", is_flag=True, help="Accept spans without a token, even on an address that is not loopback.")
@click.option(
    "--tls-certificate", type=click.Path(exists=True, dir_okay=False), envvar="SPANLEDGER_GATEWAY_TLS_CERTIFICATE"
)
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False), envvar="SPANLEDGER_GATEWAY_TLS_KEY")
@click.option(
    "--max-request-mb", default=64, show_default=True, type=click.IntRange(1), help="The largest request, uncompressed."
)
@click.option(
    "--max-waiting-mb",
    default=256,
    show_default=True,
    type=click.IntRange(1),
    help="The most that all pending requests may hold.",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Processes, each with a port of its own: the given one and those after it.",
)
@click.option("--no-rollups", is_flag=True, help="Leave the rollups to another process (spanledger rollup).")
@report_user_errors
def gateway(
    host: str,
    port: int,
    tokens_file: Path | None,
    no_auth: bool,
    tls_certificate: str | None,
    tls_key: str | None,
    max_request_mb: int,
    max_waiting_mb: int,
    workers: int,
    no_rollups: bool,
) -> None:
    """Receive spans over OTLP/HTTP and write them to ClickHouse.

    For a Collector, or any OpenTelemetry SDK. The gateway returns 200 when ClickHouse has committed, prices spans that
    arrive without a price, and drops spans that are not LLM calls. /healthz, /readyz and /metrics report its state. On
    SIGTERM it commits the pending requests and exits. With --workers there is a process for each core: give each Collector
    the port of one of them, as the spans of a trace belong together.

    \b
    Example:
      SPANLEDGER_DSN=clickhouse://writer:secret@db:8123/spanledger \\
      SPANLEDGER_GATEWAY_TOKENS='*=a-long-random-token' spanledger gateway --host 0.0.0.0
    """
    try:
        import uvicorn  # noqa: F401 # pyright: ignore[reportUnusedImport]

        from spanledger_clickhouse.gateway.server import Limits, load_tokens
    except ImportError as error:
        raise click.ClickException(f"{error}: pip install 'spanledger[gateway]'") from error
    try:
        tokens = load_tokens(tokens_file, settings.setting("gateway_tokens"))
    except (OSError, ValueError) as error:
        raise DatabaseError(f"the gateway's tokens cannot be read: {error}") from error
    if not tokens and not no_auth and not _loopback(host):
        raise click.UsageError(
            f"{host} is not a loopback address: set SPANLEDGER_GATEWAY_TOKENS or --tokens-file, or give --no-auth"
        )
    if max_waiting_mb < 2 * max_request_mb:
        raise click.UsageError(
            "--max-waiting-mb must be at least twice --max-request-mb: otherwise a single request fills it"
        )
    if bool(tls_certificate) != bool(tls_key):
        raise click.UsageError("--tls-certificate and --tls-key go together")
    ledger_target = resolve_target()
    if workers > 1 and ledger_target.embedded:
        raise click.UsageError("--workers needs a ClickHouse server: an embedded ledger is open in one process")
    if workers > 1 and port + workers - 1 > 65535:
        raise click.UsageError(f"--workers {workers} needs the ports {port} to {port + workers - 1}")
    settings_of_all: dict[str, Any] = {
        "host": host,
        "tokens": tokens,
        "limits": Limits(max_request_mb * MEGABYTE, max_waiting_mb * MEGABYTE),
        "ledger_target": ledger_target,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
    }
    scheme = f"http{'s' if tls_key else ''}"
    ports = f"{port} to {port + workers - 1}" if workers > 1 else str(port)
    click.echo(f"spans from {scheme}://{host}:{ports}/v1/traces go to {ledger_target.masked_dsn}", err=True)
    if workers == 1:
        _serve(port=port, refresh_rollups=not no_rollups, **settings_of_all)
        return
    from spanledger_clickhouse.gateway.workers import run_workers

    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    run_workers(
        workers,
        _serve,
        lambda number: {
            "port": port + number, "refresh_rollups": number == 0 and not no_rollups, **settings_of_all,
        },
    )  # fmt: skip


def _serve(
    *,
    host: str,
    port: int,
    tokens: Mapping[str, str],
    limits: Limits,
    ledger_target: Target,
    tls_certificate: str | None,
    tls_key: str | None,
    refresh_rollups: bool,
) -> None:
    """One gateway, in this process, until SIGTERM."""
    import uvicorn

    from spanledger_clickhouse.gateway.connections import raise_descriptor_limit, request_protocol
    from spanledger_clickhouse.gateway.group_commit import GroupCommitWriter
    from spanledger_clickhouse.gateway.server import Gateway

    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    intake = GroupCommitWriter(
        ledger_target, settings.spool_dir(), limits.waiting_bytes, refresh_rollups=refresh_rollups
    )
    raise_descriptor_limit()
    uvicorn.run(
        Gateway(intake, tokens, limits).app(),
        http=request_protocol(),
        host=host,
        port=port,
        ssl_certfile=tls_certificate,
        ssl_keyfile=tls_key,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # whoever sends X-Forwarded-For would choose whose queue it is
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


COMMANDS: Final = (gateway,)
