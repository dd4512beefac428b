"""The dimensions of attribution (user, feature, tenant, ...), one row each, read by everything that handles them.

A field is the keyword of `spanledger.attribution`, the rule of the middleware and the name in a budget's scope; its
`Dimension` says where the value is kept. A new dimension is a field here and a column in a new file of `schema/`.
"""  # without postponed annotations: the rows are read from them

from typing import Annotated, Final, NamedTuple, TypedDict

from spanledger.semconv import attributes as a


class Dimension(NamedTuple):
    """Where the values of one dimension are kept."""

    attribute: str
    """The span attribute, and the baggage key."""
    column: str
    """The column of `llm_calls`."""
    aliases: tuple[str, ...] = ()
    """Other baggage keys, and attributes of other instrumentors; the canonical name wins."""
    label: str = ""
    """The name on screens and in options, where it differs from the field."""
    expected: bool = False
    """Whether a call without it is incompletely attributed."""
    is_key: bool = False
    """Whether it is a part of the table's sorting key: then it is '' where it is missing, not NULL."""
    is_identifier: bool = False
    """Whether its values are too many for a dictionary encoding (LowCardinality)."""


class BudgetDimensions(TypedDict, total=False):
    """Dimensions that budgets and stops can select by. None: unattributed."""

    user: Annotated[
        str | None,
        Dimension(a.USER_ID, "user_id", ("enduser.id", "user_id", "gen_ai.user"), expected=True, is_identifier=True),
    ]
    feature: Annotated[str | None, Dimension(a.FEATURE, "feature", ("feature", "feature_id"), expected=True)]
    tenant: Annotated[str | None, Dimension(a.TENANT_ID, "tenant_id", ("tenant.id", "tenant_id"), is_key=True)]
    tier: Annotated[str | None, Dimension(a.CUSTOMER_TIER, "customer_tier", ("tier",))]


class Attribution(BudgetDimensions, total=False):
    """All dimensions. None: unattributed."""

    request_id: Annotated[
        str | None,
        Dimension(
            a.REQUEST_ID, "request_id", ("request.id", "request_id"), "request", expected=True, is_identifier=True
        ),
    ]
    session: Annotated[str | None, Dimension(a.SESSION_ID, "session_id", ("session_id",), is_identifier=True)]
    team: Annotated[str | None, Dimension(a.TEAM, "team", ("team", "team_id", "cost_center", "cost.center"))]
    project: Annotated[str | None, Dimension(a.PROJECT, "project", ("project.id", "project_id"))]
    conversation: Annotated[str | None, Dimension(a.CONVERSATION_ID, "conversation_id", is_identifier=True)]


class LimitDimensions(BudgetDimensions, total=False):
    """Dimensions that a file of limits can select by: those of budgets, and those that name one run of an agent."""

    request_id: str | None
    session: str | None
    conversation: str | None


def _rows(table: type) -> dict[str, Dimension]:
    rows: dict[str, Dimension] = {name: hint.__metadata__[0] for name, hint in table.__annotations__.items()}
    return {name: row._replace(label=row.label or name) for name, row in rows.items()}


DIMENSIONS: Final = _rows(Attribution)
"""Field -> its row."""
BUDGET_DIMENSIONS: Final = {name: DIMENSIONS[name] for name in BudgetDimensions.__annotations__}
"""Those that budgets and stops can select by."""
LIMIT_DIMENSIONS: Final = {name: DIMENSIONS[name] for name in LimitDimensions.__annotations__}
"""Those that limits in a process can select by: there is no query that would have to add up each request."""
BAGGAGE_KEYS: Final = {
    **{row.attribute: row.attribute for row in DIMENSIONS.values()},
    **{alias: row.attribute for row in DIMENSIONS.values() for alias in row.aliases},
}
"""Baggage key -> attribute."""
BY_LABEL: Final = {row.label: row for row in DIMENSIONS.values()}
"""Name in options and on screens -> its row."""
