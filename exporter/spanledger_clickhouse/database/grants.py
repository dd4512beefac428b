"""Least-privilege GRANT statements for an administrator: writer, reader, maintainer, and one role per tenant.

An application needs only the writer, which can add rows, but not read or change any. Migrations, rollups and
repricing need the maintainer. Views run with the rights of who asks (ClickHouse's default for plain
views), so a tenant's row policy on the tables holds in every view.
"""

from __future__ import annotations

import re
from importlib import resources

from spanledger_clickhouse.database.connection import DatabaseError

TENANT_TABLES = ("llm_calls", "llm_jobs", "llm_costs_1d", "llm_costs_1d_user", "corrections", "revenue", "outcomes")
"""Tables with a tenant_id."""
SHARED_TABLES = (
    "llm_costs_1h",
    "llm_quantiles_1h",
    "ledger_events",
    "budget_alerts",
    "budgets",
    "feature_rules",
    "invoices",
    "exchange_rates",
    "closed_months",
    "contracts",
    "limit_events",
    "llm_prices",
    "assignments",
    "llm_rates",
    "rollup_state",
    "schema_migrations",
)
"""Tables without: a tenant's reader sees nothing of them but the prices."""
PRICE_TABLES = ("llm_prices", "llm_rates")


def _views() -> list[str]:
    """The plain views: no row policy covers materialized views, rollup stages and shards."""
    files = (resources.files("spanledger_clickhouse") / "views").iterdir()
    return sorted(file.name.removesuffix(".sql") for file in files if file.name.endswith(".sql"))


def statements(database: str, tenants: tuple[str, ...] = ()) -> list[str]:
    """The statements, in order.

    Args:
        database: the ledger's database.
        tenants: tenant ids; each gets a role `spanledger_tenant_<id>` that sees its own rows.

    Raises:
        DatabaseError: a name is not valid.
    """
    for name in (database, *tenants):
        if not re.fullmatch(r"[\w.-]+", name):
            raise DatabaseError(f"{name!r} is not a valid name for a role or a database")
    text = (resources.files("spanledger_clickhouse") / "rights.sql").read_text(encoding="utf-8")
    templates = [part.strip() for part in re.sub(r"^--.*$", "", text, flags=re.MULTILINE).split(";") if part.strip()]
    for tenant in tenants:
        role = f"`spanledger_tenant_{tenant}`"
        templates.append(f"CREATE ROLE IF NOT EXISTS {role} SETTINGS PROFILE 'spanledger_reader'")
        templates += [
            f"GRANT SELECT ON {{db}}.{name} TO {role}" for name in (*TENANT_TABLES, *SHARED_TABLES, *_views())
        ]
        visible = dict.fromkeys(TENANT_TABLES, f"tenant_id = '{tenant}'")
        visible |= {table: "0" for table in SHARED_TABLES if table not in PRICE_TABLES}
        templates += [
            f"CREATE ROW POLICY IF NOT EXISTS {role} ON {{db}}.{table} FOR SELECT USING {rows} AS RESTRICTIVE TO {role}"
            for table, rows in visible.items()
        ]
    return [template.replace("{db}", f"`{database}`") for template in templates]
