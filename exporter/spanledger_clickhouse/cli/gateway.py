"""`spanledger gateway`: OTLP/HTTP receiver that writes spans to ClickHouse."""

from __future__ import annotations

import ipaddress
import logging
from pathlib import Path
from typing import Final

import click

from spanledger.runtime import settings
from spanledger_clickhouse.cli.output import report_user_errors
from spanledger_clickhouse.database.connection import DatabaseError, resolve_target

MEGABYTE: Final = 1 << 20
DRAIN_SECONDS: Final = 30


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
    no_rollups: bool,
) -> None:
    """Receive spans over OTLP/HTTP and write them to ClickHouse.

    For a Collector, or any OpenTelemetry SDK. The gateway returns 200 when ClickHouse has committed, prices spans that
    arrive without a price, and drops spans that are not LLM calls. /healthz, /readyz and /metrics report its state. On
    SIGTERM it commits the pending requests and exits.

    \b
    Example:
      SPANLEDGER_DSN=clickhouse://writer:secret@db:8123/spanledger \\
      SPANLEDGER_GATEWAY_TOKENS='*=a-long-random-token' spanledger gateway --host 0.0.0.0
    """
    try:
        import uvicorn

        from spanledger_clickhouse.gateway.connections import raise_descriptor_limit, request_protocol
        from spanledger_clickhouse.gateway.server import Gateway, Limits, load_tokens
    except ImportError as error:
        raise click.ClickException(f"{error}: pip install 'spanledger[gateway]'") from error
    from spanledger_clickhouse.gateway.group_commit import GroupCommitWriter

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
    limits = Limits(max_request_mb * MEGABYTE, max_waiting_mb * MEGABYTE)
    intake = GroupCommitWriter(
        ledger_target, settings.spool_dir(), limits.waiting_bytes, refresh_rollups=not no_rollups
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    click.echo(
        f"spans from http{'s' if tls_key else ''}://{host}:{port}/v1/traces go to {ledger_target.masked_dsn}", err=True
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
