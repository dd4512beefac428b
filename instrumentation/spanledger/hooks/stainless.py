"""Patches the OpenAI and Anthropic SDKs: two copies of the same generated client (Stainless).

Patched, in `<package>._base_client` (same signatures in openai >= 1.40 and anthropic >= 0.39):

- `{Sync,Async}APIClient.request`: the caller's context, the logical path, failures;
- `BaseClient._build_request`: each attempt; `include_usage` for OpenAI's chat streams;
- `{Sync,Async}APIClient._sleep_for_retry`: what became of an attempt;
- `{Sync,Async}APIClient._process_response`: one successful HTTP response, one `Call`;
- `BaseClient._process_response_data`: every parsed body and every parsed stream event.

A peer may have wrapped `request` on a subclass (OpenInference and Logfire do); then ours goes around theirs.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType, TracebackType
from typing import Any, Final, cast

from opentelemetry import context as otel_context
from opentelemetry.trace import Tracer

from spanledger.capture import admission
from spanledger.capture.call import Call, Sending, seen_responses
from spanledger.capture.result_files import ResultFile
from spanledger.context.llm_call import outbound, reached_network
from spanledger.hooks.answer_headers import answer_headers
from spanledger.hooks.patching import Hooks, Patches
from spanledger.hooks.response_body import MAX_JSON, Followed, followed, observe
from spanledger.hooks.sse import SseTap
from spanledger.providers import Provider, Request
from spanledger.runtime import notices
from spanledger.runtime.guard import quietly
from spanledger.runtime.untrusted_json import Json, mapping, parse_json
from spanledger.semconv import provider_hosts

HOOKS: Final[Hooks] = {
    "BaseClient": {
        "_build_request": ("options",),
        "_process_response_data": ("data", "cast_to", "response"),
    },
    "SyncAPIClient": {
        "request": ("cast_to", "options"),
        "_process_response": ("cast_to", "options", "response", "stream", "stream_cls"),
    },
    "AsyncAPIClient": {
        "request": ("cast_to", "options"),
        "_process_response": ("cast_to", "options", "response", "stream", "stream_cls"),
    },
}
AZURE: Final = ("azure.ai.openai", "azure.ai.inference")
USAGE_HOSTS: Final = {"openai", *AZURE}
"""Providers known to accept `stream_options.include_usage` (openai 3.57 chat_completion_stream_options_param)."""

AZURE_SINCE: Final = "2024-09-01"
"""Azure's first api-version with `stream_options`: 2024-09-01-preview; the ones before answer 400
(https://learn.microsoft.com/azure/ai-services/openai/api-version-deprecation)."""

RAW_HEADER: Final = "x-stainless-raw-response"
REFUSED_PARAMETER: Final = 400, 422
"""Statuses with which servers refuse a parameter that they do not know."""
MAX_KNOWN: Final = 10_000
REENCODED: Final = ("gzip", "identity")
"""Content encodings in which a stream can be passed on without the usage that only we asked for."""

_current_call: ContextVar[Call | None] = ContextVar("spanledger_call", default=None)
_current_options: ContextVar[Any] = ContextVar("spanledger_options", default=None)
"""The options of the request that `_current` belongs to."""


class StainlessPatches(Patches):
    """Patches one SDK's `_base_client`."""

    def __init__(
        self, base_client: ModuleType, provider: Provider, tracer: Callable[[], Tracer], usage_hosts: frozenset[str]
    ) -> None:
        """`tracer` is asked at each call, so a provider set late is found; `usage_hosts` are further
        hosts whose chat streams may be asked for usage."""
        super().__init__()
        self._module = base_client
        self._provider = provider
        self._tracer = tracer
        self._usage_hosts = usage_hosts
        self._refusing_hosts: set[str] = set()
        """Hosts that have refused `stream_options`, and answered without."""
        self._refusing: set[tuple[str, str | None]] = set()
        """(host, model) that have."""
        self._accepting: set[tuple[str, str | None]] = set()
        """(host, model) that have answered a request with `stream_options` from us; bounded by MAX_KNOWN."""

    def install(self) -> None:
        base, sync, asynchronous = (getattr(self._module, name) for name in HOOKS)
        for cls in _classes_with_request(sync):
            self.patch(cls, "request", self._request)
        for cls in _classes_with_request(asynchronous):
            self.patch(cls, "request", self._request_async)
        self.patch(base, "_build_request", self._build_request)
        self.patch(base, "_process_response_data", self._process_response_data)
        self.patch(sync, "_process_response", self._process_response)
        self.patch(asynchronous, "_process_response", self._process_response_async)
        for client in (sync, asynchronous):
            if hasattr(client, "_sleep_for_retry"):
                self.patch(client, "_sleep_for_retry", self._sleep_for_retry)

    # --- the logical call -----------------------------------------------------------------------

    def _begin(self, client: Any, options: Any) -> Call | None:
        with quietly("beginning a call"):
            if _current_options.get() is options:
                return None  # the same request, on its way through another class's `request`
            request = self._provider.request(options.method, options.url, _body(options))
            return self._call(client, request) if request else None
        return None

    def _call(self, client: Any, request: Request) -> Call:
        url = client.base_url
        server_entry = client.__dict__.get("_spanledger_server")
        if server_entry is None or server_entry[0] is not url:
            server_entry = client.__dict__["_spanledger_server"] = (
                url,
                _server(url, provider_of_client(client) or self._provider.NAME),
            )
        name, server = server_entry[1]
        return Call(self._tracer(), self._provider, request, name, server, otel_context.get_current())

    def _request(self, original: Any) -> Any:
        def request(client: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
            call = self._begin(client, options)
            if call is None:
                with outbound():
                    return original(client, cast_to, options, *args, **kwargs)
            admitted_options = _admit_options(client, call, options)
            with _Sending(call, admitted_options, client):
                try:
                    return _end_unsent(call, original(client, cast_to, admitted_options, *args, **kwargs))
                except Exception as error:
                    if not self._may_refuse_stream_options(client, call, error):
                        raise
                answer = original(client, cast_to, admitted_options, *args, **kwargs)
                self._note_refusal(client, call)
                return _end_unsent(call, answer)

        return request

    def _request_async(self, original: Any) -> Any:
        async def request(client: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
            call = self._begin(client, options)
            if call is None:
                with outbound():
                    return await original(client, cast_to, options, *args, **kwargs)
            admitted_options = _admit_options(client, call, options)
            with _Sending(call, admitted_options, client):
                try:
                    return _end_unsent(call, await original(client, cast_to, admitted_options, *args, **kwargs))
                except Exception as error:
                    if not self._may_refuse_stream_options(client, call, error):
                        raise
                answer = await original(client, cast_to, admitted_options, *args, **kwargs)
                self._note_refusal(client, call)
                return _end_unsent(call, answer)

        return request

    # --- attempts ----------------------------------------------------------------------------------

    def _build_request(self, original: Any) -> Any:
        def build_request(client: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
            call = _current_call.get()
            with quietly("preparing an attempt"):
                if call is not None:
                    call.start_attempt()
                    self._enable_stream_usage(client, call, options)
            request = original(client, options, *args, **kwargs)
            if call is not None and call.hides_usage:
                with quietly("preparing an attempt"):
                    _restrict_encodings(request.headers)
            return request

        return build_request

    def _enable_stream_usage(self, client: Any, call: Call, options: Any) -> None:
        """Set `include_usage` on an OpenAI chat stream, unless the caller set it."""
        request = call.request
        if not request.stream or request.include_usage is not None or self._provider.NAME != "openai":
            return
        body: Any = options.json_data
        if not isinstance(body, dict) or request.operation != "chat" or "messages" not in body:
            return
        host = client.base_url.host
        if provider_hosts.provider_for_host(host) not in USAGE_HOSTS and host not in self._usage_hosts:
            call.unasked_host = host
            return
        if not call.asks_usage or host in self._refusing_hosts or (host, request.model) in self._refusing:
            return
        if not _accepts_stream_options(client, options):
            return
        name = "extra_json" if "stream_options" in mapping(options.extra_json) else "json_data"  # what counts
        fields = mapping(getattr(options, name))
        stream_options = {**mapping(fields, "stream_options"), "include_usage": True}
        setattr(options, name, {**fields, "stream_options": stream_options})
        call.hides_usage = True

    def _may_refuse_stream_options(self, client: Any, call: Call, error: Exception) -> bool:
        """Whether a request may have failed for what we put into it; then it is sent as it was, once.

        The message of a refusal may quote the application's own text: what an error says of another parameter, or what
        a host says that has accepted `stream_options`, is meant for the application.
        """
        with quietly("reading a refusal"):
            status = getattr(error, "status_code", None)
            if not call.hides_usage or status not in REFUSED_PARAMETER or "stream_options" not in str(error):
                return False
            parameter = getattr(error, "param", None)
            if parameter is None:
                if (client.base_url.host, call.request.model) in self._accepting:
                    return False
            elif "stream_options" not in str(parameter):
                return False
            call.record_retry(status)
            call.hides_usage, call.asks_usage = False, False
            return True
        return False

    def _note_refusal(self, client: Any, call: Call) -> None:
        """A request was answered only after `stream_options` was taken out: so are they from all that follow.

        Of a host that has accepted them for another model, only from those for this one.
        """
        with quietly("noting a refusal"):
            host = client.base_url.host
            if len(self._refusing) < MAX_KNOWN:
                self._refusing.add((host, call.request.model))
            if not any(known == host for known, _ in self._accepting):
                self._refusing_hosts.add(host)
            notices.add(
                f"{host} refuses stream_options: its chat streams state no usage, so they have no tokens and no price"
            )

    def _note_acceptance(self, host: str, model: str | None) -> None:
        if len(self._accepting) < MAX_KNOWN:
            self._accepting.add((host, model))

    def _sleep_for_retry(self, original: Any) -> Any:
        def sleep_for_retry(client: Any, *args: Any, **kwargs: Any) -> Any:
            call = _current_call.get()
            if call is not None:
                with quietly("recording an attempt"):
                    response = kwargs.get("response")
                    call.record_retry(None if response is None else response.status_code, sys.exc_info()[1])
            return original(client, *args, **kwargs)

        return sleep_for_retry

    # --- answers -------------------------------------------------------------------------------------

    def _call_for_response(self, client: Any, options: Any, response: Any, stream: bool) -> Call | None:
        """The call that this HTTP response belongs to; None where it is not billed or already known."""
        with quietly("reading a response"):
            if response.status_code >= 400:
                return None
            call, known = _current_call.get(), followed(response)
            if known is not None and (call is None or known.call is call):
                return None
            if call is None:
                call = self._begin(client, options)
            elif call.answered:
                call = call.sibling()
            if call is None:
                return None
            call.answered = True
            if call.hides_usage:
                self._note_acceptance(client.base_url.host, call.request.model)
            call.project, call.answer_id, call.is_stored, call.gateway_cost, call.is_gateways = answer_headers(response)
            call.is_local = not reached_network(response)
            if not stream and hasattr(response, "_content"):
                response._spanledger = Followed(call, whole=True)
                if _is_events(response):
                    _read_events(response, call)
            else:
                events = stream or _is_events(response)  # speech is streamed without `stream`
                observe(response, call, sse=events, scan=not stream or bool(response.request.headers.get(RAW_HEADER)))
            return call
        return None

    def _finish_buffered(self, response: Any) -> None:
        """End the call of a body that is already in memory; any other ends when its response is closed."""
        state = followed(response)
        if state is not None and state.whole:
            if not state.call.has_body:
                with quietly("reading a response"):
                    _read_body(response, state.call)
            state.call.finish()

    def _process_response(self, original: Any) -> Any:
        def process_response(client: Any, **kwargs: Any) -> Any:
            response = kwargs["response"]
            call = self._call_for_response(client, kwargs["options"], response, kwargs["stream"])
            if call is None:
                return original(client, **kwargs)
            try:
                answer = original(client, **kwargs)
                seen_responses.add_object(answer)
                return answer
            finally:
                self._finish_buffered(response)

        return process_response

    def _process_response_async(self, original: Any) -> Any:
        async def process_response(client: Any, **kwargs: Any) -> Any:
            response = kwargs["response"]
            call = self._call_for_response(client, kwargs["options"], response, kwargs["stream"])
            if call is None:
                return await original(client, **kwargs)
            try:
                answer = await original(client, **kwargs)
                seen_responses.add_object(answer)
                return answer
            finally:
                self._finish_buffered(response)

        return process_response

    def _process_response_data(self, original: Any) -> Any:
        def process_response_data(client: Any, *, data: Any, cast_to: Any, response: Any) -> Any:
            state = followed(response)
            if state is not None:
                if state.whole:
                    state.call.body(data)
                else:
                    with quietly("reading an event"):
                        state.call.feed(data)
            return original(client, data=data, cast_to=cast_to, response=response)

        return process_response_data


PROVIDER_OF_CLASS: Final = {
    "AnthropicBedrock": "aws.bedrock",
    "AnthropicBedrockMantle": "aws.bedrock",
    "AnthropicVertex": "gcp.vertex_ai",
    "AnthropicFoundry": "azure.ai.inference",
    "AzureOpenAI": "azure.ai.openai",
    "BedrockOpenAI": "aws.bedrock",
}
"""Class of an SDK's client (without Async) -> who serves it, also behind a host that is not known."""


def provider_of_client(client: object) -> str | None:
    """Who serves a client by its class; None where its host alone says so."""
    names = (cls.__name__.removeprefix("Async") for cls in type(client).__mro__)
    return next((PROVIDER_OF_CLASS[name] for name in names if name in PROVIDER_OF_CLASS), None)


def _server(url: Any, default: str) -> tuple[str, tuple[str, int | None]]:
    """(provider, (host, port)) of a base URL; asked once a client, the properties of a URL are slow."""
    return provider_hosts.provider_for_host(url.host, url.port) or default, (url.host, url.port)


def _accepts_stream_options(client: Any, options: Any) -> bool:
    """Whether `stream_options` is accepted in this request: by Azure not always, by everybody else.

    Azure refuses it before an api-version, and outside its v1 API (where the api-version is left out, "preview" or
    "latest") without one. "On your data" bodies, with `data_sources`, are Azure's alone, and accept it nowhere.
    """
    if "data_sources" in mapping(_body(options)):
        return False
    query = {**mapping(dict(client.base_url.params)), **mapping(client.default_query), **mapping(options.params)}
    version = query.get("api-version")
    provider = provider_hosts.provider_for_host(client.base_url.host)
    if provider == "azure.ai.inference" and "/openai/" not in client.base_url.path:
        return False  # another API than Azure OpenAI's, at the same host
    if (version is None and provider not in AZURE) or "/openai/v1" in client.base_url.path:
        return True
    return isinstance(version, str) and version[:1].isdigit() and version >= AZURE_SINCE


def _classes_with_request(cls: type) -> list[type]:
    """`cls`, and those of its subclasses that have a `request` of their own."""
    classes = [cls]
    for subclass in cls.__subclasses__():
        classes += [owner for owner in _classes_with_request(subclass) if "request" in owner.__dict__]
    return classes


def _body(options: Any) -> Any:
    """What is asked; what `extra_body` says goes."""
    body: Any = options.json_data
    return {**cast("Json", body), **options.extra_json} if options.extra_json and isinstance(body, dict) else body


def _admit_options(client: Any, call: Call, options: Any) -> Any:
    """The options to send: the caller's, or a copy with another model. Raises BudgetExceeded."""
    if admission.enforcing_limiter() is None:
        return options
    sent = options
    model_fields = [name for name in ("json_data", "extra_json") if "model" in mapping(getattr(options, name, None))]

    def replace_model(model: str) -> None:
        nonlocal sent
        sent = copy.copy(options)  # the caller may use his own again
        for name in model_fields:
            setattr(sent, name, {**mapping(getattr(options, name)), "model": model})

    fixed = not model_fields or "/deployments/" in str(client.base_url)  # Azure: the address says the model
    files = len(getattr(options, "files", None) or ())
    admission.admit(call, _body(options), None if fixed else replace_model, files)
    return sent


class _Sending(Sending):
    """The call is visible to the inner hooks, too, while the SDK sends."""

    __slots__ = ("_client", "_options", "_options_token", "_token")

    def __init__(self, call: Call, options: Any, client: Any) -> None:
        super().__init__(call)
        self._options = options
        self._client = client

    def __enter__(self) -> None:
        self._token = _current_call.set(self._call)
        self._options_token = _current_options.set(self._options)
        super().__enter__()
        self._call.claim(getattr(self._client, "_client", None), self._options.url)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        _current_options.reset(self._options_token)
        _current_call.reset(self._token)

    def status(self, error: BaseException) -> int | None:
        status = getattr(error, "status_code", None)
        return status if isinstance(status, int) else None


def _restrict_encodings(headers: Any) -> None:
    """Accept only what can be passed on without the usage that only we asked for, should the caller read the raw bytes."""
    if headers.get(RAW_HEADER) == "stream":
        accepted = [encoding.strip() for encoding in headers.get("accept-encoding", "").split(",")]
        kept = [encoding for encoding in accepted if encoding.partition(";")[0].lower() in REENCODED]
        if kept != accepted:
            headers["accept-encoding"] = ", ".join(kept) or "identity"


def _end_unsent(call: Call, answer: Any) -> Any:
    """End a call that the SDK has answered without an HTTP response: by a middleware that keeps answers."""
    if not call.answered:
        with quietly("reading a stored answer"):
            call.is_stored = not reached_network()  # else the answer is one that no hook has seen
            response = getattr(answer, "http_response", None)
            if response is not None:
                _read_body(response, call)
            elif hasattr(answer, "model_dump"):
                call.body(answer.model_dump(mode="json", by_alias=True, exclude_none=True, warnings=False))
        call.finish()
    return answer


def _is_events(response: Any) -> bool:
    return "event-stream" in response.headers.get("content-type", "")


def _read_events(response: Any, call: Call) -> None:
    """Read a stream that the caller gets as one body in memory."""
    tap = SseTap(call.read, scan=True, hide=call.hides_usage)
    passed = tap.feed(response.content) + tap.remainder()
    if tap.hides:
        response._content = passed


def _read_body(response: Any, call: Call) -> None:
    if call.request.is_json_lines:
        file = ResultFile(call)
        file.feed(response.content)
        file.end(complete=True)
    elif "json" in response.headers.get("content-type", "") and len(response.content) <= MAX_JSON:
        call.body(parse_json(response.content))
