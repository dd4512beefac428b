"""Spanledger: every LLM call of an application as a priced, attributed row.

Most applications import nothing from this package: they start with `opentelemetry-instrument`. The public API is
for applications that build their own TracerProvider (`install`), ship rows immediately (`flush`), set attribution
without middleware (`attribution`, `feature`, `unit`, `carry`, `carried`), call a model through a client that
Spanledger does not instrument (`record`), pay for what is no model (`charge`), say what became of the work (`outcome`), or enforce limits in their own code (`check_request_allowed`,
`record_actual_cost`).

PYTEST_DONT_REWRITE: pytest rewrites the assertions of plugins, and warns of those that were imported before it began.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from spanledger.runtime.version import VERSION

if TYPE_CHECKING:
    from spanledger.bootstrap import flush, install
    from spanledger.context.scopes import attribution, carried, carry, feature, unit
    from spanledger.context.unattributed import AttributionRequired
    from spanledger.limits.api import check_request_allowed, record_actual_cost
    from spanledger.limits.errors import BudgetExceeded
    from spanledger.manual import charge, outcome, record

__version__ = VERSION

__all__ = [
    "AttributionRequired",
    "BudgetExceeded",
    "__version__",
    "attribution",
    "carried",
    "carry",
    "charge",
    "check_request_allowed",
    "feature",
    "flush",
    "install",
    "outcome",
    "record",
    "record_actual_cost",
    "unit",
]


_EXPORT_MODULES = {
    "install": "bootstrap",
    "flush": "bootstrap",
    **dict.fromkeys(("record", "charge", "outcome"), "manual"),
    "AttributionRequired": "context.unattributed",
    "BudgetExceeded": "limits.errors",
    **dict.fromkeys(("check_request_allowed", "record_actual_cost"), "limits.api"),
    **dict.fromkeys(("attribution", "carried", "carry", "feature", "unit"), "context.scopes"),
}


def __getattr__(name: str) -> object:
    """Import a public name on first use: `import spanledger` alone loads no SDK."""
    home = _EXPORT_MODULES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"spanledger.{home}"), name)
