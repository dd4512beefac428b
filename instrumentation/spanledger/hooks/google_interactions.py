"""Patches google-genai's second client: interactions, decisions, voices (`google.genai._gaos`, from 2.18 on).

Patched: `BaseSDK.do_request` and `AsyncBaseSDK.do_request_async`, which every operation of that generated client
passes with a built httpx request. Its own retries happen inside, so they are seen as one attempt.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.trace import Tracer

from spanledger.capture import admission
from spanledger.capture.call import Call
from spanledger.context.llm_call import outbound
from spanledger.hooks.google import GoogleSending, InFlightCall
from spanledger.hooks.patching import Hooks, Patches
from spanledger.hooks.response_body import observe
from spanledger.providers import Provider
from spanledger.runtime.guard import quietly
from spanledger.runtime.untrusted_json import mapping, parse_json
from spanledger.semconv import provider_hosts

HOOKS: Final[Hooks] = {
    "BaseSDK": {"do_request": ("hook_ctx", "request", "stream")},
    "AsyncBaseSDK": {"do_request_async": ("hook_ctx", "request", "stream")},
}


class GoogleInteractionsPatches(Patches):
    """Patches `google.genai._gaos.basesdk`."""

    def __init__(self, provider: Provider, tracer: Callable[[], Tracer]) -> None:
        super().__init__()
        self._provider = provider
        self._tracer = tracer

    def install(self, basesdk: ModuleType) -> None:
        self.patch(basesdk.BaseSDK, "do_request", self._do_request)
        self.patch(basesdk.AsyncBaseSDK, "do_request_async", self._do_request_async)

    def _begin(self, request: Any) -> InFlightCall | None:
        with quietly("beginning a call"):
            llm_request = self._provider.request(request.method, str(request.url), parse_json(request.content))
            if llm_request is None:
                return None
            server = request.url.host, request.url.port
            name = provider_hosts.provider_for_host(*server) or self._provider.NAME
            return InFlightCall(
                Call(self._tracer(), self._provider, llm_request, name, server, otel_context.get_current())
            )
        return None

    def _do_request(self, original: Any) -> Any:
        def do_request(sdk: Any, hook_ctx: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            sent = self._begin(request)
            if sent is None:
                with outbound():
                    return original(sdk, hook_ctx, request, *args, **kwargs)
            outgoing = _OutgoingRequest(request)
            admission.admit(sent.call, request.content, outgoing.replace_model if sent.call.request.model else None)
            with GoogleSending(sent):
                response = original(sdk, hook_ctx, outgoing.request, *args, **kwargs)
            _read_response(sent.call, response)
            return response

        return do_request

    def _do_request_async(self, original: Any) -> Any:
        async def do_request_async(sdk: Any, hook_ctx: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            sent = self._begin(request)
            if sent is None:
                with outbound():
                    return await original(sdk, hook_ctx, request, *args, **kwargs)
            outgoing = _OutgoingRequest(request)
            admission.admit(sent.call, request.content, outgoing.replace_model if sent.call.request.model else None)
            with GoogleSending(sent):
                response = await original(sdk, hook_ctx, outgoing.request, *args, **kwargs)
            _read_response(sent.call, response)
            return response

        return do_request_async


class _OutgoingRequest:
    """A built httpx request whose model can be replaced, which builds a new request."""

    __slots__ = ("request",)

    def __init__(self, request: Any) -> None:
        self.request = request

    def replace_model(self, model: str) -> None:
        body = mapping(parse_json(self.request.content))
        request, headers = self.request, self.request.headers.copy()
        headers.pop("content-length", None)
        content = json.dumps({**body, "model": model}).encode()
        self.request = type(request)(
            request.method, request.url, headers=headers, content=content, extensions=request.extensions
        )


def _read_response(call: Call, response: Any) -> None:
    with quietly("reading a response"):
        if "event-stream" in response.headers.get("content-type", ""):
            observe(response, call, sse=True, scan=True)
        elif hasattr(response, "_content"):
            call.body(parse_json(response.content))
            call.finish()
        else:
            observe(response, call, sse=False, scan=False)
