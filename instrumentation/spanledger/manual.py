"""Manual recording: `record()` writes a row for a call that is not instrumented, `charge()` for what is no model, and `outcome()` says
what became of the work.

A response that the instrumentation has already recorded is not recorded again: it is recognised by object identity
(held weakly), or by provider and response id. So code that logged its calls before Spanledger came can stay as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, cast

from opentelemetry import baggage
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from spanledger import bootstrap
from spanledger.capture import admission
from spanledger.capture.call import Call, seen_responses
from spanledger.capture.jobs import attribution_of, tenant_of
from spanledger.pricing.calculator import usage_from_totals
from spanledger.providers import Provider, Request, Response, anthropic, google, openai
from spanledger.runtime.guard import log, quietly
from spanledger.runtime.untrusted_json import Json, label, mapping
from spanledger.semconv import attributes as a

PROVIDER_BY_MODULE: Final[dict[str, Provider]] = {"openai": openai, "anthropic": anthropic, "google": google}
"""First part of a response class's module -> the provider module that reads it."""
PROVIDER_BY_NAME: Final[dict[str, Provider]] = {
    "openai": openai,
    "anthropic": anthropic,
    "gcp.gemini": google,
    "gcp.vertex_ai": google,
}


SAME_SDK: Final = (
    ("openai", "azure.ai.openai"),
    ("gcp.gemini", "gcp.vertex_ai"),
)
"""gen_ai.provider.name of the clients of one SDK, which an answer itself does not state."""


class _ManualProvider:
    """The provider of a manually reported call: returns the response that was passed to `record`."""

    def __init__(self, name: str, response: Response) -> None:
        self.NAME = name
        self._response = response

    def request(self, method: str, path: str, body: object) -> Request | None:  # noqa: ARG002 - the protocol's
        return None

    def fold(self, body: Json, event: Json) -> Json:  # noqa: ARG002 - the protocol's
        return body

    def response(self, body: Json, request: Request | None = None, provider: str = "") -> Response:  # noqa: ARG002 - the protocol's
        return self._response


def record(
    response: Any = None,
    *,
    provider: str | None = None,
    model: str | None = None,
    usage: Mapping[str, int] | None = None,
    response_id: str | None = None,
    operation: str = "chat",
) -> bool:
    """Record one billed response, unless it is recorded already.

    Args:
        response: the answer as the SDK returned it, or as parsed JSON. Read where the OpenAI, Anthropic or Google
            SDK made it, or where `provider` is one of theirs and it is a dict in their format.
        provider: `gen_ai.provider.name`; needed where `response` does not name it.
        model: the model, where the answer does not name it.
        usage: inclusive totals in tokens ({"input": 10, "output": 3, "cache_read": 4, ...} as
            `spanledger.pricing.quote` takes them), where the answer is of no known format.
        response_id: the provider's id of the answer, which keeps it from being counted twice; of an answer that is read, its own
            counts.
        operation: `gen_ai.operation.name`.

    Returns:
        Whether a row was written. Nothing is raised: what cannot be read is logged.
    """
    with quietly("recording by hand"):
        if bootstrap.disabled() or (response is not None and seen_responses.contains_object(response)):
            return False
        reader = _reader(response, provider)
        body = _body(response) if reader else {}
        name = provider or (reader.NAME if reader else None)
        if usage is not None and name is not None:
            reader = _ManualProvider(name, Response(response_id, model, usage=usage_from_totals(usage)))
        if reader is None or name is None:
            log.error(
                "spanledger.record(): %s is no response that is known; give provider, model and usage",
                type(response).__name__,
            )
            return False
        answer = reader.response(body)
        if answer.id is not None and not _is_new(name, answer.id):
            return False
        request = Request(operation, model or answer.model)
        call = Call(bootstrap.tracer(f"spanledger.{name}"), reader, request, name, ("", None))
        admission.charge(call)
        call.body(body)
        call.finish()
        if response is not None:
            seen_responses.add_object(response)
        return True
    return False


PICODOLLAR: Final = Decimal(1).scaleb(-12)
MAX_CHARGE: Final = Decimal(1_000_000)
"""USD: below what no single thing costs."""
MAX_VALUE: Final = Decimal(10**12)
"""USD: below what no outcome is worth; the column's limit."""


def charge(
    vendor: str, amount: Decimal | str | float, *, unit: str = "", quantity: float = 1, charge_id: str | None = None
) -> bool:
    """Record the cost of something that is no model, as a row of the request that is going on: a search, a sandbox, a paid API.

    Args:
        vendor: who charges it, e.g. "tavily"; the row's provider.
        amount: in USD, of all units together, from 0 to below 1,000,000; a string or a Decimal is exact, to the picodollar.
        unit: what was bought, e.g. "search".
        quantity: how many units; above 0.
        charge_id: names the charge within its tenant and vendor: said again by this process, or by another one within the hour, it
            counts once.

    Returns:
        Whether a row was written. Nothing is raised: an amount that is none is logged.
    """
    with quietly("recording a charge"):
        if bootstrap.disabled():
            return False
        usd, name, identity = _amount(amount, MAX_CHARGE), label(vendor), label(charge_id)
        if name is None:
            log.error("spanledger.charge(): %r names no vendor: no row was written", vendor)
            return False
        if usd is None:
            log.error(
                "spanledger.charge(): %r of %r is no amount in USD from 0 to below 1,000,000: no row was written",
                amount,
                name,
            )
            return False
        count = _amount(quantity, MAX_VALUE)
        if not count:
            log.error("spanledger.charge(): %r is no quantity above 0: no row was written", quantity)
            return False
        tenant = tenant_of(attribution_of(None))
        if identity is not None and not _is_new(name, repr(("charge", tenant, identity))):
            return False
        response = Response(identity, usage=None, job_id=f"charge {identity}" if identity else None)
        call = Call(
            bootstrap.tracer(f"spanledger.{name}"),
            _ManualProvider(name, response),
            Request("charge", label(unit)),
            name,
            ("", None),
        )
        admission.charge(call)
        call.note(a.CHARGE_AMOUNT, format(usd, "f"))
        call.note(a.CHARGE_UNIT, label(unit) or "")
        call.note(a.CHARGE_QUANTITY, format(count.normalize(), "f"))
        call.finish()
        return True
    return False


def _amount(value: object, limit: Decimal) -> Decimal | None:
    """A number from 0 to below a limit, to twelve decimals; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, Decimal | str | int | float):
        return None
    try:
        usd = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        return None
    if not usd.is_finite() or not 0 <= usd < limit:
        return None
    exact = usd.quantize(PICODOLLAR)
    return exact if exact < limit and (exact or not usd) else None


def outcome(
    kind: str,
    outcome_id: str,
    *,
    status: str = "accepted",
    accepted: bool | None = None,
    value_usd: Decimal | str | float | None = None,
    request_id: str | None = None,
    unit_id: str | None = None,
) -> bool:
    """Say what became of a request or a unit of work: a ticket was solved, a document was rejected.

    It may be said long after the request, by any process, and again: the last statement about an `outcome_id` counts. The view
    `cost_per_outcome` has what an accepted outcome costs, with all retries and failures.

    Args:
        kind: of the thing, e.g. "ticket".
        outcome_id: the application's name of the thing, unique within its kind and tenant.
        status: a word for what became of it.
        accepted: whether it is what the work was for, True or False; default: whether `status` is "accepted".
        value_usd: what it is worth in USD, from 0 to below 10**12, where that is known; what is none is logged, and left out.
        request_id: the request whose calls it cost; default: the one that is going on.
        unit_id: the unit of work, where that is no request.

    Returns:
        Whether it was recorded. Nothing is raised.
    """
    with quietly("recording an outcome"):
        if bootstrap.disabled():
            return False
        if label(kind) is None or label(outcome_id) is None:
            log.error("spanledger.outcome(): %r %r is not an outcome: it needs a kind and an id", kind, outcome_id)
            return False
        if not isinstance(cast("object", accepted), bool | None):
            log.error("spanledger.outcome(): accepted=%r is neither True nor False: nothing was recorded", accepted)
            return False
        worth = _amount(value_usd, MAX_VALUE)
        if value_usd is not None and worth is None:
            log.error("spanledger.outcome(): %r is no value in USD: %s %s has none", value_usd, kind, outcome_id)
        facts: dict[str, Any] = {
            a.MARKER: "outcome",
            a.OUTCOME_KIND: label(kind),
            a.OUTCOME_ID: label(outcome_id),
            a.OUTCOME_STATUS: label(status) or "",
            a.OUTCOME_ACCEPTED: status == "accepted" if accepted is None else accepted,
        }
        if worth is not None:
            facts[a.OUTCOME_VALUE] = format(worth, "f")
        context = None
        if request_id is not None or unit_id is not None:
            context = Context()
            for name, value in ((a.REQUEST_ID, request_id), (a.UNIT_ID, unit_id)):
                context = baggage.set_baggage(name, value, context) if value is not None else context
            tenant = tenant_of(attribution_of(None))
            context = baggage.set_baggage(a.TENANT_ID, tenant, context) if tenant else context
        span = bootstrap.tracer("spanledger.outcome").start_span(
            "spanledger.outcome", context, SpanKind.INTERNAL, facts
        )
        span.end()
        return True
    return False


def _is_new(name: str, identity: str) -> bool:
    """Whether this response is new under every provider name that a client of the same SDK may use."""
    names = next((same for same in SAME_SDK if name in same), (name,))
    met = [seen_responses.add_if_new(alias, identity) for alias in names]  # every name learns of it
    return all(met)


def _reader(response: Any, provider: str | None) -> Provider | None:
    if isinstance(response, Mapping):
        return PROVIDER_BY_NAME.get(provider or "")
    return PROVIDER_BY_MODULE.get(type(response).__module__.partition(".")[0])


def _body(response: Any) -> Json:
    if isinstance(response, Mapping):
        return dict(cast("Mapping[str, object]", response))
    return mapping(response.model_dump(mode="json", by_alias=True, exclude_none=True, warnings=False))
