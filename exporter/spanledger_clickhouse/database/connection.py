"""Connects to the ledger's ClickHouse from a DSN: a server over HTTP(S), or chDB in this process."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from spanledger.runtime import settings
from spanledger.runtime.file_locks import Lock, try_lock

DEFAULT_DATABASE: Final = "spanledger"
TLS_SCHEMES: Final = frozenset({"https", "clickhouses"})
WAIT_SECONDS: Final = 60.0
"""How long a command waits for another process that holds the embedded ledger."""
OPEN_ATTEMPTS: Final = 3
"""How often opening an unlocked embedded ledger may fail: another process held it briefly, or it is corrupt."""
UTC_OPTIONS: Final = {"tz_source": "server", "tz_mode": "aware"}
"""How a client reads times: see `_in_utc`."""
SERVER_SCHEMES: Final = frozenset({"http", "clickhouse"}) | TLS_SCHEMES


class DatabaseError(Exception):
    """The ledger's database cannot be used; the message says why and what to do, without any password."""


@dataclass(frozen=True)
class Target:
    """Address of the ledger: DSN and database name."""

    dsn: str
    database: str

    @property
    def embedded(self) -> bool:
        return self.dsn.startswith("chdb:")

    @property
    def masked_dsn(self) -> str:
        """The DSN without its password."""
        return settings.mask_credentials(self.dsn)


def resolve_target(dsn: str | None = None) -> Target:
    """The ledger to use: `dsn`, else SPANLEDGER_DSN, else the embedded one in the state directory.

    Raises:
        DatabaseError: the DSN is not valid.
    """
    dsn = dsn or settings.setting("dsn") or f"chdb://{settings.state_dir() / 'ledger'}"
    parts = urlsplit(dsn)
    if re.match(r"chdb:///*[^/?]", dsn):
        return Target(dsn, DEFAULT_DATABASE)
    if parts.scheme not in SERVER_SCHEMES or not parts.hostname or not _has_port(parts):
        raise DatabaseError(
            f"SPANLEDGER_DSN={settings.mask_credentials(dsn)!r} is not a valid DSN: use clickhouse[s]://user:password@host:port/database, "
            "http(s)://..., or chdb:///path"
        )
    return Target(dsn, parts.path.strip("/") or DEFAULT_DATABASE)


def _has_port(parts: SplitResult) -> bool:
    """Whether the port is a number or left out; a password with an unescaped / ends up in its place."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


@contextmanager
def open_client(target: Target) -> Generator[Any]:
    """Open a clickhouse-connect client for `target`, and close it at the end.

    Raises:
        DatabaseError: the server does not answer, refuses the login, or the embedded ledger is in use.
    """
    client = connect(target)
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # an error while closing does not matter: the work is done
            client.close()


def connect(target: Target) -> Any:
    """A clickhouse-connect client; the caller closes it. Raises DatabaseError as `open_client` does."""
    clickhouse_connect: Any = importlib.import_module("clickhouse_connect")
    from clickhouse_connect.driver.exceptions import Error

    # The driver logs statements and tracebacks itself; our errors have what matters.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    try:
        if target.embedded:
            return _use_utc(_embedded_client(target, clickhouse_connect))
        parts = urlsplit(target.dsn)
        client = clickhouse_connect.get_client(
            **UTC_OPTIONS,
            host=parts.hostname or "localhost",
            port=parts.port or (8443 if parts.scheme in TLS_SCHEMES else 8123),
            username=_unquoted(parts.username),
            password=_unquoted(parts.password) or "",
            secure=parts.scheme in TLS_SCHEMES,
            connect_timeout=5,
            send_receive_timeout=60,
            autogenerate_session_id=False,  # a session would serialise, and fail, concurrent queries
        )
        return _use_utc(client)
    except ImportError as error:
        raise DatabaseError(
            f"the embedded ledger needs chDB, which {sys.prefix} lacks: use the spanledger command that was installed "
            "with 'spanledger[embedded]', install that here, or set SPANLEDGER_DSN to a ClickHouse server"
        ) from error
    except (Error, OSError) as error:
        if target.embedded:
            raise _in_use_error(target) from error
        what = "refused by" if getattr(error, "code", None) == AUTHENTICATION_FAILED else "cannot reach"
        raise DatabaseError(f"{what} ClickHouse at {target.masked_dsn}: {reason(error)}") from error


def _use_utc(client: Any) -> Any:
    """The client, whose every time is aware, and in UTC unless a query asks for another zone.

    A column without a zone is one of the server's zone: a server may stand in any, the embedded engine has that of the
    process, and its driver loses the zone of `DateTime('UTC')` (clickhouse-connect 1.12, `_chdbclient`): there a
    `DateTime` of another zone, which a query asks for, is shown in UTC too.
    """
    client.server_tz = UTC
    client.query = functools.partial(client.query, query_tz="UTC")
    return client


def _embedded_client(target: Target, clickhouse_connect: Any) -> Any:
    path = Path(target.dsn.removeprefix("chdb://").partition("?")[0]).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise DatabaseError(f"the embedded ledger {target.masked_dsn} cannot be created: {error.strerror}") from error
    end = time.monotonic() + WAIT_SECONDS
    failures = 0
    while True:
        while _is_locked(path / "status"):
            if time.monotonic() > end:
                raise _in_use_error(target)
            time.sleep(0.05)
        try:
            return clickhouse_connect.get_client(dsn=f"chdb://{path.absolute()}", **UTC_OPTIONS)
        except clickhouse_connect.driver.exceptions.Error:
            failures += not _is_locked(path / "status")  # else another was faster: the engine does not say it
            if failures == OPEN_ATTEMPTS or time.monotonic() > end:
                raise
            time.sleep(0.2)


def _in_use_error(target: Target) -> DatabaseError:
    return DatabaseError(
        f"the embedded ledger {target.masked_dsn} cannot be opened. Only one process at a time can hold it: "
        "is another spanledger command running?"
    )


def _is_locked(status: Path) -> bool:
    """Whether another process has the embedded ledger open: ClickHouse locks this file of it."""
    try:
        file = os.open(status, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return try_lock(file, shared=True) is Lock.BUSY and not _is_own_lock(os.fstat(file))
    finally:
        os.close(file)


def _is_own_lock(status: os.stat_result) -> bool:
    """Whether this process itself has the file open; true if the system cannot report it."""
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return True
    opened = 0
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            opened += os.path.samestat(os.fstat(int(name)), status)
    return opened > 1  # one of them is our own probe


def _unquoted(part: str | None) -> str | None:
    from urllib.parse import unquote

    return unquote(part) if part is not None else None


ACCESS_DENIED: Final = 497
AUTHENTICATION_FAILED: Final = 516


def is_access_denied(error: DatabaseError) -> bool:
    """Whether ClickHouse reported missing privileges."""
    return getattr(error.__cause__, "code", None) == ACCESS_DENIED


def reason(error: BaseException) -> str:
    """Message of a driver error, on one line and at most 300 characters; for a failed connection only the system's
    message."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split()) or type(error).__name__
    return settings.mask_credentials(text)[:300]
