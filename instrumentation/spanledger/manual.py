"""Manual recording: `spanledger.record()` writes a row for a call that is not instrumented.

A response that the instrumentation has already recorded is not recorded again: it is recognised by object identity
(held weakly), or by provider and response id. So code that logged its calls before Spanledger came can stay as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from spanledger import bootstrap
from spanledger.capture import admission
from spanledger.capture.call import Call, seen_responses
from spanledger.pricing.calculator import usage_from_totals
from spanledger.providers import Provider, Request, Response, anthropic, google, openai
from spanledger.runtime.guard import log, quietly
from spanledger.runtime.untrusted_json import Json, mapping

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

    NAME = "told"

    def __init__(self, response: Response) -> None:
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
        response_id: the provider's id of the answer, which keeps it from being counted twice.
        operation: `gen_ai.operation.name`.

    Returns:
        Whether a row was written. Nothing is raised: what cannot be read is logged.
    """
    with quietly("recording by hand"):
        if bootstrap.disabled() or (response is not None and seen_responses.contains_object(response)):
            return False
        reader = _reader(response, provider)
        body = _body(response) if reader else {}
        if usage is None and reader is None:
            log.error(
                "spanledger.record(): %s is no response that is known; give provider, model and usage",
                type(response).__name__,
            )
            return False
        if usage is not None:
            reader = _ManualProvider(Response(response_id, model, usage=usage_from_totals(usage)))
        elif reader is None:
            return False
        answer = reader.response(body)
        name = provider or reader.NAME
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
