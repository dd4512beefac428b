"""The instrumentors that `opentelemetry-instrument` loads: each patches its SDK when the SDK is imported.

An SDK that is not installed raises ModuleNotFoundError, which the loader treats as "not applicable
to this application". One that is installed is patched when the application imports it, not before, so that
start-up costs nothing. A release that lacks a patched function is logged as an error and left unpatched.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection
from functools import partial
from importlib import metadata
from types import ModuleType
from typing import Any

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.trace import Tracer

from spanledger import bootstrap
from spanledger.hooks import google as google_hooks
from spanledger.hooks import google_interactions, http_clients, stainless, websockets
from spanledger.hooks.patching import Hooks, Patches, missing
from spanledger.providers import Provider, anthropic, google, openai
from spanledger.runtime import settings
from spanledger.runtime.guard import log, quietly


class _Instrumentor(BaseInstrumentor):
    """An instrumentor of one SDK."""

    library = ""
    module = ""
    minimum = ""

    def instrumentation_dependencies(self) -> Collection[str]:
        """The releases that are supported; nothing where the SDK's metadata is missing, as in a frozen application."""
        try:
            metadata.version(self.library)
        except metadata.PackageNotFoundError:
            if _is_importable(self.module):
                return ()
        return (f"{self.library} >= {self.minimum}",)

    def _on_import(self, module: str, patch: Any) -> None:
        def ready(sdk_module: ModuleType) -> None:
            if self.is_instrumented_by_opentelemetry:
                with quietly(f"instrumenting {self.library}"):
                    patch(sdk_module)

        self._is_instrumented_by_opentelemetry = True  # the hook may run at once, before instrument() says so
        wrapt.register_post_import_hook(ready, module)

    def _is_supported(self, lacking: list[str]) -> bool:
        if lacking:
            log.error(
                "this release of %s lacks %s: its calls are NOT recorded. Upgrade spanledger, or see `spanledger doctor`.",
                self.library,
                ", ".join(lacking),
            )
        return not lacking


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor the package that it would be in
        return False


class _StainlessInstrumentor(_Instrumentor):
    """OpenAI and Anthropic: the same generated client."""

    provider: Provider

    def _instrument(self, **kwargs: Any) -> None:
        if bootstrap.disabled():
            return
        if importlib.util.find_spec(self.library) is None:
            raise ModuleNotFoundError(f"{self.library} is not installed")
        scope = f"spanledger.{self.library}"
        tracer_provider = kwargs.get("tracer_provider")
        hosts = frozenset(h.strip() for h in (settings.setting("include_usage_hosts") or "").split(",") if h.strip())

        def patch(base_client: ModuleType) -> None:
            if self._is_supported(missing(base_client, stainless.HOOKS)):
                self._patches = stainless.StainlessPatches(
                    base_client, self.provider, lambda: bootstrap.tracer(scope, tracer_provider), hosts
                )
                self._patches.install()

        self._patches: stainless.StainlessPatches | None = None
        self._on_import(f"{self.library}._base_client", patch)

    def _uninstrument(self, **_: Any) -> None:
        if self._patches is not None:
            self._patches.remove()


class OpenAIInstrumentor(_StainlessInstrumentor):
    """Records every billed call of the `openai` package, websockets included."""

    library = module = "openai"
    minimum = "1.40"
    provider = openai

    def _instrument(self, **kwargs: Any) -> None:
        super()._instrument(**kwargs)
        if bootstrap.disabled():
            return
        tracer_provider = kwargs.get("tracer_provider")
        self._websocket_patches = websockets.WebSocketPatches(
            openai, lambda: bootstrap.tracer("spanledger.openai", tracer_provider), "api.openai.com"
        )
        for module in websockets.OPENAI_MODULES:
            self._on_import(module, self._websocket_patches.install_openai)

    def _uninstrument(self, **kwargs: Any) -> None:
        super()._uninstrument(**kwargs)
        self._websocket_patches.remove()


class AnthropicInstrumentor(_StainlessInstrumentor):
    """Records every billed call of the `anthropic` package."""

    library = module = "anthropic"
    minimum = "0.39"
    provider = anthropic


class GoogleGenAIInstrumentor(_Instrumentor):
    """Records every billed call of the `google-genai` package."""

    library = "google-genai"
    module = "google.genai"
    minimum = "1.20"

    def _instrument(self, **kwargs: Any) -> None:
        if bootstrap.disabled():
            return
        if importlib.util.find_spec("google") is None or importlib.util.find_spec("google.genai") is None:
            raise ModuleNotFoundError("google-genai is not installed")
        tracer_provider = kwargs.get("tracer_provider")

        def tracer() -> Tracer:
            return bootstrap.tracer("spanledger.google_genai", tracer_provider)

        client_patches = google_hooks.GooglePatches(google, tracer)
        interaction_patches = google_interactions.GoogleInteractionsPatches(google, tracer)
        live_patches = websockets.WebSocketPatches(google, tracer, "generativelanguage.googleapis.com")
        self._patches: list[Patches] = [client_patches, interaction_patches, live_patches]

        def patch_copied_client(base_client: ModuleType) -> None:
            """From 1.55 to 2.0 interactions had a copy of the Stainless client of their own."""
            copied_client_patches = stainless.StainlessPatches(base_client, google, tracer, frozenset())
            copied_client_patches.install()
            self._patches.append(copied_client_patches)

        self._patch_on_import("google.genai._api_client", google_hooks.HOOKS, client_patches.install)
        self._patch_on_import("google.genai._gaos.basesdk", google_interactions.HOOKS, interaction_patches.install)
        self._patch_on_import("google.genai._interactions._base_client", stainless.HOOKS, patch_copied_client)
        self._on_import(websockets.GOOGLE_MODULE, live_patches.install_google)
        for module in google_hooks.STREAMS:
            self._on_import(module, client_patches.keep_caller_context)

    def _patch_on_import(self, module: str, hooks: Hooks, install: Callable[[ModuleType], None]) -> None:
        """Patch a module when it is imported, if it has every function that the patches need."""

        def patch(sdk_module: ModuleType) -> None:
            if self._is_supported(missing(sdk_module, hooks)):
                install(sdk_module)

        self._on_import(module, patch)

    def _uninstrument(self, **_: Any) -> None:
        for patches in self._patches:
            patches.remove()


class HTTPInstrumentor(_Instrumentor):
    """Records calls that programs make without an SDK, and distinguishes answers of caches from those of providers."""

    library = "HTTP clients"

    def instrumentation_dependencies(self) -> Collection[str]:
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        if bootstrap.disabled():
            return
        tracer_provider = kwargs.get("tracer_provider")
        self._patches = http_clients.HttpPatches(
            lambda: bootstrap.tracer("spanledger.http", tracer_provider), observe=not settings.disabled("observe_http")
        )
        for module, hooks in http_clients.HOOKS.items():
            self._on_import(module, partial(self._install, hooks))

    def _install(self, hooks: Hooks, module: ModuleType) -> None:
        lacking = missing(module, hooks)
        if lacking:
            log.error(
                "this release of %s lacks %s: calls through it without an SDK are NOT recorded. See `spanledger doctor`.",
                module.__name__,
                ", ".join(lacking),
            )
        else:
            self._patches.install(module)

    def _uninstrument(self, **_: Any) -> None:
        self._patches.remove()


def instrumented_sdks() -> list[str]:
    """The SDKs whose calls are recorded in this process once they are imported."""
    if bootstrap.disabled():
        return []
    instrumentors = (OpenAIInstrumentor(), AnthropicInstrumentor(), GoogleGenAIInstrumentor())
    return [instrumentor.library for instrumentor in instrumentors if instrumentor.is_instrumented_by_opentelemetry]
