"""Reprices stored calls with corrected prices, or with prices that were published after the calls.

A correction is a new version of the row; what was there before stands in `corrections`. Calls are priced as of the time
at which they ended. What the provider itself stated as the cost, and what it never billed, is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple, cast

from spanledger.pricing import Price
from spanledger.pricing.price import BILLED_ELSEWHERE, CACHE_HIT, ERROR, NOT_BILLED, PROVIDER_REPORTED
from spanledger.pricing.price_table import prices
from spanledger.runtime.guard import quietly
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import DatabaseError, Target, reason
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.rows.rows import COLUMNS, Row, billed_call, price_columns

CORRECTIONS_PER_INSERT: Final = 2000
"""Corrections in one insert."""

AUDIT_COLUMNS: Final = {
    "start_time": "DateTime64(6, 'UTC')",
    "tenant_id": "LowCardinality(String)",
    "trace_id": "String",
    "span_id": "String",
    "model": "LowCardinality(String)",
    "old_cost_usd": "Nullable(Decimal(18, 12))",
    "new_cost_usd": "Nullable(Decimal(18, 12))",
    "old_price_status": "LowCardinality(String)",
    "new_price_status": "LowCardinality(String)",
    "old_price_key": "LowCardinality(String)",
    "new_price_key": "LowCardinality(String)",
    "old_price_version": "LowCardinality(String)",
    "new_price_version": "LowCardinality(String)",
}
"""Column of `corrections` -> its type."""


@dataclass
class ModelChange:
    """Effect of repricing on the calls of one model."""

    model: str
    calls: int = 0
    newly_priced: int = 0
    """Calls that had no price before."""
    old_usd: Decimal = Decimal(0)
    new_usd: Decimal = Decimal(0)
    lost: int = 0
    """Calls that had a price before, and have none now: their new cost counts as 0 in `new_usd`."""


class Correction(NamedTuple):
    """A corrected row, and its row of the audit table `corrections`."""

    row: Row
    audit: Row
    old_version: int = 0
    """`row_version` of the row that it corrects: the clock of the host that made it, or of an earlier correction."""


def reprice(
    client: Any,
    target: Target,
    since: datetime,
    until: datetime,
    *,
    model: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int], None] = lambda _, __: None,
) -> list[ModelChange]:
    """Price the calls of a window with the current prices, and correct those whose cost differs.

    It is idempotent and resumable: correct rows are skipped. Rows that were priced by the user's own rates are left alone where
    this process has none (`SPANLEDGER_PRICE_OVERRIDES`).

    Args:
        client: an open connection whose schema is in place.
        target: the ledger.
        since: start of the window, inclusive, UTC.
        until: end of the window, exclusive.
        model: only calls whose request or response model is this one.
        dry_run: change nothing.
        progress: called with (hours done, hours in total).

    Returns:
        What changed (or would), by model, the largest difference first.

    Raises:
        DatabaseError: ClickHouse refused a step; completed corrections are kept.
    """
    from clickhouse_connect.driver.exceptions import Error

    changes: dict[str, ModelChange] = {}
    try:
        hours = _hours(client, target, since, until)
        for number, hour in enumerate(hours):
            corrections = _corrections(client, target, max(hour, since), min(hour + timedelta(hours=1), until), model)
            for correction in corrections:
                _add_to_changes(changes, correction)
            if not dry_run:
                for begin in range(0, len(corrections), CORRECTIONS_PER_INSERT):
                    _write(client, target, hour, corrections[begin : begin + CORRECTIONS_PER_INSERT])
            progress(number + 1, len(hours))
    except Error as error:
        raise DatabaseError(f"pricing {target.masked_dsn} again failed: {reason(error)}") from error
    return sorted(changes.values(), key=lambda change: -abs(change.new_usd - change.old_usd))


def _hours(client: Any, target: Target, since: datetime, until: datetime) -> list[datetime]:
    response = client.query(
        statement("prices/hours_with_calls", db=f"`{target.database}`"),
        parameters={"since": since, "until": until},
    )
    return [row[0] for row in response.result_rows]


def _corrections(client: Any, target: Target, since: datetime, until: datetime, model: str | None) -> list[Correction]:
    response = client.query(
        statement("prices/calls", db=f"`{target.database}`", columns=", ".join([*COLUMNS, "row_version"])),
        parameters={
            "since": since,
            "until": until,
            "model": model or "",
            "excluded": list(NOT_REPRICED),
        },
    )
    corrections: list[Correction] = []
    for values in response.result_rows:
        correction = correction_for(dict(zip(COLUMNS, values[:-1], strict=True)))
        if correction is not None:
            corrections.append(correction._replace(old_version=values[-1]))
    return corrections


def differences(
    ledger: Ledger, since: datetime, until: datetime, project: str, parameters: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], Decimal]]:
    """What the prices in force now would change in the cost of each call of a window.

    Args:
        ledger: an open ledger.
        since: start, inclusive, UTC.
        until: end, exclusive.
        project: SQL expression of a call's provider project.
        parameters: of that expression.

    Yields:
        (the row with `project` and `model`, the new cost less the old one in USD), for priced calls whose cost would differ.
    """
    columns = ", ".join(f"c.{column}" for column in COLUMNS)
    query = statement("prices/calls_of_projects", columns=columns, project=project)
    window = {"since": since, "until": until, "excluded": list(NOT_REPRICED), **parameters}
    for values in ledger.query(query, window).rows:
        row = dict(zip((*COLUMNS, "project", "model"), values, strict=True))
        if row["cost_usd"] is None:
            continue
        correction = correction_for(row)
        if correction is not None and (new := correction.row[COST]) is not None:
            yield row, cast("Decimal", new) - row["cost_usd"]


NOT_REPRICED: Final = (NOT_BILLED, PROVIDER_REPORTED, CACHE_HIT, BILLED_ELSEWHERE)
"""Statuses of costs that no price list decides."""
COST: Final = list(COLUMNS).index("cost_usd")


def correction_for(row: dict[str, Any]) -> Correction | None:
    """The correction that a row needs; None if the current prices give the cost that it has.

    Args:
        row: column -> value, all of `COLUMNS`; times are aware.
    """
    if is_of_own_rates(row) and not prices().overrides.table.version:
        return None
    price = Price(ERROR)
    with quietly("pricing a row"):
        price = billed_call(row).price()
    if price.status == ERROR and row["price_status"]:
        return None  # keep its price if a new one cannot be computed
    new = {**row, **price_columns(price)}
    if row["cost_usd"] == new["cost_usd"] and (
        row["cost_usd"] is not None or row["price_status"] == new["price_status"]
    ):
        return None
    audit = (
        row["start_time"], row["tenant_id"], row["trace_id"], row["span_id"], row["response_model"] or row["request_model"],
        row["cost_usd"], new["cost_usd"], row["price_status"], new["price_status"], row["price_key"], new["price_key"],
        row["price_version"], new["price_version"],
    )  # fmt: skip
    return Correction(tuple(new[column] for column in COLUMNS), audit)


def is_of_own_rates(row: Mapping[str, Any]) -> bool:
    """Whether the user's own rates or names gave a row its price: without them it would only lose it."""
    return row["price_source"] == "override" or "alias" in row["price_flags"]


def _add_to_changes(changes: dict[str, ModelChange], correction: Correction) -> None:
    audit = dict(zip(AUDIT_COLUMNS, correction.audit, strict=True))
    name = str(audit["model"])
    change = changes.setdefault(name, ModelChange(name))
    change.calls += 1
    change.newly_priced += audit["old_cost_usd"] is None and audit["new_cost_usd"] is not None
    change.lost += audit["new_cost_usd"] is None and audit["old_cost_usd"] is not None
    change.old_usd += _amount(audit["old_cost_usd"])
    change.new_usd += _amount(audit["new_cost_usd"])


def _amount(value: object) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(0)


def _write(client: Any, target: Target, hour: datetime, corrections: Sequence[Correction]) -> None:
    """Write the audit rows first: after a crash the same rows are written again and deduplicated.

    The rows get a version above those that they correct, which are in the future where the clock of a host was ahead.

    Raises:
        DatabaseError: what was written does not show when it is read again.
    """
    client.insert(
        f"`{target.database}`.corrections",
        [correction.audit for correction in corrections],
        column_names=list(AUDIT_COLUMNS),
        column_type_names=list(AUDIT_COLUMNS.values()),
    )
    version = max(time.time_ns() // 1_000_000, 1 + max(correction.old_version for correction in corrections))
    insert.insert(client, target, [correction.row for correction in corrections], row_version=version)
    found = client.query(
        statement("prices/corrected", db=f"`{target.database}`"), parameters={"hour": hour, "version": version}
    ).result_rows[0][0]
    if found < len(corrections):
        raise DatabaseError(
            f"{len(corrections):,} calls of {hour:%Y-%m-%d %H:00} were corrected, but only {found:,} show it when they are "
            "read again: run reprice again, and `spanledger doctor` if that does not help"
        )
