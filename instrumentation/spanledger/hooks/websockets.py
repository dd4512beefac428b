"""Patches WebSocket connections: OpenAI's realtime, responses and live sockets, Google's live sessions.

They do not pass the SDKs' HTTP functions. Patched is the one method that each connection class receives its
messages by: `recv_bytes` of OpenAI's classes (iteration and `recv()` go through it; openai 3.57
`resources/realtime/realtime.py`), `_receive` of Google's `AsyncSession`. One row for each message that bills
something; what it belongs to (the session's model) is kept on the connection. The bytes are only looked
into where they can hold usage or a session. Where limits are enforced, a session asks when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, Protocol

from opentelemetry.context import Context
from opentelemetry.trace import Tracer

from spanledger.capture import admission
from spanledger.capture.call import Call
from spanledger.context.open_scopes import kept
from spanledger.hooks.patching import Patches
from spanledger.providers import Provider, Request, google_live, openai_socket
from spanledger.runtime.guard import quietly
from spanledger.runtime.untrusted_json import Json, mapping, parse_json

OPENAI_MODULES: Final = {
    "openai.resources.realtime.realtime": ("RealtimeConnection", "AsyncRealtimeConnection"),
    "openai.resources.beta.realtime.realtime": ("RealtimeConnection", "AsyncRealtimeConnection"),
    "openai.resources.realtime.translations.translations": ("TranslationsConnection", "AsyncTranslationsConnection"),
    "openai.resources.responses.responses": ("ResponsesConnection", "AsyncResponsesConnection"),
    "openai.resources.beta.responses.responses": ("ResponsesConnection", "AsyncResponsesConnection"),
    "openai.resources.live.live": ("LiveConnection", "AsyncLiveConnection"),
    "openai.resources.live.sideband": ("SidebandConnection", "AsyncSidebandConnection"),
    "openai.resources.live.forks": ("ForksConnection", "AsyncForksConnection"),
}
"""Module -> the connection classes in it."""
GOOGLE_MODULE: Final = "google.genai.live"


class _SocketReader(Protocol):
    """Reader of a socket's messages: the interface of a `providers` module."""

    def is_relevant(self, message: bytes) -> bool: ...
    def billed_responses(self, session: Json, event: Json) -> list[tuple[Request, Json]]: ...


class _ConnectionState:
    """State of a connection: its session, and the context in which it was opened."""

    def __init__(self, context: Context, model: str | None = None) -> None:
        self.context = context
        self.session: Json = {"model": model} if model else {}


class WebSocketPatches(Patches):
    """Patches the connection classes of one SDK."""

    def __init__(self, provider: Provider, tracer: Callable[[], Tracer], host: str) -> None:
        super().__init__()
        self._provider = provider
        self._tracer = tracer
        self._host = host

    def install_openai(self, module: ModuleType) -> None:
        for name in OPENAI_MODULES[module.__name__]:
            cls, manager = getattr(module, name, None), getattr(module, f"{name}Manager", None)
            asynchronous = name.startswith("Async")
            if cls is not None and "recv_bytes" in cls.__dict__:
                self.patch(cls, "recv_bytes", self._recv_async if asynchronous else self._recv)
            for opening in ("__aenter__" if asynchronous else "__enter__", "enter"):
                if manager is not None and opening in manager.__dict__:
                    self.patch(manager, opening, self._open_async if asynchronous else self._open)

    def install_google(self, module: ModuleType) -> None:
        if "_receive" in module.AsyncSession.__dict__ and "connect" in module.AsyncLive.__dict__:
            self.patch(module.AsyncLive, "connect", self._connect)
            self.patch(module.AsyncSession, "_receive", self._receive)

    def _admit(self, model: str) -> None:
        """Run admission control for a session; raises BudgetExceeded."""

        def begin(request: Request) -> Call:
            return Call(self._tracer(), self._provider, request, self._provider.NAME, (self._host, None))

        admission.admit_session(begin, model)

    def _open(self, original: Any) -> Any:
        def enter(manager: Any) -> Any:
            self._admit(_model(manager))
            return original(manager)

        return enter

    def _open_async(self, original: Any) -> Any:
        async def enter(manager: Any) -> Any:
            self._admit(_model(manager))
            return await original(manager)

        return enter

    def _recv(self, original: Any) -> Any:
        def recv_bytes(connection: Any) -> Any:
            message = original(connection)
            self._read_message(connection, message, openai_socket)
            return message

        return recv_bytes

    def _recv_async(self, original: Any) -> Any:
        async def recv_bytes(connection: Any) -> Any:
            message = await original(connection)
            self._read_message(connection, message, openai_socket)
            return message

        return recv_bytes

    def _read_message(self, connection: Any, message: bytes | str, reader: _SocketReader) -> None:
        with quietly("reading a message"):
            data = message.encode() if isinstance(message, str) else message
            if reader.is_relevant(data):
                self._record_event(connection, mapping(parse_json(data)), reader)

    def _record_event(self, connection: Any, event: Json, reader: _SocketReader) -> None:
        state = connection.__dict__.get("_spanledger")
        if state is None:
            state = connection.__dict__["_spanledger"] = _ConnectionState(kept())
        for request, body in reader.billed_responses(state.session, event):
            call = Call(self._tracer(), self._provider, request, self._provider.NAME, (self._host, None), state.context)
            admission.charge(call)
            call.body(body)
            call.finish()

    # --- Google ---------------------------------------------------------------------------------------------

    def _connect(self, original: Any) -> Any:
        def connect(live: Any, *args: Any, **kwargs: Any) -> Any:
            return _AdmittedConnect(original(live, *args, **kwargs), str(kwargs.get("model") or ""), self._admit)

        return connect

    def _receive(self, original: Any) -> Any:
        async def receive(session: Any) -> Any:
            message = await original(session)
            with quietly("reading a message"):
                metadata = getattr(message, "usage_metadata", None)
                if metadata is not None:
                    usage = metadata.model_dump(mode="json", by_alias=True, exclude_none=True)
                    self._record_event(session, {"usageMetadata": usage}, google_live)
            return message

        return receive


def _model(manager: Any) -> str:
    """The model that a connection is asked for with (openai 3.57: a private attribute of each class of managers)."""
    model = getattr(manager, f"_{type(manager).__name__}__model", "")
    return model if isinstance(model, str) else ""


class _AdmittedConnect:
    """Wraps `async with client.aio.live.connect(model=...)`: admits the session and stores its model."""

    def __init__(self, inner: Any, model: str, admit: Callable[[str], None]) -> None:
        self._inner = inner
        self._model = model
        self._admit = admit

    async def __aenter__(self) -> Any:
        self._admit(self._model)
        session = await self._inner.__aenter__()
        with quietly("beginning a session"):
            session.__dict__["_spanledger"] = _ConnectionState(kept(), self._model)
        return session

    async def __aexit__(self, *exception: object) -> Any:
        return await self._inner.__aexit__(*exception)
