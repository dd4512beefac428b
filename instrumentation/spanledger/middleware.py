"""Middleware that sets attribution (user, feature, tenant) in OpenTelemetry baggage: ASGI, WSGI, Django, Celery.

    app.add_middleware(spanledger.middleware.AsgiAttribution, user="x-user", routes={"/summarize": "summarize"})

Each is a few lines around a `Scope`: whoever sets the same baggage keys in middleware of their own gets the
same rows. A rule is named for its dimension (`user`, `tenant`, `tier`, ...). It is the name of a header, or a function
of the request. A header is trusted: name only headers that your own gateway sets. `feature` also comes from `routes`,
by the longest matching prefix of the path.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, cast

from opentelemetry import context as otel_context
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter

from spanledger.context.baggage import budget_dimensions, is_missing
from spanledger.context.open_scopes import SCOPE_KEY, Current, OpenScope, contains, current, in_scope
from spanledger.context.scopes import Scope, attribution
from spanledger.runtime.guard import quietly
from spanledger.semconv import attributes as a
from spanledger.semconv.dimensions import DIMENSIONS, Attribution

Source = str | Callable[[Any], str | None] | None
"""The name of a header, or a function of the request, or None."""

REQUEST_ID: Final = "x-request-id"


class AttributionRules:
    """Rules that extract the attribution of a request from its headers, its path or a function."""

    def __init__(
        self, *, routes: Mapping[str, str] | None = None, request_id: Source = REQUEST_ID, **sources: Source
    ) -> None:
        """Rules, each named for its dimension.

        Args:
            routes: prefix of the path -> feature, for requests to which the rule `feature` gives none; the longest
                prefix counts.
            request_id: the rule of the request id; without a value it is a random one, so that the calls of a request
                can always be summed.
            sources: the rule of each other dimension (user, feature, tenant, ... as in `spanledger.attribution`).

        Raises:
            TypeError: a keyword is not a dimension.
        """
        if unknown := sources.keys() - DIMENSIONS.keys():
            raise TypeError(f"{', '.join(sorted(unknown))}: not a dimension; use {', '.join(DIMENSIONS)}, or routes")
        self._sources = {"request_id": request_id, **sources}
        self._routes = sorted((routes or {}).items(), key=lambda route: -len(route[0]))

    def scope(self, request: Any, path: str, header: Callable[[str], str | None]) -> Scope:
        """The attribution of a request; a dimension whose rule fails is left out, and the failure is logged."""
        values: dict[str, str | None] = {}
        for name, source in self._sources.items():
            with quietly(f"reading the {name} of a request"):
                value = header(source) if isinstance(source, str) else source(request) if source else None
                values[name] = None if value is None else "" if is_missing(value) else str(value)
        if is_missing(values.get("feature")) and (route := self._route(path)) is not None:
            values["feature"] = route
        if is_missing(values.get("request_id")):
            values["request_id"] = secrets.token_hex(8)
        return attribution(**cast("Attribution", values))

    def _route(self, path: str) -> str | None:
        for prefix, feature in self._routes:
            if path == prefix or path.startswith(prefix.rstrip("/") + "/"):
                return feature
        return None


def _decoded_again(value: str) -> str:
    """A header's value as WSGI has it: bytes as Latin-1, unless the server has decoded it."""
    try:
        return _decoded(value.encode("latin-1"))
    except UnicodeEncodeError:
        return value


def _decoded(value: bytes) -> str:
    """A header's value, which most programs send as UTF-8; Latin-1 reads anything."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class AsgiAttribution:
    """ASGI middleware (FastAPI, Starlette, ...): streaming responses and background tasks included.

    A rule that is a function is given the ASGI scope.
    """

    def __init__(self, app: Any, **rules: Any) -> None:
        self._app = app
        self._rules = AttributionRules(**rules)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): _decoded(value) for key, value in scope.get("headers", ())}
        with self._rules.scope(scope, scope.get("path", ""), lambda name: headers.get(name.lower())):
            await self._app(scope, receive, send)


class WsgiAttribution:
    """WSGI middleware (Flask: `app.wsgi_app = WsgiAttribution(app.wsgi_app, ...)`), streamed bodies included.

    A rule that is a function is given the WSGI environ.
    """

    def __init__(self, app: Any, **rules: Any) -> None:
        self._app = app
        self._rules = AttributionRules(**rules)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        def header(name: str) -> str | None:
            value = environ.get(f"HTTP_{name.upper().replace('-', '_')}")
            return None if value is None else _decoded_again(value)

        scope, context = self._rules.scope(environ, environ.get("PATH_INFO", ""), header).open()
        token = otel_context.attach(context)
        try:
            body = self._app(environ, start_response)
            context = otel_context.get_current()  # with the server span that the application may have opened
        except BaseException:
            scope.close()
            raise
        finally:
            otel_context.detach(token)
        return _ContextBoundBody(body, context, scope)


class _ContextBoundBody:
    """A response body that is iterated in the context of its request, which is over with it."""

    def __init__(self, body: Iterable[bytes], context: Context, scope: OpenScope) -> None:
        self._body = body
        self._parts = iter(body)
        self._context = context
        self._scope = scope

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = otel_context.attach(self._context)
        try:
            return next(self._parts)
        except BaseException:
            self._scope.close()
            raise
        finally:
            otel_context.detach(token)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        try:
            if close is not None:
                close()
        finally:
            self._scope.close()


class _AsyncContextBoundBody:
    """The asynchronous twin of `_ContextBoundBody`: Django gives its server an iterator, after the middleware."""

    def __init__(self, body: Any, context: Context, scope: OpenScope) -> None:
        self._parts = aiter(body)
        self._context = context
        self._scope = scope

    def __aiter__(self) -> _AsyncContextBoundBody:
        return self

    async def __anext__(self) -> bytes:
        token = otel_context.attach(self._context)
        try:
            return await anext(self._parts)
        except BaseException:
            self._scope.close()
            raise
        finally:
            otel_context.detach(token)

    async def aclose(self) -> None:
        self._scope.close()
        close = getattr(self._parts, "aclose", None)
        if close is not None:
            await close()


def django_attribution(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Django middleware: `"spanledger.middleware.django_attribution"` in MIDDLEWARE, after authentication.

    The rules are `SPANLEDGER = {"user": ..., "routes": ...}` in the settings; without one, the user is the
    primary key of `request.user`. A rule that is a function is given the request.
    """
    import inspect

    from django.conf import settings as django_settings  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

    configured: dict[str, Any] = dict(getattr(django_settings, "SPANLEDGER", {}))  # pyright: ignore[reportUnknownArgumentType]
    configured.setdefault("user", _django_user)
    rules = AttributionRules(**configured)

    def begin(request: Any) -> tuple[OpenScope, Context]:
        def header(name: str) -> str | None:
            value = request.headers.get(name)
            return None if value is None else _decoded_again(value)

        return rules.scope(request, request.path, header).open()

    def end(response: Any, scope: OpenScope) -> Any:
        """The request is over, unless its body is still to be made."""
        if not getattr(response, "streaming", False):
            scope.close()
            return response
        bound = _AsyncContextBoundBody if getattr(response, "is_async", False) else _ContextBoundBody
        response.streaming_content = bound(response.streaming_content, otel_context.get_current(), scope)
        return response

    if inspect.iscoroutinefunction(get_response):

        async def asynchronous(request: Any) -> Any:
            scope, context = begin(request)
            token = otel_context.attach(context)
            try:
                return end(await get_response(request), scope)
            except BaseException:
                scope.close()
                raise
            finally:
                otel_context.detach(token)

        from asgiref.sync import markcoroutinefunction  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

        markcoroutinefunction(asynchronous)
        return asynchronous

    def synchronous(request: Any) -> Any:
        scope, context = begin(request)
        token = otel_context.attach(context)
        try:
            return end(get_response(request), scope)
        except BaseException:
            scope.close()
            raise
        finally:
            otel_context.detach(token)

    return synchronous


django_attribution.sync_capable = True  # pyright: ignore[reportFunctionMemberAccess]
django_attribution.async_capable = True  # pyright: ignore[reportFunctionMemberAccess]


def _django_user(request: Any) -> str | None:
    user = getattr(request, "user", None)
    return str(user.pk) if user is not None and getattr(user, "is_authenticated", False) else None


CELERY_HEADER: Final = "spanledger"
"""Key of a Celery message's headers."""


class _MessageGetter(Getter[Any]):
    """Reads a broker's message, which only our own services write (propagation.BROKERS)."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        value = carrier.get(key)
        return [value] if isinstance(value, str) else None

    def keys(self, carrier: Any) -> list[str]:
        return list(carrier)


class _MessageSetter(Setter[Any]):
    """Writes such a message."""

    def set(self, carrier: Any, key: str, value: str) -> None:
        carrier[key] = value


def _scope_of_task(said: Current, *, is_eager: bool) -> OpenScope:
    """The scope of a task: what its message says, and once it is over, nothing; of an eager one, within its caller's."""
    if is_eager:
        return OpenScope({}, said, is_request=True)
    return OpenScope(said.entries, Current({}, None, None, is_stale=False), is_request=True)


def celery_attribution(*, feature: Callable[[str], str | None] | None = None) -> None:
    """Propagate attribution (and the trace) from the sender of a Celery task to the worker that runs it.

    Call it once where the Celery application is made, in producers and workers. With OpenTelemetry's own
    Celery instrumentation it is not needed, but harmless.

    Args:
        feature: names the feature of tasks that were sent without one, from the task's name.
    """
    from celery import signals  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

    celery_signals: Any = signals
    begun: dict[str, tuple[OpenScope, Any]] = {}

    def publish(headers: dict[str, Any] | None = None, **_: Any) -> None:
        with quietly("sending a task's attribution"):
            if headers is not None:
                carrier: dict[str, str] = {}
                propagate.inject(carrier, setter=_MessageSetter())
                headers[CELERY_HEADER] = carrier

    def begin(task_id: str = "", task: Any = None, **_: Any) -> None:
        with quietly("receiving a task's attribution"):
            context = otel_context.get_current()
            if not task.request.is_eager:  # else it is a function that runs where it was called
                carrier: Any = getattr(task.request, CELERY_HEADER, None) or {}
                context = propagate.extract(carrier, context, _MessageGetter())
            with quietly("naming the feature of a task"):
                if feature is not None and a.FEATURE not in budget_dimensions(context):
                    context = attribution(feature=feature(task.name)).context(context)
            scope = _scope_of_task(current(context), is_eager=task.request.is_eager)
            token = otel_context.attach(in_scope(context, scope))
            begun[task_id] = scope, token

    def end(task_id: str = "", **_: Any) -> None:
        scope, token = begun.pop(task_id, (None, None))
        if scope is not None and token is not None:
            scope.close()
            if contains(
                cast("Any", otel_context.get_current().get(SCOPE_KEY)), scope
            ):  # else OpenTelemetry's instrumentation has left it before
                otel_context.detach(token)

    celery_signals.before_task_publish.connect(publish, weak=False, dispatch_uid="spanledger")
    celery_signals.task_prerun.connect(begin, weak=False, dispatch_uid="spanledger")
    celery_signals.task_postrun.connect(end, weak=False, dispatch_uid="spanledger")
